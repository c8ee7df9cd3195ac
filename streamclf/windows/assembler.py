"""Chunks of one stream -> bank slots and complete windows; the same live and offline."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from engines.arrays import I32
from streamclf.windows.sampling import ChunkMeta, WindowTracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A complete window: its bank slots, (T,) int32 oldest first, and the sum of its chunks' bookkeeping.

    Media times in nanoseconds; `captured_ns` is CLOCK_MONOTONIC of the newest frame.
    """

    slots: I32
    start_pts_ns: int
    end_pts_ns: int
    captured_ns: int
    segment: int
    frames: int
    duplicates: int
    corrupt: int


class WindowAssembler:
    """Gives each chunk a bank slot and says which window it completes.

    Slots are taken in turn from `slots` of them, beginning at `first_slot`; with `chunks + n - 1` slots, n chunks can
    be encoded in one batch before any of their windows is classified. That holds where chunks are `reused`, too: they
    take no slot, so the features of a window are among the last `chunks` that were encoded.
    """

    def __init__(self, *, chunks: int, hop: int, slots: int, first_slot: int = 0) -> None:
        if slots < chunks:
            raise ValueError(f"slots={slots}: at least {chunks}, a whole window")
        self._tracker = WindowTracker(chunks=chunks, hop=hop)
        self._recent: deque[tuple[int, ChunkMeta]] = deque(maxlen=chunks)
        self._slots = slots
        self._first_slot = first_slot
        self.encoded = 0
        """Chunks that have a slot of their own; the newest one's holds its feature until `slots` more have one."""

    @property
    def run(self) -> int:
        """Chunks placed so far that follow each other without a gap."""
        return self._tracker.run

    def ahead(self) -> int:
        """Chunks up to the next one that completes a window: see `WindowTracker.ahead`."""
        return self._tracker.ahead()

    def set_hop(self, hop: int, phase: int = 0) -> None:
        """From the next chunk on, windows come every `hop` chunks, `phase` later than they would."""
        self._tracker.hop, self._tracker.phase = hop, phase

    def wants(self, meta: ChunkMeta) -> bool:
        """Whether a window may hold the next chunk; if not, it may be skipped."""
        return self._tracker.wants(meta.segment, meta.index)

    def skip(self) -> None:
        """The next chunk is not placed."""
        self._tracker.skip()

    def place(self, meta: ChunkMeta, *, reused: bool = False) -> tuple[int, Window | None]:
        """The slot for the feature of the next chunk, and the window that ends with it, if one does.

        `reused`: its feature is that of the last chunk that was not, which lies in its slot already.
        """
        self.encoded += not reused
        slot = self._first_slot + (self.encoded - 1) % self._slots
        self._recent.append((slot, meta))
        complete = self._tracker.offer(meta.segment, meta.index) is not None
        return slot, self._window() if complete else None

    def _window(self) -> Window:
        metas = [meta for _, meta in self._recent]
        return Window(
            slots=np.fromiter((slot for slot, _ in self._recent), np.int32, len(metas)),
            start_pts_ns=metas[0].start_pts_ns,
            end_pts_ns=metas[-1].end_pts_ns,
            captured_ns=metas[-1].captured_ns,
            segment=metas[-1].segment,
            frames=sum(meta.frames for meta in metas),
            duplicates=sum(meta.duplicates for meta in metas),
            corrupt=sum(meta.corrupt for meta in metas),
        )

"""Assign bank slots to the chunks of one stream and assemble complete windows; the same live and offline."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from engines.arrays import I32
from streamclf.windows.sampling import ChunkMeta
from streamclf.windows.window_tracker import WindowTracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A complete window: its bank slots, (T,) int32 oldest first, and its chunks' metadata, summed up.

    Media times are in nanoseconds. `captured_ns` is CLOCK_MONOTONIC of the newest frame.
    """

    slots: I32
    start_pts_ns: int
    end_pts_ns: int
    captured_ns: int
    segment: int
    frames: int
    duplicates: int
    corrupt: int
    fast: int = 0


class WindowAssembler:
    """Assign a bank slot to each chunk and return each window that a chunk completes.

    The assembler uses `slots` bank slots in rotation, beginning with `first_slot`. With `chunks + n - 1` slots, n
    chunks can be encoded in one batch before any of their windows is classified. `reused` chunks keep that true:
    they need no slot of their own, so a window's features are always among the last `chunks` encoded ones.
    """

    def __init__(self, *, chunks: int, hop: int, slots: int, first_slot: int = 0) -> None:
        if slots < chunks:
            raise ValueError(f"slots={slots}: at least {chunks}, a whole window")
        self._tracker = WindowTracker(chunks=chunks, hop=hop)
        self._recent: deque[tuple[int, ChunkMeta]] = deque(maxlen=chunks)
        self._slots = slots
        self._first_slot = first_slot
        self.encoded = 0
        """Chunks with a slot of their own. The newest keeps its feature until `slots` more chunks have one."""

    @property
    def run(self) -> int:
        """Number of the latest chunks that follow each other without a gap."""
        return self._tracker.run

    def chunks_until_window(self) -> int:
        """Return the number of chunks until the next window: see `WindowTracker.chunks_until_window`."""
        return self._tracker.chunks_until_window()

    def set_hop(self, hop: int, phase: int = 0) -> None:
        """From the next chunk on, complete a window every `hop` chunks, `phase` chunks later than without a phase."""
        self._tracker.hop, self._tracker.phase = hop, phase

    def needs(self, meta: ChunkMeta) -> bool:
        """Return whether a window may contain the next chunk; if not, the caller may skip it."""
        return self._tracker.needs(meta.segment, meta.index)

    def skip(self) -> None:
        """Record that the next chunk is not placed."""
        self._tracker.skip()

    def place(self, meta: ChunkMeta, *, reused: bool = False) -> tuple[int, Window | None]:
        """Return the slot for the next chunk's feature, and the window that ends with the chunk, if any.

        `reused`: the chunk shares the feature, and the slot, of the last chunk that was encoded.
        """
        self.encoded += not reused
        slot = self._first_slot + (self.encoded - 1) % self._slots
        self._recent.append((slot, meta))
        complete = self._tracker.push(meta.segment, meta.index) is not None
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
            fast=sum(meta.fast for meta in metas),
        )

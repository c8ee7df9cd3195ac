"""Classify the windows of consecutive chunks of a film, or of frames that a program pushes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from engines.arrays import F32, I32, U8
from engines.bundle import ModelSpec
from streamclf.units import NS
from streamclf.windows.assembler import Window, WindowAssembler
from streamclf.windows.sampling import ChunkMeta

ShortClipFill: TypeAlias = Literal["hold", "loop", "stretch"]
"""How a clip fills a window that is longer: its last frame is held, it is repeated, or it is stretched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """One classified window, its media time in seconds; `probabilities` is (K,) float32.

    `short_clip`: how a clip that is shorter than a window was made to fill this one; None for longer ones. `segment`:
    the number of its segment, which only grows. `fast`: not all of its frames were decoded exactly.
    """

    start_s: float
    end_s: float
    probabilities: F32
    short_clip: ShortClipFill | None = None
    segment: int = 1
    fast: bool = False


def offline_bank_slots(spec: ModelSpec, max_batch: int) -> int:
    """Return the bank slots for one window and a batch that must not overwrite it."""
    return spec.chunks + max_batch - 1


class WindowEngine(Protocol):
    """The part of an `engines.protocol.Engine` that films need."""

    spec: ModelSpec
    max_batch: int

    def encode(self, frames: U8, slots: I32) -> None:
        """See `Engine.encode`."""

    def classify(self, windows: I32) -> F32:
        """See `Engine.classify`."""


class WindowClassifier:
    """Classify the windows of consecutive chunks. While an image is held, nothing is computed again.

    Several engines of one group share the encoder of the first: each chunk is encoded once for all of them.
    """

    def __init__(self, engine: WindowEngine, hop: int, *, heads: Sequence[WindowEngine] = ()) -> None:
        """`engine` encodes. `heads` classify, by default `engine` alone."""
        spec = engine.spec
        self._engine = engine
        self._heads = [_HeadResults(head) for head in heads or (engine,)]
        self._assembler = WindowAssembler(chunks=spec.chunks, hop=hop, slots=offline_bank_slots(spec, engine.max_batch))
        self._before: ChunkMeta | None = None

    def classify(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> Iterator[WindowResult]:
        """Encode a batch of chunks, and yield the windows that end in it, of the first head."""
        windows = self._encode(batch)
        yield from self._heads[0].of(windows)

    def classify_windows(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> Iterator[tuple[Window, WindowResult]]:
        """Do as `classify`, and yield each window, too. Its bank slots keep their features until the next batch."""
        windows = self._encode(batch)
        yield from zip(windows, self._heads[0].of(windows), strict=True)

    def classify_with_all(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> list[list[WindowResult]]:
        """Encode a batch of chunks, and return the windows that end in it, for each head."""
        windows = self._encode(batch)
        return [list(head.of(windows)) for head in self._heads]

    def _encode(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> list[Window]:
        slots: list[int] = []
        pixels: list[U8] = []
        windows: list[Window] = []
        for meta, chunk in batch:
            is_same = self._is_same(meta)
            slot, window = self._assembler.place(meta, reused=is_same)
            if not is_same:
                slots.append(slot)
                pixels.append(chunk)
            if window is not None:
                windows.append(window)
        if slots:
            self._engine.encode(np.stack(pixels), np.array(slots, np.int32))
        return windows

    def _is_same(self, meta: ChunkMeta) -> bool:
        """Return whether all frames of this chunk, and of the one before it, are the same image."""
        before, self._before = self._before, meta
        return (
            before is not None
            and (before.segment, before.index + 1) == (meta.segment, meta.index)
            and before.duplicates == before.frames
            and meta.duplicates == meta.frames
        )


class _HeadResults:
    """The results of one head. A window of one image that is held has the probabilities of the window before."""

    def __init__(self, engine: WindowEngine) -> None:
        self._engine = engine
        self._held: tuple[int, F32] | None = None  # of a window of one image: its chunks' only slot, its probabilities

    def of(self, windows: Sequence[Window]) -> Iterator[WindowResult]:
        """Classify the windows of one batch."""
        single = [int(window.slots[0]) if (window.slots == window.slots[0]).all() else None for window in windows]
        before = [None if self._held is None else self._held[0], *single]
        is_held = [slot is not None and slot == before[place] for place, slot in enumerate(single)]
        new = [window.slots for window, held in zip(windows, is_held, strict=True) if not held]
        rows = iter(self._engine.classify(np.stack(new)) if new else ())
        for window, slot, held in zip(windows, single, is_held, strict=True):
            row = self._held[1] if held and self._held is not None else next(rows)
            self._held = None if slot is None else (slot, row)
            yield WindowResult(
                start_s=window.start_pts_ns / NS,
                end_s=window.end_pts_ns / NS,
                probabilities=row,
                segment=window.segment,
                fast=window.fast > 0,
            )


def classify_window(engine: WindowEngine, chunks: U8) -> F32:
    """Classify one window of chunks (T, t, H, W, 3) -> (K,)."""
    slots = np.arange(len(chunks), dtype=np.int32)
    for first in range(0, len(chunks), engine.max_batch):
        part = slice(first, first + engine.max_batch)
        engine.encode(np.ascontiguousarray(chunks[part]), slots[part])
    row: F32 = engine.classify(slots[None])[0]
    return row

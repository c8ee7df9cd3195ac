"""Keep the longest segment of a clip, with the frames of its last, unfinished chunk, which a stream drops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.arrays import U8
from streamclf.windows.sampling import ChunkMeta, ChunkSampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment of a clip: `frames` (F, H, W, 3) uint8 RGB, and the media time of the first one."""

    frames: U8
    start_ns: int


class SegmentSink:
    """A sink of chunks that keeps the longest segment, of two equally long ones the first."""

    def __init__(self, sampler: ChunkSampler, shape: tuple[int, int, int, int]) -> None:
        """Keep chunks of `shape`, (t, H, W, 3), which `sampler` makes."""
        self._sampler, self._shape = sampler, shape
        self._longest: Segment | None = None
        self._chunks: list[U8] = []
        self._buffer: U8 | None = None
        self._segment = self._start_ns = self._abandoned = 0
        self.duplicates = 0

    def begin(self) -> U8:
        """Return the buffer of a new chunk. If a segment's end left the last chunk unfinished, keep its frames."""
        sampler = self._sampler
        self._keep(sampler.dropped_partial - self._abandoned)
        self._abandoned = sampler.dropped_partial
        if sampler.segment != self._segment:
            self._finish()
            self._segment, self._start_ns = sampler.segment, sampler.segment_start_ns
        self._buffer = np.empty(self._shape, np.uint8)
        return self._buffer

    def commit(self, chunk: ChunkMeta) -> int:
        """Keep the current chunk, which is full."""
        self._keep(chunk.frames)
        self.duplicates += chunk.duplicates
        return 0

    def longest(self) -> Segment | None:
        """Return the longest segment, after the last frame of the file; None if no frame was sampled."""
        sampler = self._sampler
        self._keep((sampler.sampled - sampler.dropped_partial) % self._shape[0])
        self._finish()
        return self._longest

    def _keep(self, frames: int) -> None:
        if self._buffer is not None and frames:
            self._chunks.append(self._buffer[:frames])
        self._buffer = None

    def _finish(self) -> None:
        chunks, self._chunks = self._chunks, []
        length = sum(len(chunk) for chunk in chunks)
        if length > (0 if self._longest is None else len(self._longest.frames)):
            self._longest = Segment(frames=np.concatenate(chunks), start_ns=self._start_ns)

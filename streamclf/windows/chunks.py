"""Frames -> pixels of chunks, in place. The same for the live service, for offline classification and for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from engines.arrays import U8
from streamclf.sources.frame import Frame, Source
from streamclf.sources.resize import Resize
from streamclf.windows.sampling import ChunkMeta, ChunkSampler, Pick


class ChunkSink(Protocol):
    """Where chunks go: `streamclf.windows.ring.RingWriter`, for instance."""

    def begin(self) -> U8:
        """The place of the next chunk, (t, H, W, 3) uint8 RGB; one begun again was abandoned."""

    def commit(self, chunk: ChunkMeta) -> int:
        """The chunk begun last is complete."""


class ChunkBuilder:
    """Gives every frame to the sampler and renders those it wants, straight into the sink's memory."""

    def __init__(self, sampler: ChunkSampler, sink: ChunkSink, *, height: int, width: int, resize: Resize) -> None:
        self._sampler = sampler
        self._sink = sink
        self._height, self._width, self._resize = height, width, resize
        self._previous: Frame | None = None
        self._place: U8 | None = None

    def may_want(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """Whether a frame may be put into a chunk: see `streamclf.sources.frame_skipping.Interest`."""
        return self._sampler.may_want(before_ns, at_ns, after_ns, longest_ns)

    def may_look_back(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """Whether a frame may bring the one before it into a chunk."""
        return self._sampler.may_look_back(before_ns, at_ns, shortest_ns)

    def offer(self, frame: Frame, *, discontinuity: bool = False) -> int:
        """Take the next frame; how many chunks it completed."""
        return self.fill(self.choose(frame, discontinuity=discontinuity))

    def choose(self, frame: Frame, *, discontinuity: bool = False) -> Sequence[tuple[Pick, Frame]]:
        """Take the next frame; what is to be put into chunks now, by `fill`: nothing, most of the time."""
        is_new = discontinuity or frame.discontinuity
        # What was skipped was not to be wanted. Where a stall or damage has made it so after all, it is a picture lost.
        if frame.picture is None and self._sampler.foresee(frame.pts_ns, discontinuity=is_new).current:
            return ()
        previous = self._previous
        if previous is not None and previous.picture is None:
            is_new = is_new or self._sampler.foresee(frame.pts_ns).previous > 0
        picks = self._sampler.offer(
            frame.pts_ns, frame.captured_ns, corrupt=frame.corrupt, broken=frame.broken, discontinuity=is_new
        )
        # Of two pictures of one instant the sampler keeps the first; kept undecoded to RGB, it costs nothing.
        if previous is None or is_new or frame.pts_ns != previous.pts_ns:
            self._previous = frame
        if not picks:
            return ()
        chosen = []
        for pick in picks:
            assert previous is not None or not pick.previous  # the sampler has seen it
            chosen.append((pick, previous if previous is not None and pick.previous else frame))
        return chosen

    def fill(self, chosen: Sequence[tuple[Pick, Frame]]) -> int:
        """Put frames into chunks; how many chunks that completes."""
        completed = 0
        for pick, frame in chosen:
            if pick.position == 0 or self._place is None:
                self._place = self._sink.begin()
            if pick.duplicate and pick.position > 0:
                self._place[pick.position] = self._place[pick.position - 1]
            else:
                frame.to_rgb(self._height, self._width, self._resize, out=self._place[pick.position])
            if pick.chunk is not None:
                self._sink.commit(pick.chunk)
                completed += 1
        return completed


def read_chunks(
    source: Source, *, fps: float, frames_per_chunk: int, height: int, width: int, resize: Resize
) -> Iterator[tuple[ChunkMeta, U8]]:
    """All chunks of `source`, each with its own (t, H, W, 3) uint8 RGB array."""
    sink = _Collected((frames_per_chunk, height, width, 3))
    filler = ChunkBuilder(ChunkSampler(fps, frames_per_chunk), sink, height=height, width=width, resize=resize)
    source.heed(filler)
    for frame in source:
        filler.offer(frame)
        yield from sink.take()


class _Collected:
    """A sink that keeps what was committed until it is taken."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._shape = shape
        self._place = np.empty(shape, np.uint8)
        self._chunks: list[tuple[ChunkMeta, U8]] = []

    def begin(self) -> U8:
        self._place = np.empty(self._shape, np.uint8)
        return self._place

    def commit(self, chunk: ChunkMeta) -> int:
        self._chunks.append((chunk, self._place))
        return len(self._chunks) - 1

    def take(self) -> list[tuple[ChunkMeta, U8]]:
        chunks, self._chunks = self._chunks, []
        return chunks

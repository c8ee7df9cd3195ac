"""Sample frames at the model's rate, and group them into chunks. Pure: no I/O, no pixels and no clock.

Capture, offline classification and training all sample through this module, so a window means the same
everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from streamclf.units import NS
from streamclf.windows.time_grid import PointCounts, Sampler, exact_fps


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMeta:
    """The metadata of one chunk.

    Chunks of a segment abut: `end_pts_ns` is the next chunk's `start_pts_ns`. `captured_ns` is CLOCK_MONOTONIC of the
    chunk's newest frame. The chunk has `frames` sampled frames; `duplicates` of them repeat the frame before, `corrupt`
    of them are damaged, and `fast` of them were decoded fast, not exactly.
    """

    segment: int
    index: int
    start_pts_ns: int
    end_pts_ns: int
    captured_ns: int
    frames: int
    duplicates: int
    corrupt: int
    fast: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlacement:
    """An instruction to put a frame at `position` (0 to t - 1) of the current chunk.

    `previous`: put the frame before the one just pushed. `duplicate`: the frame is the same as at the position before.
    `chunk`: the metadata of the chunk that this placement completes, if it does.
    """

    position: int
    previous: bool
    duplicate: bool
    chunk: ChunkMeta | None


class _LastFrame(NamedTuple):
    pts_ns: int
    captured_ns: int
    corrupt: bool
    fast: bool
    points: int  # grid points of this segment that it has filled


class ChunkSampler:
    """Sample frames at `fps` and group every `frames_per_chunk` of them into a chunk.

    Counters for the stream's status: `completed` chunks; `sampled` frames put into chunks; `dropped_partial`, the
    sampled frames in chunks that the end of their segment left incomplete; `dropped_corrupt`, the broken frames beyond
    one chunk's length, which end the segment.

    Frames that are only predicted from a broken one (`corrupt`, not `broken`) are sampled and counted like any other.
    Every loss makes some, up to the next key frame, and a lossy link is no reason to stop classifying.
    """

    def __init__(self, fps: float, frames_per_chunk: int, *, first_segment: int = 1) -> None:
        rate = exact_fps(fps)
        self._frames_per_chunk = frames_per_chunk
        self._chunk_ns = int(frames_per_chunk * NS / rate)
        self._sampler = Sampler(rate, self._chunk_ns)
        self._segment = first_segment - 1
        self._point = 0
        self._seen: _LastFrame | None = None
        self._damaged_since_ns: int | None = None
        self._broken = False
        self._newest_ns = 0
        self._duplicates = 0
        self._corrupt = 0
        self._fast = 0
        self.completed = 0
        self.sampled = 0
        self.dropped_partial = 0
        self.dropped_corrupt = 0

    @property
    def segment(self) -> int:
        """Number of the current segment."""
        return self._segment

    @property
    def segment_start_ns(self) -> int:
        """Media time at which the current segment begins."""
        return self._sampler.point_ns(0)

    def push(
        self,
        pts_ns: int,
        captured_ns: int,
        *,
        corrupt: bool = False,
        broken: bool = False,
        discontinuity: bool = False,
        continues: bool = False,
        repeated: bool = False,
        fast: bool = False,
    ) -> tuple[FramePlacement, ...]:
        """Add the next frame. Returns the placements that it causes, in order.

        `continues`: see `Sampler`. `repeated`: the image is that of the frame before. `fast`: it was not decoded
        exactly.
        """
        if not broken:
            self._damaged_since_ns = None
        elif self._too_damaged(pts_ns, discontinuity):
            self.dropped_corrupt += 1
            self._broken = True
            return ()
        counts = self._sampler.push(pts_ns, discontinuity or self._broken, continues)
        self._broken = False
        previous = self._seen
        # The points of this segment that the image fills already.
        is_same = repeated and previous is not None and not counts.new_segment
        shown = previous.points + counts.previous if is_same and previous is not None else 0
        current = _LastFrame(pts_ns, captured_ns, corrupt or broken, fast, shown + counts.current)
        if counts.new_segment:
            self._begin_segment()
        elif previous is not None and pts_ns == previous.pts_ns:
            return ()
        if not (counts.previous or counts.current):
            self._seen = current
            return ()
        placements: list[FramePlacement] = []
        if counts.previous and previous is not None:
            placements += [self._place(previous, True, previous.points > 0 or i > 0) for i in range(counts.previous)]
        placements += [self._place(current, False, shown > 0 or i > 0) for i in range(counts.current)]
        self._seen = current
        return tuple(placements)

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """See `Sampler.may_need`."""
        return self._broken or self._sampler.may_need(before_ns, at_ns, after_ns, longest_ns)

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """See `Sampler.may_need_previous`."""
        return self._broken or self._sampler.may_need_previous(before_ns, at_ns, shortest_ns)

    def peek(self, pts_ns: int, *, discontinuity: bool = False, continues: bool = False) -> PointCounts:
        """Return the point counts that pushing an undamaged frame at `pts_ns` would have, without pushing it."""
        return self._sampler.peek(pts_ns, discontinuity or self._broken, continues)

    def _too_damaged(self, pts_ns: int, discontinuity: bool) -> bool:
        """Return whether the broken frames, this one included, last longer than a chunk."""
        if self._damaged_since_ns is None or discontinuity or pts_ns < self._damaged_since_ns:
            self._damaged_since_ns = pts_ns
        return pts_ns - self._damaged_since_ns > self._chunk_ns

    def _begin_segment(self) -> None:
        self.dropped_partial += self._point % self._frames_per_chunk
        self._segment += 1
        self._point = 0
        self._begin_chunk()

    def _begin_chunk(self) -> None:
        self._newest_ns = self._duplicates = self._corrupt = self._fast = 0

    def _place(self, frame: _LastFrame, is_previous: bool, duplicate: bool) -> FramePlacement:
        position = self._point % self._frames_per_chunk
        self._point += 1
        self._newest_ns = max(self._newest_ns, frame.captured_ns)
        self._duplicates += duplicate
        self._corrupt += frame.corrupt
        self._fast += frame.fast
        self.sampled += 1
        chunk = self._finish() if position == self._frames_per_chunk - 1 else None
        return FramePlacement(position=position, previous=is_previous, duplicate=duplicate, chunk=chunk)

    def _finish(self) -> ChunkMeta:
        chunk = ChunkMeta(
            segment=self._segment,
            index=self._point // self._frames_per_chunk - 1,
            start_pts_ns=self._sampler.point_ns(self._point - self._frames_per_chunk),
            end_pts_ns=self._sampler.point_ns(self._point),
            captured_ns=self._newest_ns,
            frames=self._frames_per_chunk,
            duplicates=self._duplicates,
            corrupt=self._corrupt,
            fast=self._fast,
        )
        self._begin_chunk()
        self.completed += 1
        return chunk

"""Sample frames at the model's rate by their time stamps, and group them into chunks and windows.

This module is pure: it does no I/O and reads no pixels and no clock.

Capture, offline classification and training all sample through this module, so a window means the same
everywhere.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from streamclf.units import NS

INTERVALS = 8
"""The shortest of this many recent frame intervals is the estimate of the next one."""
SLOW_SOURCE_INTERVALS = 2.5
"""In a source slower than the chunk rate, a gap is an interval longer than this many of its own intervals."""
SLOWEST_INTERVAL_NS = 2 * NS
"""A longer interval never counts as a source's own frame interval, so a pause does not raise its limit for gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCounts:
    """The numbers of grid points that the latest frame settles: for the frame before it, then for itself."""

    previous: int
    current: int
    new_segment: bool


NO_POINTS: Final = PointCounts(previous=0, current=0, new_segment=False)
"""The result for most frames, which fill no point: one constant instead of a new object for each frame."""


def exact_fps(fps: float) -> Fraction:
    """Return the exact rate of a rounded one: 29.97002997 is 30000/1001, 0.1 is 1/10."""
    return Fraction(fps).limit_denominator(1001)


class Sampler:
    """Choose the nearest frame for every point of the grid `anchor + k / fps`, as early as possible.

    `anchor` is the time of the segment's first frame. A frame fills the points up to `pts + d/2` at once. `d` is the
    shortest of the last intervals: the next frame is not expected sooner. So regular streams are sampled exactly and
    without any delay. If the next frame comes late, the points that lie nearer to the frame before it are filled with
    the frame before it. A point halfway between two frames takes the earlier frame.

    All times are integer nanoseconds and the grid is exact: it does not drift over days.

    A worked example, fps=10 (points every 100 ms) on a 25 fps camera (frames every 40 ms), d=40 ms:

    | frame at | fills points up to | point filled |
    |---|---|---|
    | 0 ms | 20 ms | 0 |
    | 40 | 60 | none |
    | 80 | 100 | 100 (80 and 120 are equally near: the earlier) |
    | 120, 160 | 140, 180 | none |
    | 200 | 220 | 200 |
    | 240 | 260 | none |
    | 280 is lost, 320 | 340 | 300 (320 is nearer than 240) |

    A segment ends at a `discontinuity`, when time goes backwards, and at a gap. A gap is longer than `gap_ns` (one
    chunk); in a source whose own intervals are longer, it is longer than two and a half of them. Before a frame that
    `continues`, as the frames of a film do, there is no gap.
    """

    def __init__(self, fps: Fraction, gap_ns: int) -> None:
        if fps <= 0 or gap_ns <= 0:
            raise ValueError(f"fps={fps}, gap_ns={gap_ns}: both must be positive")
        self._num = fps.numerator
        self._period = 2 * NS * fps.denominator  # 1 / fps in units of 1 / (2 * num) ns, like all products below
        self._due = 0  # the next point, in these units
        self._gap_ns = gap_ns
        self._intervals: deque[int] = deque(maxlen=INTERVALS)
        self._shortest_ns = 0  # of `_intervals`; 0: none yet
        self._anchor_ns = 0
        self._previous_ns: int | None = None

    def point_ns(self, point: int) -> int:
        """Return the media time of grid point `point` of this segment, rounded to nanoseconds."""
        return self._anchor_ns + (point * self._period + self._num) // (2 * self._num)

    def push(self, pts_ns: int, discontinuity: bool = False, continues: bool = False) -> PointCounts:
        """Add the next frame's time and return how many points it and the frame before it fill now."""
        previous_ns = self._previous_ns
        if previous_ns is None or discontinuity or pts_ns < previous_ns:
            return self._begin(pts_ns)
        interval = pts_ns - previous_ns
        if interval == 0:  # the same time twice: the first frame counts
            return NO_POINTS
        is_gap = not continues and interval > self._gap_ns and interval > int(SLOW_SOURCE_INTERVALS * self._shortest_ns)
        if interval <= SLOWEST_INTERVAL_NS:
            self._intervals.append(interval)
            self._shortest_ns = min(self._intervals)
        if is_gap:
            return self._begin(pts_ns)
        self._previous_ns = pts_ns
        until = self._num * (2 * pts_ns + self._shortest_ns)
        if until < self._due:
            return NO_POINTS
        late = self._points_until(self._num * (previous_ns + pts_ns))  # up to halfway, which is before `until`
        count = self._points_until(until)
        self._due += count * self._period
        return PointCounts(previous=late, current=count - late, new_segment=False)

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """Return whether a frame at `at_ns`, of this segment or the next, may fill a grid point.

        False is certain if the frame before it comes at `before_ns` or later and the next one at `after_ns` or
        sooner. `longest_ns` is the longest interval between frames since the last one pushed.
        """
        if self._previous_ns is None or longest_ns > self._gap_ns:
            return True  # a segment may begin
        # Points before `low` lie nearer to the frame before. Even if it comes late, this frame fills none after `high`.
        low = self._num * (before_ns + at_ns)
        high = self._num * (2 * at_ns + max(at_ns - before_ns, after_ns - at_ns))
        anchor = 2 * self._num * self._anchor_ns
        return (high - anchor) // self._period > (low - anchor) // self._period

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """Return whether a frame at `at_ns` may cause the frame before it, at `before_ns`, to fill another point.

        False is certain if no interval since the last frame pushed is shorter than `shortest_ns`.
        """
        if self._previous_ns is None:
            return True
        shortest_ns = min(shortest_ns, self._shortest_ns)
        low, high = self._num * (2 * before_ns + shortest_ns), self._num * (before_ns + at_ns)
        anchor = 2 * self._num * self._anchor_ns
        return (high - anchor) // self._period > (low - anchor) // self._period

    def peek(self, pts_ns: int, discontinuity: bool = False, continues: bool = False) -> PointCounts:
        """Return the result that `push` would have, without pushing."""
        other = copy.copy(self)
        other._intervals = deque(self._intervals, INTERVALS)
        return other.push(pts_ns, discontinuity, continues)

    def _begin(self, pts_ns: int) -> PointCounts:
        self._anchor_ns = self._previous_ns = pts_ns
        self._due = 2 * self._num * pts_ns + self._period
        # The first frame of a source slower than the grid fills several points, too: the next frame settles them.
        return PointCounts(previous=0, current=1, new_segment=True)

    def _points_until(self, until: int) -> int:
        """Return how many grid points up to the time `until` (in 1 / (2 * num) ns) are not filled yet."""
        return max(0, (until - self._due) // self._period + 1)


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


class WindowTracker:
    """Detect when `chunks` consecutive chunks of one segment make a window, every `hop` chunks.

    Windows of a segment end at its chunks `chunks - 1`, `chunks - 1 + hop`, ... Dropped chunks do not shift them, so
    live and offline classification produce the same windows. A window that lacks a chunk does not exist. `phase` shifts
    all windows of a segment by that many chunks.
    """

    def __init__(self, chunks: int, hop: int = 1) -> None:
        if chunks < 1 or hop < 1:
            raise ValueError(f"chunks={chunks}, hop={hop}: both at least 1")
        self._chunks = chunks
        self.hop = hop
        """May be changed at any time, like `phase`; the next windows follow the new values."""
        self.phase = 0
        self._last: tuple[int, int] | None = None
        self.run = 0
        """Number of the latest chunks that follow each other in one segment."""

    def push(self, segment: int, index: int) -> range | None:
        """Add the next chunk. Returns the chunk indices, in its segment, of the window that it completes, if any."""
        self.run = self.run + 1 if self._last == (segment, index - 1) else 1
        self._last = (segment, index)
        first = index - self._chunks + 1
        if self.run < self._chunks or (first - self.phase) % self.hop:
            return None
        return range(first, index + 1)

    def chunks_until_window(self) -> int:
        """Return how many further chunks complete the next window, if no chunk is missing; 1 if that is unknown."""
        if self._last is None:
            return 1
        need = max(1, self._chunks - self.run)
        first = self._last[1] + need - self._chunks + 1
        return need + (self.phase - first) % self.hop

    def skip(self) -> None:
        """Record that the next chunk is missing."""
        self._last, self.run = None, 0

    def needs(self, segment: int, index: int) -> bool:
        """Return whether a window may contain the next chunk.

        No window contains a chunk that lies between two windows, or in a window that already lacks another chunk.
        """
        into = (index - self.phase) % self.hop  # chunks between the beginning of the last window and this one
        run = self.run if self._last == (segment, index - 1) else 0
        return into < self._chunks and into <= run

"""Timestamps -> frames at the model's rate -> chunks -> windows. Pure: no I/O, no pixels, no clock.

Capture, offline classification and training all sample through this module, so a window means the same everywhere.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

NS = 1_000_000_000
INTERVALS = 8
"""Recent frame intervals whose shortest is taken for the next one."""
SLOW_SOURCE_INTERVALS = 2.5
"""A source slower than the chunk rate has no gap until it misses two of its own frames."""
SLOWEST_INTERVAL_NS = 2 * NS
"""A longer interval is a gap for any source, and never taken for its frame rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """How many grid points the previous frame fills now that this one is here, then how many this one fills."""

    previous: int
    current: int
    new_segment: bool


NOTHING: Final = Picks(previous=0, current=0, new_segment=False)
"""What most frames are wanted for: no other object is made for them."""


def exact_fps(fps: float) -> Fraction:
    """The rate that was meant: 29.97002997 is 30000/1001, 0.1 is 1/10."""
    return Fraction(fps).limit_denominator(1001)


class Sampler:
    """Choose for every point of the grid `anchor + k / fps` the nearest frame, as early as that is known.

    `anchor` is the segment's first frame. A frame fills the points up to `pts + d/2` at once, where `d`, the shortest
    of the last intervals, is the earliest that the next frame can be expected: so regular streams are sampled without
    any delay, and exactly. Points that turn out to lie nearer to the previous frame than to the one that came late
    are then filled from the previous one. A point halfway between two frames takes the earlier.

    All times are integer nanoseconds and the grid is exact: nothing drifts over days.

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

    A segment ends with a `discontinuity`, with time that goes backwards, and with a gap longer than `gap_ns` (one
    chunk) or, where the source itself is slower than that, longer than two and a half of its intervals.
    """

    def __init__(self, fps: Fraction, gap_ns: int) -> None:
        if fps <= 0 or gap_ns <= 0:
            raise ValueError(f"fps={fps}, gap_ns={gap_ns}: both must be positive")
        self._num = fps.numerator
        self._period = 2 * NS * fps.denominator  # 1 / fps in units of 1 / (2 * num) ns, as are all products below
        self._due = 0  # the next point, in these units
        self._gap_ns = gap_ns
        self._intervals: deque[int] = deque(maxlen=INTERVALS)
        self._shortest_ns = 0  # of those; 0: none yet
        self._anchor_ns = 0
        self._previous_ns: int | None = None

    @property
    def anchor_ns(self) -> int:
        """Media time of the segment's first frame."""
        return self._anchor_ns

    def point_ns(self, point: int) -> int:
        """Media time of grid point `point` of this segment, rounded to nanoseconds."""
        return self._anchor_ns + (point * self._period + self._num) // (2 * self._num)

    def offer(self, pts_ns: int, discontinuity: bool = False) -> Picks:
        """Take the next frame's time and say which frames are wanted now."""
        previous_ns = self._previous_ns
        if previous_ns is None or discontinuity or pts_ns < previous_ns:
            return self._begin(pts_ns)
        interval = pts_ns - previous_ns
        if interval == 0:  # the same instant twice: the first picture of it stands
            return NOTHING
        is_gap = interval > self._gap_ns and interval > int(SLOW_SOURCE_INTERVALS * self._shortest_ns)
        if interval <= SLOWEST_INTERVAL_NS:
            self._intervals.append(interval)
            self._shortest_ns = min(self._intervals)
        if is_gap:
            return self._begin(pts_ns)
        self._previous_ns = pts_ns
        until = self._num * (2 * pts_ns + self._shortest_ns)
        if until < self._due:
            return NOTHING
        late = self._points_until(self._num * (previous_ns + pts_ns))  # which is sooner
        count = self._points_until(until)
        self._due += count * self._period
        return Picks(previous=late, current=count - late, new_segment=False)

    def may_want(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """Whether a frame at `at_ns`, of this segment or the next, may fill a grid point.

        False is a promise, if the frame before it comes at `before_ns` or later and the next one at `after_ns` or
        sooner; `longest_ns` is the longest interval between frames since the last one offered.
        """
        if self._previous_ns is None or longest_ns > self._gap_ns:
            return True  # a segment may begin
        # What lies nearer to the frame before is that one's; early or late, this one fills no more than to here.
        low = self._num * (before_ns + at_ns)
        high = self._num * (2 * at_ns + max(at_ns - before_ns, after_ns - at_ns))
        anchor = 2 * self._num * self._anchor_ns
        return (high - anchor) // self._period > (low - anchor) // self._period

    def may_look_back(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """Whether a frame at `at_ns` may show that a point is the frame's before it, at `before_ns`.

        False is a promise, if no interval since the last frame offered is shorter than `shortest_ns`.
        """
        if self._previous_ns is None:
            return True
        shortest_ns = min(shortest_ns, self._shortest_ns)
        low, high = self._num * (2 * before_ns + shortest_ns), self._num * (before_ns + at_ns)
        anchor = 2 * self._num * self._anchor_ns
        return (high - anchor) // self._period > (low - anchor) // self._period

    def foresee(self, pts_ns: int, discontinuity: bool = False) -> Picks:
        """What `offer` would say, which this is not."""
        other = copy.copy(self)
        other._intervals = deque(self._intervals, INTERVALS)
        return other.offer(pts_ns, discontinuity)

    def _begin(self, pts_ns: int) -> Picks:
        self._anchor_ns = self._previous_ns = pts_ns
        self._due = 2 * self._num * pts_ns + self._period
        # A source that is slower than the grid fills several points with its first frame too; its next frame tells.
        return Picks(previous=0, current=1, new_segment=True)

    def _points_until(self, until: int) -> int:
        """How many grid points up to the time `until` (in 1 / (2 * num) ns) are not filled yet."""
        return max(0, (until - self._due) // self._period + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMeta:
    """What is known of one chunk besides its pixels.

    Chunks of a segment abut: `end_pts_ns` is the next one's `start_pts_ns`. `captured_ns` is CLOCK_MONOTONIC of its
    newest frame. `frames` sampled frames, of which `duplicates` repeat the one before and `corrupt` are damaged.
    """

    segment: int
    index: int
    start_pts_ns: int
    end_pts_ns: int
    captured_ns: int
    frames: int
    duplicates: int
    corrupt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Put a frame into place `position` (0 to t - 1) of the chunk that is being filled.

    `previous`: not the frame just offered but the one before it. `duplicate`: the same frame as in the place before.
    `chunk`: the chunk that this completes.
    """

    position: int
    previous: bool
    duplicate: bool
    chunk: ChunkMeta | None


class _Seen(NamedTuple):
    pts_ns: int
    captured_ns: int
    corrupt: bool
    points: int  # grid points of this segment that it has filled


class ChunkSampler:
    """Sample frames at `fps` and group every `frames_per_chunk` of them into a chunk.

    Counts, for whoever reports them: `completed` chunks; `sampled` frames put into chunks; `abandoned` of those, in
    chunks that their segment's end left incomplete; `refused` broken frames beyond one chunk's length, which end the
    segment.

    Frames that are only predicted from a broken one (`corrupt`, not `broken`) are sampled like any other and counted:
    every loss makes some, up to the next key frame, and a lossy link is no reason to stop classifying.
    """

    def __init__(self, fps: float, frames_per_chunk: int, *, first_segment: int = 1) -> None:
        rate = exact_fps(fps)
        self._frames_per_chunk = frames_per_chunk
        self._chunk_ns = int(frames_per_chunk * NS / rate)
        self._sampler = Sampler(rate, self._chunk_ns)
        self._segment = first_segment - 1
        self._point = 0
        self._seen: _Seen | None = None
        self._damaged_since_ns: int | None = None
        self._broken = False
        self._newest_ns = 0
        self._duplicates = 0
        self._corrupt = 0
        self.completed = 0
        self.sampled = 0
        self.abandoned = 0
        self.refused = 0

    @property
    def segment(self) -> int:
        """Number of the current segment."""
        return self._segment

    def offer(
        self,
        pts_ns: int,
        captured_ns: int,
        *,
        corrupt: bool = False,
        broken: bool = False,
        discontinuity: bool = False,
    ) -> tuple[Pick, ...]:
        """Take the next frame; which frames go where now, in order."""
        if not broken:
            self._damaged_since_ns = None
        elif self._too_damaged(pts_ns, discontinuity):
            self.refused += 1
            self._broken = True
            return ()
        picks = self._sampler.offer(pts_ns, discontinuity or self._broken)
        self._broken = False
        previous, current = self._seen, _Seen(pts_ns, captured_ns, corrupt or broken, picks.current)
        if picks.new_segment:
            self._begin_segment()
        elif previous is not None and pts_ns == previous.pts_ns:
            return ()
        if not (picks.previous or picks.current):
            self._seen = current
            return ()
        made: list[Pick] = []
        if picks.previous and previous is not None:
            made += [self._place(previous, True, previous.points > 0 or i > 0) for i in range(picks.previous)]
        made += [self._place(current, False, i > 0) for i in range(picks.current)]
        self._seen = current
        return tuple(made)

    def may_want(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """See `Sampler.may_want`."""
        return self._broken or self._sampler.may_want(before_ns, at_ns, after_ns, longest_ns)

    def may_look_back(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """See `Sampler.may_look_back`."""
        return self._broken or self._sampler.may_look_back(before_ns, at_ns, shortest_ns)

    def foresee(self, pts_ns: int, *, discontinuity: bool = False) -> Picks:
        """Which frames an undamaged one at `pts_ns` would have picked."""
        return self._sampler.foresee(pts_ns, discontinuity or self._broken)

    def _too_damaged(self, pts_ns: int, discontinuity: bool) -> bool:
        """Whether broken frames have come for longer than a chunk, this one included."""
        if self._damaged_since_ns is None or discontinuity or pts_ns < self._damaged_since_ns:
            self._damaged_since_ns = pts_ns
        return pts_ns - self._damaged_since_ns > self._chunk_ns

    def _begin_segment(self) -> None:
        self.abandoned += self._point % self._frames_per_chunk
        self._segment += 1
        self._point = 0
        self._begin_chunk()

    def _begin_chunk(self) -> None:
        self._newest_ns = self._duplicates = self._corrupt = 0

    def _place(self, frame: _Seen, is_previous: bool, duplicate: bool) -> Pick:
        position = self._point % self._frames_per_chunk
        self._point += 1
        self._newest_ns = max(self._newest_ns, frame.captured_ns)
        self._duplicates += duplicate
        self._corrupt += frame.corrupt
        self.sampled += 1
        chunk = self._finish() if position == self._frames_per_chunk - 1 else None
        return Pick(position=position, previous=is_previous, duplicate=duplicate, chunk=chunk)

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
        )
        self._begin_chunk()
        self.completed += 1
        return chunk


class WindowTracker:
    """Tell when `chunks` consecutive chunks of one segment make a window, every `hop` chunks.

    Windows of a segment end at its chunk `chunks - 1`, `chunks - 1 + hop`, ... whatever was dropped before, so live and
    offline classification see the same ones. A window with a chunk missing does not exist. With a `phase` all of them
    are so many chunks later.
    """

    def __init__(self, chunks: int, hop: int = 1) -> None:
        if chunks < 1 or hop < 1:
            raise ValueError(f"chunks={chunks}, hop={hop}: both at least 1")
        self._chunks = chunks
        self.hop = hop
        """May be changed at any time, as may `phase`; windows go on in the new raster."""
        self.phase = 0
        self._last: tuple[int, int] | None = None
        self.run = 0
        """Chunks, up to the last one, that follow each other in one segment."""

    def offer(self, segment: int, index: int) -> range | None:
        """Take the next chunk; the indices, in its segment, of the window that it completes, if any."""
        self.run = self.run + 1 if self._last == (segment, index - 1) else 1
        self._last = (segment, index)
        first = index - self._chunks + 1
        if self.run < self._chunks or (first - self.phase) % self.hop:
            return None
        return range(first, index + 1)

    def ahead(self) -> int:
        """Chunks up to the next one that completes a window, if none is missing; 1 where nobody knows."""
        if self._last is None:
            return 1
        need = max(1, self._chunks - self.run)
        first = self._last[1] + need - self._chunks + 1
        return need + (self.phase - first) % self.hop

    def skip(self) -> None:
        """The next chunk is missing."""
        self._last, self.run = None, 0

    def wants(self, segment: int, index: int) -> bool:
        """Whether a window may come to hold the next chunk: not if it lies between two, or in one that lacks others."""
        into = (index - self.phase) % self.hop  # chunks between the last window's beginning and this one
        run = self.run if self._last == (segment, index - 1) else 0
        return into < self._chunks and into <= run

"""Choose frames at the model's rate by their time stamps. Pure: no I/O, no pixels and no clock."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

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

"""Sampling compared with brute force, for any pair of rates."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.units import NS
from streamclf.windows.time_grid import Sampler, exact_fps

MS = 1_000_000
NEVER = 10**15
RATES = st.fractions(Fraction(1, 2), 60, max_denominator=1001)


def sampled(times: Iterable[int], fps: Fraction, gap_ns: int = NEVER) -> list[int]:
    """Return which frame fills grid points 0, 1, 2, ... of one segment."""
    sampler = Sampler(fps, gap_ns)
    frames: list[int] = []
    for i, pts_ns in enumerate(times):
        counts = sampler.push(pts_ns)
        assert counts.new_segment == (i == 0)
        frames += [i - 1] * counts.previous + [i] * counts.current
    return frames


def nearest(times: list[int], time_ns: Fraction) -> int:
    """Return the index of the nearest of the sorted `times`; of two equally near the earlier."""
    after = min(bisect(times, time_ns), len(times) - 1)
    return min(max(after - 1, 0), after, key=lambda i: abs(times[i] - time_ns))


def point_ns(times: list[int], fps: Fraction, point: int) -> Fraction:
    return times[0] + point * NS / fps


@given(interval_ns=st.integers(NS // 120, 2 * NS), fps=RATES, start=st.integers(-NS, 10**14), count=st.integers(2, 25))
def test_a_regular_stream_is_sampled_like_brute_force(interval_ns: int, fps: Fraction, start: int, count: int) -> None:
    times = [start + i * interval_ns for i in range(count)]
    frames = sampled(times, fps)
    assert frames == [nearest(times, point_ns(times, fps, point)) for point in range(len(frames))]
    reached = times[-1] + Fraction(interval_ns, 2)
    assert len(frames) == int((reached - start) * fps / NS) + 1


@given(camera=RATES, fps=RATES, count=st.integers(2, 25))
def test_rounded_time_stamps_shift_samples_by_nanoseconds_at_most(camera: Fraction, fps: Fraction, count: int) -> None:
    times = [round(i * NS / camera) for i in range(count)]
    for point, frame in enumerate(sampled(times, fps)):
        wanted = point_ns(times, fps, point)
        assert abs(times[frame] - wanted) <= abs(times[nearest(times, wanted)] - wanted) + 2


@given(steps=st.lists(st.integers(1, 200), min_size=1, max_size=60), fps=RATES)
def test_a_variable_rate_fills_every_point_in_order_with_nearly_the_nearest_frame(
    steps: list[int], fps: Fraction
) -> None:
    times = [0]
    for step in steps:
        times.append(times[-1] + step * MS)
    frames = sampled(times, fps)
    assert frames == sorted(frames)
    for point, frame in enumerate(frames):
        wanted = point_ns(times, fps, point)
        best = abs(times[nearest(times, wanted)] - wanted)
        # A nearer frame can only be one that comes sooner than all of the last intervals.
        assert abs(times[frame] - wanted) <= best + max(steps) * MS
    assert len(frames) >= int(times[-2] * fps / NS) + 1


def test_the_worked_example_of_the_docstring() -> None:
    times = [t * MS for t in (0, 40, 80, 120, 160, 200, 240, 320)]
    assert [times[i] // MS for i in sampled(times, Fraction(10))] == [0, 80, 200, 320]


def test_a_late_frame_leaves_earlier_points_to_the_frame_before() -> None:
    sampler = Sampler(Fraction(20), NEVER)
    for t in (0, 50, 100):
        assert sampler.push(t * MS).current == 1
    # 150 and 200 are nearer to 100 or as near as to 300; 250 is nearer to 300.
    late = sampler.push(300 * MS)
    assert (late.previous, late.current) == (2, 2)


@pytest.mark.parametrize(
    ("fps", "meant"), [(29.97002997, Fraction(30000, 1001)), (23.976, Fraction(2997, 125)), (0.1, Fraction(1, 10))]
)
def test_exact_fps_recovers_the_rational_rate(fps: float, meant: Fraction) -> None:
    assert exact_fps(fps) == meant


def test_the_grid_does_not_drift_over_years() -> None:
    fps = Fraction(30000, 1001)
    sampler = Sampler(fps, NEVER)
    sampler.push(7)
    year = int(fps * 365 * 86400)
    assert abs(sampler.point_ns(year) - 7 - year * NS / fps) <= Fraction(1, 2)

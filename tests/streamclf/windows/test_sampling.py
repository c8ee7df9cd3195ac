"""Sampling compared with brute force, for any pair of rates; segments, chunks and windows never mix."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.units import NS
from streamclf.windows.sampling import ChunkMeta, ChunkSampler, FramePlacement, Sampler, WindowTracker, exact_fps

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


def chunks(
    times_ms: Iterable[float], fps: float = 10, frames_per_chunk: int = 2, broken: frozenset[int] = frozenset()
) -> tuple[ChunkSampler, list[ChunkMeta]]:
    sampler = ChunkSampler(fps, frames_per_chunk)
    counts = [pick for i, t in enumerate(times_ms) for pick in sampler.push(round(t * MS), i, broken=i in broken)]
    return sampler, [pick.chunk for pick in counts if pick.chunk]


def test_chunks_abut_and_count_what_they_hold() -> None:
    sampler, made = chunks(range(0, 1000, 40), broken=frozenset({5}))
    assert [chunk.index for chunk in made] == list(range(len(made)))
    for before, after in pairwise(made):
        assert after.start_pts_ns == before.end_pts_ns
    assert made[0].start_pts_ns == 0
    assert made[0].end_pts_ns == 200 * MS
    assert [chunk.corrupt for chunk in made] == [0, 1, 0, 0, 0]  # frame 5 is the one at 200 ms
    assert sum(chunk.frames for chunk in made) == sampler.sampled
    assert made[-1].captured_ns == 22  # the frame at 880 ms is the nearest to 900


def test_frames_of_a_slow_camera_are_repeated_and_counted() -> None:
    _, made = chunks(range(0, 4000, 200), frames_per_chunk=4)
    assert {chunk.segment for chunk in made} == {1}
    assert all(chunk.duplicates == 2 for chunk in made[1:])


def test_a_repeated_image_is_a_duplicate_once_it_was_sampled() -> None:
    sampler = ChunkSampler(10, 1)
    duplicates = []
    for at_ms, repeated in ((0, False), (40, False), (140, True), (240, True), (340, False), (440, True)):
        placements = sampler.push(at_ms * MS, 0, continues=at_ms > 0, repeated=repeated)
        duplicates += [placement.duplicate for placement in placements]
    assert duplicates == [False, False, True, False, True]  # 0, 40 (first at 140 ms), 240, 340 and its repetition


def test_a_film_has_no_gaps() -> None:
    sampler = ChunkSampler(10, 1)
    for at_ms in (0, 40, 80, 3000, 3040):
        sampler.push(at_ms * MS, 0, continues=at_ms > 0)
    assert sampler.segment == 1
    assert sampler.completed == 31


def test_a_camera_slower_than_the_chunk_rate_makes_no_gaps() -> None:
    _, made = chunks(range(0, 6000, 500), fps=10, frames_per_chunk=1)
    assert len({chunk.segment for chunk in made}) == 2  # the first interval looks like a gap
    assert sum(chunk.segment == 2 for chunk in made) > 40


@pytest.mark.parametrize("gap_ms", [201, 5000])
def test_a_gap_longer_than_a_chunk_ends_the_segment(gap_ms: int) -> None:
    before = list(range(0, 1000, 40))
    after = [before[-1] + gap_ms + t for t in before]
    sampler, made = chunks(before + after)
    assert [chunk.segment for chunk in made] == [1] * 5 + [2] * 5
    assert made[5].index == 0
    assert made[5].start_pts_ns == after[0] * MS
    assert made[5].duplicates == 0
    assert sampler.sampled == sum(chunk.frames for chunk in made) + sampler.dropped_partial


@pytest.mark.parametrize("jump_ms", [-10_000, -1, 40_000_000])
def test_a_jump_of_time_ends_the_segment(jump_ms: int) -> None:
    before = list(range(0, 1000, 40))
    _, made = chunks(before + [before[-1] + jump_ms + t for t in before])
    assert {chunk.segment for chunk in made} == {1, 2}


def test_two_frames_with_the_same_time_count_once() -> None:
    once, _ = chunks(range(0, 1000, 40))
    twice, made = chunks(t for t in range(0, 1000, 40) for _ in range(2))
    assert once.sampled == twice.sampled
    assert {chunk.segment for chunk in made} == {1}


def test_damage_longer_than_a_chunk_ends_the_segment_and_is_counted() -> None:
    sampler, made = chunks(range(0, 2000, 40), broken=frozenset(range(10, 30)))
    assert sampler.dropped_corrupt == 14  # 200 ms of damage are accepted
    assert {chunk.segment for chunk in made} == {1, 2}


def test_segment_numbers_continue_after_a_restart() -> None:
    sampler = ChunkSampler(10, 1, first_segment=7)
    (pick,) = sampler.push(0, 0)
    assert pick.chunk is not None
    assert pick.chunk.segment == 7


@given(
    steps=st.lists(st.integers(-300, 700), min_size=1, max_size=120),
    fps=st.sampled_from([1.0, 7.5, 10.0, 29.97, 60.0]),
    frames_per_chunk=st.integers(1, 5),
    damaged=st.sets(st.integers(0, 120)),
)
def test_any_frame_times_give_whole_chunks(
    steps: list[int], fps: float, frames_per_chunk: int, damaged: set[int]
) -> None:
    sampler = ChunkSampler(fps, frames_per_chunk)
    now = position = all_counts = made = 0
    last: ChunkMeta | None = None
    for i, step in enumerate(steps):
        now += step * MS
        segment = sampler.segment
        for pick in sampler.push(now, i, broken=i in damaged):
            if sampler.segment != segment:
                segment, position = sampler.segment, 0
            all_counts += 1
            assert pick.position == position
            position = (position + 1) % frames_per_chunk
            assert (pick.chunk is None) == (position != 0)
            last = checked(pick, last, frames_per_chunk) or last
            made += pick.chunk is not None
    assert sampler.sampled == all_counts
    assert sampler.sampled == frames_per_chunk * made + sampler.dropped_partial + position


def checked(pick: FramePlacement, last: ChunkMeta | None, frames_per_chunk: int) -> ChunkMeta | None:
    chunk = pick.chunk
    if chunk is None:
        return None
    assert chunk.frames == frames_per_chunk
    assert 0 <= chunk.duplicates <= chunk.frames
    assert 0 <= chunk.corrupt <= chunk.frames
    assert chunk.start_pts_ns < chunk.end_pts_ns
    if last is not None and last.segment == chunk.segment:
        assert chunk.index == last.index + 1
        assert chunk.start_pts_ns == last.end_pts_ns
    else:
        assert chunk.index == 0
    return chunk


def windows(seen: Iterable[tuple[int, int]], size: int, hop: int) -> Iterator[tuple[int, range]]:
    tracker = WindowTracker(size, hop)
    for segment, index in seen:
        if (window := tracker.push(segment, index)) is not None:
            yield segment, window


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    size=st.integers(1, 8),
    hop=st.integers(1, 5),
    dropped=st.sets(st.integers(0, 150)),
)
def test_the_tracker_finds_exactly_the_complete_windows(
    lengths: list[int], size: int, hop: int, dropped: set[int]
) -> None:
    sent = [(segment, index) for segment, length in enumerate(lengths) for index in range(length)]
    seen = [chunk for i, chunk in enumerate(sent) if i not in dropped]
    expected = [
        (segment, range(first, first + size))
        for segment, length in enumerate(lengths)
        for first in range(0, length - size + 1, hop)
        if all((segment, index) in seen for index in range(first, first + size))
    ]
    assert list(windows(seen, size, hop)) == expected


def test_only_chunks_that_a_window_can_contain_are_needed() -> None:
    """Windows of 3 begin at 1, 9, 17. Chunks between them, and of a window that lacks a chunk, are not needed."""
    tracker = WindowTracker(3, 8)
    tracker.phase = 1
    needed, windows = [], []
    for index in range(24):
        if index == 9:
            continue  # lost
        if tracker.needs(1, index):
            needed.append(index)
            if (window := tracker.push(1, index)) is not None:
                windows.append(window)
        else:
            tracker.skip()
    assert needed == [1, 2, 3, 17, 18, 19]
    assert windows == [range(1, 4), range(17, 20)]


@given(
    size=st.integers(1, 6),
    hop=st.integers(1, 9),
    phase=st.integers(0, 5),
    jumps=st.lists(st.integers(0, 3), max_size=12),
)
def test_chunks_until_window_predicts_the_next_window(size: int, hop: int, phase: int, jumps: list[int]) -> None:
    """With any missing chunks before, the next window is complete after exactly that many chunks."""
    tracker = WindowTracker(size, hop)
    tracker.phase = phase
    assert tracker.chunks_until_window() == 1
    index = 0
    for jump in jumps:
        index += jump
        tracker.push(1, index)
        index += 1
    if not jumps:
        return
    ahead = tracker.chunks_until_window()
    windows = [tracker.push(1, index + i) is not None for i in range(ahead)]
    assert windows == [False] * (ahead - 1) + [True]

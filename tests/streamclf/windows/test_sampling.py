"""Any times of frames give whole chunks of one segment, and every drop is counted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.windows.sampling import ChunkMeta, ChunkSampler, FramePlacement

MS = 1_000_000


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

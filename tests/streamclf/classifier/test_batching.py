"""When a batch starts, and how many chunks are held back for it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.classifier.batching import ACTIVE_S, MAX_ADDED_S, DynamicBatcher, max_held_chunks

WAIT_S = 0.02


def note_chunks(batcher: DynamicBatcher, *streams: str, at_s: float = 0.0) -> None:
    for stream in streams:
        batcher.note_chunk(stream, at_s)


def test_no_batch_starts_without_a_due_chunk() -> None:
    batcher = DynamicBatcher(WAIT_S)
    note_chunks(batcher, "a")
    assert not batcher.should_start([], 0, 8, 0.0)
    assert not batcher.should_start([], 9, 8, 0.0)  # chunks that complete no window wait, however many they are
    assert batcher.remaining_s(0.0) == math.inf


def test_a_single_active_stream_never_waits_for_silent_ones() -> None:
    batcher = DynamicBatcher(WAIT_S)
    note_chunks(batcher, "a", "b", "c")
    later = ACTIVE_S + 0.1
    note_chunks(batcher, "a", at_s=later)
    assert batcher.should_start([later], 1, 8, later)


def test_a_chunk_waits_at_most_the_maximum_time() -> None:
    batcher = DynamicBatcher(WAIT_S)
    note_chunks(batcher, "a", "b")
    assert not batcher.should_start([0.1], 1, 8, 0.1)
    assert batcher.remaining_s(0.11) == pytest.approx(WAIT_S - 0.01)
    assert not batcher.should_start([0.1], 1, 8, 0.11)
    assert batcher.should_start([0.1], 1, 8, 0.1 + WAIT_S)
    assert batcher.remaining_s(0.12) == math.inf


def test_time_during_another_batch_counts_as_waiting() -> None:
    """A chunk that arrived while another batch ran has waited since its capture."""
    batcher = DynamicBatcher(WAIT_S)
    note_chunks(batcher, "a", "b")
    assert batcher.should_start([0.05], 1, 8, 0.08)


def test_a_batch_starts_when_every_stream_is_due_or_enough_chunks_wait() -> None:
    for due, waiting in (([0.0, 0.0, 0.0], 3), ([0.0], 4), ([0.0, 0.0], 4)):
        batcher = DynamicBatcher(WAIT_S)
        note_chunks(batcher, "a", "b", "c")
        assert not batcher.should_start([0.0], 1, 4, 0.0)
        assert batcher.should_start(due, waiting, 4, 0.001)


def test_with_a_maximum_wait_of_zero_no_chunk_waits() -> None:
    batcher = DynamicBatcher(0.0)
    note_chunks(batcher, "a", "b")
    assert batcher.should_start([0.0], 1, 8, 0.0)


def test_chunks_are_held_back_only_where_encoding_them_is_fast() -> None:
    assert max_held_chunks(0.0) == 1  # the cost is not known yet
    assert max_held_chunks(MAX_ADDED_S / 2.5) == 3
    assert max_held_chunks(2 * MAX_ADDED_S) == 1


@given(
    steps=st.lists(st.tuples(st.floats(0, 0.05), st.lists(st.integers(0, 3), min_size=3, max_size=3)), max_size=60),
    max_batch=st.integers(1, 8),
)
def test_no_chunk_waits_longer_than_the_maximum_time(steps: list[tuple[float, list[int]]], max_batch: int) -> None:
    batcher, now_s, since_s = DynamicBatcher(WAIT_S), 0.0, None
    for pause_s, waiting in steps:
        now_s += pause_s
        for stream, count in zip("abc", waiting, strict=True):
            if count:
                batcher.note_chunk(stream, now_s)
        captured_s = now_s if since_s is None else since_s
        due = [captured_s for count in waiting if count]
        holds = bool(due) and not batcher.should_start(due, sum(waiting), max_batch, now_s)
        since_s = captured_s if holds else None
        assert since_s is None or now_s - since_s < WAIT_S
        assert not holds or batcher.remaining_s(now_s) <= WAIT_S + 1e-9

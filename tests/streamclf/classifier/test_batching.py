"""When a batch is begun."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.classifier.batching import ALIVE_S, HOLD_S, DynamicBatcher, hold

WAIT_S = 0.02


def heard(gathering: DynamicBatcher, *streams: str, at_s: float = 0.0) -> None:
    for stream in streams:
        gathering.heard(stream, at_s)


def test_nothing_is_begun_for_nothing() -> None:
    gathering = DynamicBatcher(WAIT_S)
    heard(gathering, "a")
    assert not gathering.is_time([], 0, 8, 0.0)
    assert not gathering.is_time([], 9, 8, 0.0)  # chunks that complete no window may be many
    assert gathering.left_s(0.0) == math.inf


def test_one_stream_alone_never_waits_also_beside_those_that_bring_nothing() -> None:
    gathering = DynamicBatcher(WAIT_S)
    heard(gathering, "a", "b", "c")
    later = ALIVE_S + 0.1
    heard(gathering, "a", at_s=later)
    assert gathering.is_time([later], 1, 8, later)


def test_a_chunk_waits_until_its_time_is_up() -> None:
    gathering = DynamicBatcher(WAIT_S)
    heard(gathering, "a", "b")
    assert not gathering.is_time([0.1], 1, 8, 0.1)
    assert gathering.left_s(0.11) == pytest.approx(WAIT_S - 0.01)
    assert not gathering.is_time([0.1], 1, 8, 0.11)
    assert gathering.is_time([0.1], 1, 8, 0.1 + WAIT_S)
    assert gathering.left_s(0.12) == math.inf


def test_time_spent_elsewhere_counts_as_waiting() -> None:
    """A chunk that came while another batch ran has waited since."""
    gathering = DynamicBatcher(WAIT_S)
    heard(gathering, "a", "b")
    assert gathering.is_time([0.05], 1, 8, 0.08)


def test_what_is_complete_or_enough_waits_no_longer() -> None:
    for due, waiting in (([0.0, 0.0, 0.0], 3), ([0.0], 4), ([0.0, 0.0], 4)):
        gathering = DynamicBatcher(WAIT_S)
        heard(gathering, "a", "b", "c")
        assert not gathering.is_time([0.0], 1, 4, 0.0)
        assert gathering.is_time(due, waiting, 4, 0.001)


def test_without_a_time_to_wait_there_is_no_waiting() -> None:
    gathering = DynamicBatcher(0.0)
    heard(gathering, "a", "b")
    assert gathering.is_time([0.0], 1, 8, 0.0)


def test_chunks_are_held_back_while_encoding_them_together_takes_no_time_to_speak_of() -> None:
    assert hold(0.0) == 1  # nothing is known yet
    assert hold(HOLD_S / 2.5) == 3
    assert hold(2 * HOLD_S) == 1


@given(
    steps=st.lists(st.tuples(st.floats(0, 0.05), st.lists(st.integers(0, 3), min_size=3, max_size=3)), max_size=60),
    enough=st.integers(1, 8),
)
def test_no_chunk_ever_waits_longer_than_it_may(steps: list[tuple[float, list[int]]], enough: int) -> None:
    gathering, now_s, since_s = DynamicBatcher(WAIT_S), 0.0, None
    for pause_s, waiting in steps:
        now_s += pause_s
        for stream, count in zip("abc", waiting, strict=True):
            if count:
                gathering.heard(stream, now_s)
        captured_s = now_s if since_s is None else since_s
        due = [captured_s for count in waiting if count]
        holds = bool(due) and not gathering.is_time(due, sum(waiting), enough, now_s)
        since_s = captured_s if holds else None
        assert since_s is None or now_s - since_s < WAIT_S
        assert not holds or gathering.left_s(now_s) <= WAIT_S + 1e-9

"""No flicker whatever the input: hysteresis in seconds, and for each start exactly one end."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.actions import ActionChange, ActionTracker
from streamclf.config import ActionConfig

CONFIG = ActionConfig(on=0.8, off=0.5, min_s=0.6, cooldown_s=3.0)
STEP_S = 0.2


def run(values: list[float], config: ActionConfig = CONFIG, *, begin_s: float = 10.0) -> list[ActionChange]:
    tracker = ActionTracker({"wave": config})
    changes = []
    for index, value in enumerate(values):
        end_s = begin_s + index * STEP_S
        changes += tracker.update({"wave": value, "still": 1 - value}, end_s - 1.0, end_s, 0)
    return changes + tracker.close("stopped")


def phases(changes: list[ActionChange]) -> list[str]:
    return [change.phase for change in changes]


def test_the_docstrings_example() -> None:
    changes = run([0.9] * 10 + [0.3] + [0.9] * 3 + [0.3] * 10)
    start, *updates, end = changes
    assert (start.phase, start.started_s, start.at_s) == ("start", 10.0, pytest.approx(10.6))
    assert all(change.phase == "update" for change in updates)
    assert (end.phase, end.reason, end.started_s) == ("end", "below", 10.0)


def test_one_high_prediction_starts_nothing() -> None:
    assert run([0.1] * 5 + [1.0] + [0.1] * 5) == []


def test_none_of_the_labels_is_a_valid_answer() -> None:
    assert run([0.4] * 50) == []


def test_between_two_actions_lies_the_cooldown() -> None:
    changes = run(([0.95] * 8 + [0.0] * 4) * 6)
    ends = [change.at_s for change in changes if change.phase == "end"]
    starts = [change.at_s for change in changes if change.phase == "start"]
    assert len(starts) > 1
    assert all(start - end >= CONFIG.cooldown_s - 1e-6 for end, start in zip(ends, starts[1:], strict=False))


def test_a_gap_ends_the_action_where_it_was_last_seen() -> None:
    tracker = ActionTracker({"wave": CONFIG})
    for index in range(6):
        tracker.update({"wave": 1.0}, 0.0, index * STEP_S, 0)
    (end,) = tracker.update({"wave": 1.0}, 99.0, 100.0, 1)
    assert (end.phase, end.reason, end.at_s, end.segment) == ("end", "gap", 1.0, 0)


def test_a_looped_files_clock_begins_again_and_actions_go_on() -> None:
    tracker = ActionTracker({"wave": ActionConfig(on=0.8, off=0.5, min_s=0.2, cooldown_s=1.0)})
    starts = 0
    for segment in range(3):
        for index in range(30):
            changes = tracker.update({"wave": 1.0}, 0.0, index * STEP_S, segment)
            starts += sum(change.phase == "start" for change in changes)
    assert starts == 3


def test_updates_come_once_a_second() -> None:
    changes = run([1.0] * 60)
    times = [change.at_s for change in changes if change.phase != "end"]
    assert all(later - earlier == pytest.approx(1.0) for earlier, later in pairwise(times))


def test_a_broken_models_nan_ends_nothing_wrongly_and_starts_nothing() -> None:
    assert run([math.nan] * 30) == []


def test_closing_twice_ends_once() -> None:
    tracker = ActionTracker({"wave": CONFIG})
    for index in range(10):
        tracker.update({"wave": 1.0}, 0.0, index * STEP_S, 0)
    assert phases(tracker.close("stopped")) == ["end"]
    assert tracker.close("stopped") == []


def test_the_body_is_an_action_events() -> None:
    start = run([1.0] * 5)[0].body()
    assert start["phase"] == "start"
    assert "reason" not in start
    assert run([1.0] * 5)[-1].body()["reason"] == "stopped"


configs = st.tuples(
    st.floats(0.3, 1.0), st.floats(0.0, 0.29), st.floats(0, 2), st.floats(0, 5)
).map(lambda t: ActionConfig(on=t[0], off=t[1], min_s=t[2], cooldown_s=t[3]))  # fmt: skip
steps = st.lists(
    st.tuples(
        st.floats(-0.5, 2.0),  # media time since the last prediction; backwards, too
        st.booleans() | st.just(False),  # a new segment
        st.dictionaries(st.sampled_from(["wave", "walk", "other"]), st.floats(allow_nan=True), max_size=3),
    ),
    max_size=60,
)


@given(config=configs, other=configs, inputs=steps)
def test_every_start_has_one_end_and_nothing_flickers(
    config: ActionConfig, other: ActionConfig, inputs: list[tuple[float, bool, dict[str, float]]]
) -> None:
    tracker = ActionTracker({"wave": config, "walk": other})
    time_s, segment, forward = 0.0, 0, True
    changes: list[ActionChange] = []
    for elapsed_s, new_segment, values in inputs:
        segment += new_segment
        forward = forward and elapsed_s >= 0
        time_s += elapsed_s
        changes += tracker.update(values, time_s - 1, time_s, segment)
    changes += tracker.close("stopped")
    for label, its_config in (("wave", config), ("walk", other)):
        own = [change for change in changes if change.label == label]
        running = None
        ended_s = -math.inf
        for change in own:
            assert 0 <= change.probability <= 1
            assert change.probability <= change.peak + 1e-9
            if change.phase == "start":
                assert running is None
                assert change.at_s - change.started_s >= its_config.min_s - 1e-5
                if forward:
                    assert change.at_s - ended_s >= its_config.cooldown_s - 1e-5
                running = change.started_s
            else:
                assert running == change.started_s
                if change.phase == "end":
                    running, ended_s = None, change.at_s
        assert running is None

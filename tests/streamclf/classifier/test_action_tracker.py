"""Actions never flicker: hysteresis is in seconds, and each start has exactly one end."""

from __future__ import annotations

import math
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamclf.classifier.action_tracker import ActionChange, ActionTracker
from streamclf.config.actions import SCENE_LOST, ActionConfig, StreamActions
from streamclf.config.hours import parse_hours, within
from streamclf.events.drafts import Draft
from streamclf.hub.draft_rules import MAX_SILENT_HEARTBEATS, OpenActions

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


def test_the_example_in_the_docstring_is_right() -> None:
    changes = run([0.9] * 10 + [0.3] + [0.9] * 3 + [0.3] * 10)
    start, *updates, end = changes
    assert (start.phase, start.started_s, start.at_s) == ("start", 10.0, pytest.approx(10.6))
    assert all(change.phase == "update" for change in updates)
    assert (end.phase, end.reason, end.started_s) == ("end", "below", 10.0)


def test_one_high_prediction_starts_no_action() -> None:
    assert run([0.1] * 5 + [1.0] + [0.1] * 5) == []


def test_labels_below_the_threshold_start_no_action() -> None:
    assert run([0.4] * 50) == []


def test_two_actions_are_separated_by_the_cooldown() -> None:
    changes = run(([0.95] * 8 + [0.0] * 4) * 6)
    ends = [change.at_s for change in changes if change.phase == "end"]
    starts = [change.at_s for change in changes if change.phase == "start"]
    assert len(starts) > 1
    assert all(start - end >= CONFIG.cooldown_s - 1e-6 for end, start in zip(ends, starts[1:], strict=False))


def test_a_gap_ends_the_action_at_its_last_prediction() -> None:
    tracker = ActionTracker({"wave": CONFIG})
    for index in range(6):
        tracker.update({"wave": 1.0}, 0.0, index * STEP_S, 0)
    (end,) = tracker.update({"wave": 1.0}, 99.0, 100.0, 1)
    assert (end.phase, end.reason, end.at_s, end.segment) == ("end", "gap", 1.0, 0)


def test_the_clock_of_a_looped_file_begins_again_and_actions_continue() -> None:
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


def test_a_nan_from_a_broken_model_starts_no_action() -> None:
    assert run([math.nan] * 30) == []


def test_closing_twice_ends_once() -> None:
    tracker = ActionTracker({"wave": CONFIG})
    for index in range(10):
        tracker.update({"wave": 1.0}, 0.0, index * STEP_S, 0)
    assert phases(tracker.close("stopped")) == ["end"]
    assert tracker.close("stopped") == []


def test_new_thresholds_end_no_action_and_a_removed_label_ends_once() -> None:
    tracker = ActionTracker({"wave": CONFIG, "walk": CONFIG})
    changes = []
    for index in range(8):
        changes += tracker.update({"wave": 0.9, "walk": 0.9}, 0.0, index * STEP_S, 0)
    assert [(change.label, change.phase) for change in changes] == [("wave", "start"), ("walk", "start")]
    stricter = ActionConfig(on=0.99, off=0.89, min_s=0.6)
    (end,) = tracker.reconfigure(StreamActions(labels={"wave": stricter, "new": CONFIG}))
    assert (end.label, end.phase, end.reason, end.started_s) == ("walk", "end", "stopped", 0.0)
    later = [
        change
        for index in range(8, 20)
        for change in tracker.update({"wave": 0.9, "walk": 0.9, "new": 0.9}, 0.0, index * STEP_S, 0)
    ]
    assert [change.label for change in later if change.phase == "start"] == ["new"]
    assert {change.started_s for change in later if change.label == "wave"} == {0.0}  # the same action continues
    (below,) = (change for change in tracker.update({"wave": 0.1, "new": 0.9}, 0.0, 20 * STEP_S, 0) if change.reason)
    assert (below.label, below.reason) == ("wave", "below")
    assert phases(tracker.close("stopped")) == ["end"]


def test_the_body_has_the_keys_of_an_action_event() -> None:
    start = run([1.0] * 5)[0].body()
    assert start["phase"] == "start"
    assert "reason" not in start
    assert run([1.0] * 5)[-1].body()["reason"] == "stopped"


BERLIN = ZoneInfo("Europe/Berlin")
FRIDAY_S = datetime(2026, 1, 2, 17, 0, tzinfo=BERLIN).timestamp()


def test_a_continuous_action_ends_with_its_hours_and_starts_with_the_next() -> None:
    config = ActionConfig(min_s=0.6, cooldown_s=0, active=("mon-fri 08:00-18:00",))
    tracker = ActionTracker({"wave": config}, zone=BERLIN)
    changes = []
    for minute in range(0, 5 * 24 * 60, 10):  # from Friday, 17:00, to Wednesday
        at_s = 60.0 * minute
        changes += tracker.update({"wave": 1.0}, at_s - 1, at_s, 0, FRIDAY_S + at_s)
    edges = [(f"{datetime.fromtimestamp(FRIDAY_S + c.at_s, BERLIN):%a %H:%M}", c.phase, c.reason)
             for c in changes if c.phase != "update"]  # fmt: skip
    assert edges == [
        ("Fri 17:10", "start", None),
        ("Fri 17:50", "end", "schedule"),
        ("Mon 08:10", "start", None),
        ("Mon 17:50", "end", "schedule"),
        ("Tue 08:10", "start", None),
        ("Tue 17:50", "end", "schedule"),
        ("Wed 08:10", "start", None),
    ]
    assert all(c.started_s == c.at_s - 600 for c in changes if c.phase == "start")  # never before the hours began


def test_an_action_ends_with_its_hours_without_a_prediction() -> None:
    tracker = ActionTracker({"wave": ActionConfig(min_s=0, active=("17:00-18:00",))}, zone=BERLIN)
    tracker.update({"wave": 1.0}, 0.0, 1.0, 4, FRIDAY_S)
    assert tracker.end_outside_hours(FRIDAY_S + 3599) == []
    (end,) = tracker.end_outside_hours(FRIDAY_S + 3600)
    assert (end.phase, end.reason, end.at_s, end.segment) == ("end", "schedule", 1.0, 4)
    assert tracker.end_outside_hours(FRIDAY_S + 3660) == []


def test_with_an_empty_list_of_hours_no_action_starts() -> None:
    tracker = ActionTracker({"wave": ActionConfig(min_s=0, active=())})
    assert all(tracker.update({"wave": 1.0}, 0.0, n / 5, 0, FRIDAY_S) == [] for n in range(20))


def test_a_window_without_a_likely_label_starts_only_unknown() -> None:
    labels = {"wave": ActionConfig(on=0.3, off=0.1, min_s=0.4), "unknown": ActionConfig(min_s=0.4)}
    tracker = ActionTracker(labels, unknown_below=0.4)
    changes = []
    for index in range(60):
        best = 0.35 if index < 30 else 0.45
        changes += tracker.update({"wave": best, "still": 0.3}, 0.0, index * STEP_S, 0)
    edges = [(change.label, change.phase, change.reason) for change in changes if change.phase != "update"]
    assert edges == [("unknown", "start", None), ("unknown", "end", "below"), ("wave", "start", None)]
    assert 0.8 <= changes[0].probability <= 1


def test_without_unknown_below_nothing_is_unknown() -> None:
    tracker = ActionTracker({"unknown": ActionConfig(min_s=0)})
    assert all(tracker.update({"wave": 0.01}, 0.0, n / 5, 0) == [] for n in range(20))


def test_actions_of_several_labels_run_at_once() -> None:
    tracker = ActionTracker({"wave": ActionConfig(on=0.4, off=0.2), "walk": ActionConfig(on=0.4, off=0.2)})
    changes = []
    for index in range(5):
        changes += tracker.update({"wave": 0.5, "walk": 0.5}, 0.0, index * STEP_S, 0)
    assert [(c.label, c.phase) for c in changes] == [("wave", "start"), ("walk", "start")]


@pytest.mark.parametrize(("smooth_s", "starts"), [(0.0, True), (0.3, True), (60.0, False)])
def test_smoothing_is_in_seconds(smooth_s: float, starts: bool) -> None:
    config = ActionConfig(min_s=0.4, smooth_s=smooth_s)
    changes = run([0.0] * 5 + [1.0] * 15, config)
    assert ("start" in phases(changes)) == starts


configs = st.tuples(
    st.floats(0.3, 1.0), st.floats(0.0, 0.29), st.floats(0, 2), st.floats(0, 5), st.none() | st.floats(0, 3),
    st.sampled_from([None, (), ("08:00-18:00",), ("fri", "22:00-02:00"), ("mon,sat 17:00-17:01",)]),
).map(lambda t: ActionConfig(on=t[0], off=t[1], min_s=t[2], cooldown_s=t[3], smooth_s=t[4], active=t[5]))  # fmt: skip
rarely = st.integers(0, 9).map(lambda number: number == 9)
evidence = st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.0, math.nan]) | st.floats(allow_nan=True)
steps = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.3, 1.0]) | st.floats(-0.5, 2.0),  # media time since the last prediction; backwards, too
        rarely,  # a new segment
        st.fixed_dictionaries({"wave": evidence}, optional={"walk": evidence, "other": evidence}),
        st.sampled_from([0] * 9 + [20, 3600, -3600, 40_000]),  # how far the wall clock jumps
        rarely,  # the classifier is killed and starts again
    ),
    min_size=5,
    max_size=60,
)
changes_of_configuration = st.dictionaries(st.integers(0, 30), st.sampled_from(["swap", "drop"]), max_size=2)


@settings(max_examples=300)
@given(
    config=configs, other=configs, unknown_below=st.sampled_from([0.0, 0.0, 0.5, 1.0]), inputs=steps,
    reloads=st.just({}) | changes_of_configuration,
)  # fmt: skip
def test_every_start_has_one_end_and_no_action_flickers(
    config: ActionConfig,
    other: ActionConfig,
    unknown_below: float,
    inputs: list[tuple[float, bool, dict[str, float], int, bool]],
    reloads: dict[int, str],
) -> None:
    """Check this through gaps, limits of hours, clock jumps, killed classifiers and changed configurations."""
    labels = {"wave": config, "walk": other, "unknown": config}
    tracker = ActionTracker(labels, unknown_below, BERLIN)
    hub, life = OpenActions(), 0
    journal: list[tuple[dict[str, Any], int, float]] = []  # body, number of the classifier's run, wall clock
    media_s, segment, forward, clock_s, changed = 0.0, 0, True, FRIDAY_S, False

    def post(changes: list[ActionChange]) -> None:
        for change in changes:
            for draft in hub.apply(Draft("action", "door", change.body()), bytes([life])):
                journal.append((draft.body, life, clock_s))

    for number, (elapsed_s, new_segment, values, jump_s, killed) in enumerate(inputs):
        if change := reloads.get(number):
            changed = True
            labels = {"wave": other, "walk": config} if change == "swap" else {"walk": other}
            actions = StreamActions(labels=labels, unknown_below=unknown_below, timezone="Europe/Berlin")
            post(tracker.reconfigure(actions))
        if killed:
            life += 1
            tracker = ActionTracker(labels, unknown_below, BERLIN)
        segment += new_segment
        forward = forward and elapsed_s >= 0
        media_s += elapsed_s
        clock_s += elapsed_s + jump_s
        post(tracker.end_outside_hours(clock_s))
        post(tracker.update(values, media_s - 1, media_s, segment, clock_s))
        for name, each in labels.items():
            open_now = [body for body, its_life, _ in journal if body["label"] == name and its_life == life][-1:]
            if open_now and open_now[0]["phase"] != "end":
                assert each.active is None or within_hours(each, clock_s)
    post(tracker.close("stopped"))
    for _ in range(MAX_SILENT_HEARTBEATS):
        journal += [(draft.body, life, clock_s) for draft in hub.end_abandoned(set())]
    for name, each in {"wave": config, "walk": other, "unknown": config}.items():
        entries = [entry for entry in journal if entry[0]["label"] == name]
        check_one_label(entries, LAX if changed else each, forward=forward)


LAX = ActionConfig(on=1.0, off=0.0, min_s=0, cooldown_s=0)
"""The requirement that holds with any change of the configuration: each start has one end."""


def within_hours(config: ActionConfig, clock_s: float) -> bool:
    hours = [parse_hours(entry) for entry in config.active or ()]
    return within(hours, datetime.fromtimestamp(clock_s, BERLIN))


def check_one_label(entries: list[tuple[dict[str, Any], int, float]], config: ActionConfig, *, forward: bool) -> None:
    running: float | None = None
    ended_s, ended_life = -math.inf, -1
    for body, life, clock_s in entries:
        assert 0 <= body["probability"] <= body["peak"] + 1e-5 <= 1 + 2e-5
        if body["phase"] == "start":
            assert running is None
            assert body["at_s"] - body["started_s"] >= config.min_s - 1e-5
            assert config.active is None or within_hours(config, clock_s)
            if forward and life == ended_life:  # a classifier that starts again does not remember the cooldown
                assert body["at_s"] - ended_s >= config.cooldown_s - 1e-5
            running = body["started_s"]
        else:
            assert running == body["started_s"]
            if body["phase"] == "end":
                running, ended_s = None, body["at_s"]
                ended_life = -1 if body["reason"] == "lost" else life  # the hub ended an action of a killed classifier
    assert running is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([None, 0.0, 0.2, 0.4, 0.6, 1.0])), min_size=1, max_size=120),
    st.sampled_from([1.0, 3.0, 10.0]),
)
def test_scene_lost_lasts_at_most_hold_s_unless_a_label_hides_the_scene(
    predictions: list[tuple[float, float | None]], hold_s: float
) -> None:
    actions = {
        "a": ActionConfig(on=0.7, min_s=0.4, smooth_s=0, cooldown_s=0, hold_s=5),
        SCENE_LOST: ActionConfig(min_s=0.4, smooth_s=0, cooldown_s=0, hold_s=hold_s).for_scene(),
    }
    tracker = ActionTracker(actions)
    started: dict[str, float] = {}
    hidden_s = 0.0  # when a label last hid the scene
    for i, (probability, lost) in enumerate(predictions):
        at_s = 1.6 + i * 0.2
        if "a" in started:
            hidden_s = at_s
        for change in tracker.update({"a": probability}, at_s - 1.6, at_s, 1, scene_lost=lost):
            if change.phase == "start":
                assert change.label not in started
                started[change.label] = change.started_s
            elif change.phase == "end":
                del started[change.label]
                if change.label == SCENE_LOST:
                    assert change.reason == ("hold" if (lost or 0.0) >= 0.3125 else "scene")
        if "a" in started:
            hidden_s = at_s
        if SCENE_LOST in started:
            assert (lost or 0.0) >= 0.3125, "it ends when the scene is back"
            assert at_s - started[SCENE_LOST] < hold_s or at_s - hidden_s < 0.3

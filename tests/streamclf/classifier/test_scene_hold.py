"""An action whose cause a window cannot recognise goes on until the scene is back, and never without a lost scene."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.classifier.action_tracker import ActionChange, ActionTracker
from streamclf.classifier.scene_hold import LOST, RETURN_S, cover_was_removed
from streamclf.config.actions import HOLD_S, ActionConfig, StreamActions

STEP_S = 0.2
CONFIG = ActionConfig(min_s=0.2, smooth_s=0, cooldown_s=0)
Reading = tuple[float, float | None]
"""Probability of the label, and how much the scene differs."""

readings = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
        st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.0, 1.0, math.nan])),
    ),
    max_size=120,
)


def run(values: list[Reading], hold_s: float, *, close: bool = True) -> list[ActionChange]:
    tracker = ActionTracker({"covered": CONFIG.model_copy(update={"hold_s": hold_s})})
    changes = []
    for number, (probability, lost) in enumerate(values):
        at_s = number * STEP_S
        changes += tracker.update({"covered": probability}, at_s - 1, at_s, 0, scene_lost=lost)
    return changes + (tracker.close("stopped") if close else [])


def ends(changes: list[ActionChange]) -> list[tuple[str | None, float]]:
    return [(change.reason, round(change.at_s, 6)) for change in changes if change.phase == "end"]


def covered(*after: Reading) -> list[Reading]:
    """Return an action's start, and then `after`."""
    return [(1.0, None), (1.0, None), (1.0, 1.0), *after]


def test_the_action_goes_on_while_the_scene_is_lost_and_ends_when_it_is_back() -> None:
    changes = run(covered(*[(0.0, 0.97)] * 30, *[(0.0, 0.05)] * 10), 600)
    reason, at_s = ends(changes)[0]
    assert (len(ends(changes)), reason) == (1, "scene")
    assert 33 * STEP_S + RETURN_S <= at_s <= 33 * STEP_S + RETURN_S + 3 * STEP_S
    assert sum(change.phase == "update" for change in changes) >= 6  # a held action is still reported


def test_without_a_hold_the_probability_alone_decides() -> None:
    values = covered(*[(0.0, 0.97)] * 30)
    assert ends(run(values, 0)) == [("below", pytest.approx(0.6))]


def test_a_scene_that_never_returns_is_given_up() -> None:
    changes = run(covered(*[(0.0, 1.0)] * 40), 4)
    assert ends(changes) == [("hold", pytest.approx(0.6 + 4))]


def test_one_window_like_the_scene_does_not_end_the_action() -> None:
    changes = run(covered(*([(0.0, 1.0)] * 5 + [(0.0, 0.0)]) * 5), 600, close=False)
    assert ends(changes) == []


@pytest.mark.parametrize(
    ("probable", "after", "is_held"),
    [
        ([1.0] * 103, 0.2, False),
        ([1.0] * 90, 0.2, True),  # perhaps the model has recognised only how the cover came
        ([1.0] * 60 + [0.3] + [1.0] * 60, 0.2, True),  # not without a break
        ([1.0] * 20 + [0.6] + [1.0] * 90, 0.4, True),  # not clearly less probable than in the cover
        ([1.0] * 20 + [0.6] + [1.0] * 90, 0.1, False),
    ],
)
def test_a_cover_that_the_model_recognised_for_long_needs_no_hold(
    probable: list[float], after: float, is_held: bool
) -> None:
    """Somebody turns the covered camera: the scene does not come back."""
    changes = run(covered(*[(each, 0.9) for each in probable], *[(after, 0.9)] * 10), 600)
    assert [reason for reason, _ in ends(changes)] == ["stopped" if is_held else "below"]


def test_a_cover_whose_label_counts_as_unknown_is_still_held() -> None:
    """The label is hardly less probable than before, but falls below `unknown_below`."""
    tracker = ActionTracker({"covered": CONFIG.model_copy(update={"on": 0.6, "hold_s": 600})}, unknown_below=0.6)
    for number in range(180):
        probability = 0.63 if number < 150 else 0.57
        changes = tracker.update({"covered": probability}, 0, number * STEP_S, 0, scene_lost=0.9)
        assert ends(changes) == []
    found = [tracker.update({"covered": 0.02}, 0, 36 + number * STEP_S, 0, scene_lost=0.9) for number in range(6)]
    assert [reason for changes in found for reason, _ in ends(changes)] == ["scene"], "then the cover is removed"


def test_a_probable_label_begins_the_time_of_the_hold_again() -> None:
    changes = run(covered(*[(0.0, 1.0)] * 15, (1.0, 1.0), *[(0.0, 1.0)] * 15), 4, close=False)
    assert ends(changes) == []


def test_an_action_is_not_held_if_the_picture_is_not_compared_any_more() -> None:
    """A preview of other thresholds has comparisons only where the service had an action."""
    assert ends(run(covered(*[(0.0, 0.9)] * 5, (0.0, None)), 600)) == [("below", pytest.approx(1.6))]


def test_a_hold_that_is_switched_off_ends_with_the_next_prediction() -> None:
    tracker = ActionTracker({"covered": CONFIG.model_copy(update={"hold_s": 600})})
    for number, (probability, lost) in enumerate(covered(*[(0.0, 1.0)] * 5)):
        tracker.update({"covered": probability}, 0, number * STEP_S, 0, scene_lost=lost)
    tracker.reconfigure(StreamActions(labels={"covered": CONFIG}))
    assert ends(tracker.update({"covered": 0.0}, 0, 2.0, 0, scene_lost=1.0)) == [("below", 2.0)]


@given(readings, st.sampled_from([0.4, 2.0, 600.0]))
def test_each_start_has_exactly_one_end(values: list[Reading], hold_s: float) -> None:
    running = False
    for change in run(values, hold_s):
        assert (change.phase == "start") != running
        running = change.phase != "end"
    assert not running


@given(readings, st.sampled_from([0.4, 2.0, 600.0]))
def test_no_action_is_held_without_a_lost_scene(values: list[Reading], hold_s: float) -> None:
    present: list[Reading] = [
        (probability, min(lost, LOST - 0.01) if isinstance(lost, float) else None) for probability, lost in values
    ]
    assert run(present, hold_s) == run(present, 0)


@given(readings, st.sampled_from([0.4, 2.0]))
def test_no_action_is_held_longer_than_hold_s(values: list[Reading], hold_s: float) -> None:
    probable_s = -math.inf
    changes = {change.at_s: change for change in run(values, hold_s, close=False) if change.phase == "end"}
    running = False
    starts = {change.at_s for change in run(values, hold_s, close=False) if change.phase == "start"}
    for number, (probability, _) in enumerate(values):
        at_s = number * STEP_S
        running = (running or at_s in starts) and at_s not in changes
        probable_s = at_s if probability >= CONFIG.off else probable_s
        assert not running or at_s <= probable_s + hold_s + STEP_S + 1e-6


@given(readings)
def test_a_hold_only_makes_actions_longer(values: list[Reading]) -> None:
    """Without a cooldown, an action that the probability alone gives is part of one with a hold."""

    def spans(hold_s: float) -> list[tuple[float, float]]:
        found = run(values, hold_s)
        starts = [change.at_s for change in found if change.phase == "start"]
        return list(zip(starts, [change.at_s for change in found if change.phase == "end"], strict=True))

    held = spans(600.0)
    assert all(any(a <= begin and end <= b for a, b in held) for begin, end in spans(0.0))


def test_the_model_names_the_labels_that_are_held_unless_the_configuration_says_otherwise() -> None:
    actions = StreamActions(labels={"covered": ActionConfig(), "moved": ActionConfig(), "dark": ActionConfig(hold_s=0)})
    held = actions.with_hold(["covered", "dark"]).labels
    assert (held["covered"].hold_s, held["moved"].hold_s, held["dark"].hold_s) == (HOLD_S, None, 0)


shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_a_picture_was_a_cover_only_if_the_present_one_shows_less_of_it(a: float, b: float, c: float) -> None:
    low, middle, high = sorted((a, b, c))
    assert not cover_was_removed(low, high)
    assert not cover_was_removed(a, a)
    if cover_was_removed(middle, low) or cover_was_removed(high, middle):
        assert cover_was_removed(high, low)


@pytest.mark.parametrize(
    ("before", "present", "removed"),
    [
        (0.3, 0.003, True),
        (0.02, 0.002, True),
        (0.01, 0.002, False),
        (0.002, 0.3, False),
        (1.0, 0.5, True),
        (0.005, 0, False),
    ],
)
def test_the_ratio_of_the_odds_decides(before: float, present: float, removed: bool) -> None:
    assert cover_was_removed(before, present) == removed


def test_the_probability_of_a_cover_is_known_where_no_label_is_probable_enough() -> None:
    tracker = ActionTracker({"covered": CONFIG.model_copy(update={"hold_s": 600})}, unknown_below=0.5)
    for number in range(20):
        tracker.update({"covered": 0.3, "moved": 0.9}, 0, number * STEP_S, 0)
    assert tracker.hidden_probability == pytest.approx(0.3, abs=0.01)
    for number in range(20, 40):
        tracker.update({"covered": 0.4, "moved": 0.1}, 0, number * STEP_S, 0)
    assert tracker.hidden_probability == pytest.approx(0.4, abs=0.01)

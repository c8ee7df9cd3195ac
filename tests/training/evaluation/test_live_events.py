"""Starts of actions are right, wrong, repeated or false, by their label and time."""

from __future__ import annotations

import pytest

from training.evaluation.live import ActionRun, PlayedFilm
from training.evaluation.live_events import FilmResult, TrueEvent, compare_film
from training.evaluation.live_figures import live_figures, live_text

CIRCLE = TrueEvent(label="circle", start_s=10.0, end_s=14.0)
STAR = TrueEvent(label="star", start_s=15.0, end_s=19.0)


def compare(runs: list[tuple[str, float, float]], *events: TrueEvent) -> FilmResult:
    played = PlayedFilm(
        runs=tuple(ActionRun(label=label, start_s=start_s, end_s=end_s) for label, start_s, end_s in runs),
        first_s=2.0,
        last_s=62.0,
        watched_s=60.0,
    )
    return compare_film(played, events, tolerance_s=1.5)


@pytest.mark.parametrize(("start_s", "right"), [(9.9, False), (10.0, True), (15.5, True), (15.6, False)])
def test_an_action_may_start_from_the_events_start_until_the_tolerance_after_its_end(
    start_s: float, right: bool
) -> None:
    result = compare([("circle", start_s, start_s + 1)], CIRCLE)
    assert (result.events[0].start_s is not None) == right
    assert len(result.false_starts) == len(result.false_outside) == (not right)


def test_another_label_during_an_event_is_wrong_and_false_but_not_outside() -> None:
    result = compare([("star", 11.0, 12.0), ("circle", 12.5, 13.0)], CIRCLE)
    assert result.events[0].wrong == ["star"]
    assert result.events[0].start_s == 12.5
    assert [run.label for run in result.false_starts] == ["star"]
    assert result.false_outside == ()


def test_a_start_after_the_end_of_one_event_is_right_for_the_next() -> None:
    result = compare([("circle", 13.0, 14.0), ("star", 15.2, 18.0)], CIRCLE, STAR)
    assert [event.start_s for event in result.events] == [13.0, 15.2]
    assert [event.wrong for event in result.events] == [[], []]


def test_a_wrong_start_belongs_to_the_event_in_progress_rather_than_to_the_one_that_has_ended() -> None:
    result = compare([("square", 15.2, 16.0)], CIRCLE, STAR)
    assert [event.wrong for event in result.events] == [[], ["square"]]


def test_two_events_of_a_label_need_two_starts() -> None:
    second = TrueEvent(label="circle", start_s=14.5, end_s=18.0)
    one = compare([("circle", 15.0, 16.0)], CIRCLE, second)
    assert [event.start_s for event in one.events] == [15.0, None]
    two = compare([("circle", 15.0, 16.0), ("circle", 17.0, 18.0)], CIRCLE, second)
    assert [event.start_s for event in two.events] == [15.0, 17.0]
    three = compare([("circle", 11.0, 12.0), ("circle", 12.5, 13.0), ("circle", 17.0, 18.0)], CIRCLE, second)
    assert [event.again for event in three.events] == [1, 0]
    assert three.false_starts == ()


def test_the_share_of_time_counts_each_run_within_the_event() -> None:
    result = compare([("circle", 9.0, 11.0), ("circle", 12.0, 13.0), ("star", 13.0, 14.0)], CIRCLE)
    (event,) = result.events
    assert event.running_s == pytest.approx(2.0)
    assert event.over_s is None
    assert compare([("circle", 11.0, 14.5)], CIRCLE).events[0].over_s == 0.5
    assert compare([("circle", 14.5, 15.0)], CIRCLE).events[0].over_s is None


def test_the_time_outside_of_events_counts_overlapping_events_once() -> None:
    early = TrueEvent(label="star", start_s=0.0, end_s=1.5)  # predictions begin at 2 s: one second of it is watched
    assert compare([], CIRCLE, STAR, early).outside_s == pytest.approx(60 - 10.5 - 1)
    assert compare([]).outside_s == 60


def test_figures_add_up_over_films_and_labels() -> None:
    films = [
        compare([("circle", 15.0, 15.5), ("star", 40.0, 41.0)], CIRCLE),
        compare([("circle", 12.0, 15.0), ("star", 13.0, 13.5)], CIRCLE),
        compare([("circle", 16.0, 16.5)], STAR),
        compare([], CIRCLE),
    ]
    figures = live_figures(films, ["circle", "star", "square"])
    keys = ("events", "right", "right_and_wrong", "only_wrong", "none")
    assert [figures[key] for key in keys] == [4, 1, 1, 1, 1]
    assert [figures["labels"]["circle"][key] for key in keys] == [3, 1, 1, 0, 1]
    assert figures["seconds"] == {"events": 2, "p50": 3.5, "p90": pytest.approx(4.7)}
    assert figures["seconds_after_end"] == {"events": 1, "p50": 1.0, "p90": 1.0}
    assert figures["share_of_time"] == pytest.approx(2 / 16)
    assert figures["seconds_over"] == {"events": 1, "p50": 1.0, "p90": 1.0}
    assert figures["false_starts"] == {
        "count": 3,
        "hours": pytest.approx(240 / 3600, abs=1e-4),
        "per_minute": 0.75,
        "per_day": 1080.0,
        "per_day_interval": [pytest.approx(222.7, abs=0.1), pytest.approx(3156.2, abs=0.1)],
    }
    assert figures["false_starts_outside_events"]["count"] == 1
    assert {name: each["false_starts"] for name, each in figures["labels"].items()} == {
        "circle": 1,
        "square": 0,
        "star": 2,
    }
    assert "right event and no wrong one         1   25.0%" in live_text(figures)


def test_figures_of_no_film_print() -> None:
    figures = live_figures([], ["circle"])
    assert figures["false_starts"]["per_day"] is None
    assert "0 events in 0 films" in live_text(figures)

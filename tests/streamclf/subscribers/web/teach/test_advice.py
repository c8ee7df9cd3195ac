"""The advice names what is missing, the most important first."""

from __future__ import annotations

from datetime import datetime, timezone

from streamclf.clips.example_info import ExampleInfo
from streamclf.subscribers.web.teach.advice import advise, can_train, recordings
from streamclf.subscribers.web.teach.library import ExampleFilm

NOON = datetime(2026, 11, 29, 12).timestamp()
NIGHT = datetime(2026, 11, 29, 23).timestamp()
DAYS = (0.0, 7200.0, 86400.0)


def films(count: int, *times_s: float) -> list[ExampleFilm]:
    times = [(times_s or (NOON, NOON + 7200))[n % max(1, len(times_s or (0, 0)))] for n in range(count)]
    return [
        ExampleFilm(file=f"yard/x/{n}.mp4", label="x", seconds=2, bytes=9, began_s=at, info=None)
        for n, at in enumerate(times)
    ]


def test_a_model_needs_two_labels_with_five_examples_each() -> None:
    assert "at least two labels" in advise({})[0]
    assert "second label" in advise({"open": films(9)})[0]
    assert advise({"open": films(2), "shut": films(7)})[0] == "Add at least 3 more examples of “open”."
    assert not can_train({"open": films(9)})
    assert not can_train({"open": films(9), "shut": films(4)})
    assert can_train({"open": films(9), "shut": films(5)})


def test_enough_different_and_balanced_examples_need_no_advice() -> None:
    assert advise({"open": films(12), "shut": films(10)}) == []


def test_one_time_night_and_balance_are_named() -> None:
    assert "Add examples of “open” from another hour or day: all are from the same ten minutes." in advise(
        {"open": films(10, NOON), "shut": films(10)}
    )
    assert "Add examples of “shut” at night: all are from the day." in advise(
        {"open": films(10, NOON, NIGHT), "shut": films(10)}
    )
    assert advise({"open": films(40), "shut": films(10)}) == ["Add examples of “shut”: “open” has 4 times as many."]
    assert advise({"open": films(10), "shut": films(7)}) == ["Add 3 more examples of “shut” for a better model."]


def test_films_of_the_service_that_follow_each_other_are_one_recording() -> None:
    def film(second: float) -> ExampleFilm:
        began = datetime.fromtimestamp(NOON + second, timezone.utc)
        info = ExampleInfo(stream="door", began=began, seconds=2)
        return ExampleFilm(file=f"y/x/{second}.mp4", label="x", seconds=2, bytes=9, began_s=NOON + second, info=info)

    assert recordings([film(at) for at in (0, 3, 6)]) == 1
    assert recordings([film(at) for at in (0, 3, 20)]) == 2
    assert recordings([]) == 0
    assert recordings(films(3)) == 3, "films made by hand are taken as they are"
    close = [film(3.0 * number) for number in range(10)]
    assert "follow each other within 5 s" in advise({"open": close, "shut": films(10)})[0]
    assert not can_train({"open": close, "shut": films(10)})


def test_films_of_none_of_the_labels_need_no_number() -> None:
    assert can_train({"open": films(9), "shut": films(5), "None": films(1)})

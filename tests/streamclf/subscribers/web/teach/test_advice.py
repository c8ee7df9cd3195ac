"""The advice names what is missing, the most important first."""

from __future__ import annotations

from datetime import datetime

from streamclf.subscribers.web.teach.advice import advise, can_train
from streamclf.subscribers.web.teach.library import Example

NOON = datetime(2026, 11, 29, 12).timestamp()
NIGHT = datetime(2026, 11, 29, 23).timestamp()
DAYS = (0.0, 7200.0, 86400.0)


def films(count: int, *times_s: float) -> list[Example]:
    times = [(times_s or (NOON, NOON + 7200))[n % max(1, len(times_s or (0, 0)))] for n in range(count)]
    return [
        Example(file=f"yard/x/{n}.mp4", label="x", seconds=2, bytes=9, began_s=at, info=None)
        for n, at in enumerate(times)
    ]


def test_a_model_needs_two_labels_with_five_examples_each() -> None:
    assert "at least two labels" in advise({})[0]
    assert "second label" in advise({"open": films(9)})[0]
    assert advise({"open": films(2), "shut": films(7)})[0] == "3 more of “open”, at least."
    assert not can_train({"open": films(9)})
    assert not can_train({"open": films(9), "shut": films(4)})
    assert can_train({"open": films(9), "shut": films(5)})


def test_enough_different_and_balanced_examples_need_no_advice() -> None:
    assert advise({"open": films(12), "shut": films(10)}) == []


def test_one_time_night_and_balance_are_named() -> None:
    assert "All examples of “open” are of the same ten minutes: add some of another hour or day." in advise(
        {"open": films(10, NOON), "shut": films(10)}
    )
    assert "None of “shut” at night yet." in advise({"open": films(10, NOON, NIGHT), "shut": films(10)})
    assert advise({"open": films(40), "shut": films(10)}) == ["“open” has 4 times as many as “shut”: balance them."]
    assert advise({"open": films(10), "shut": films(7)}) == ["3 more of “shut” would make the model better."]

"""The load reports of a classifier: when one is due, and that the noise of single batches causes none."""

from __future__ import annotations

from streamclf.classifier.load_reports import INTERVAL_S, LoadReports
from streamclf.runtime.jobs import ClassifierLoad


def load(chunk_s: float = 0.001, *, busy: float = 0.5, over: bool = False, **window_s: float) -> ClassifierLoad:
    return ClassifierLoad(chunk_s=chunk_s, window_s=window_s or {"": 0.001}, busy=busy, is_overloaded=over)


def times(reports: LoadReports, begin_s: float, count: int, *loads: ClassifierLoad) -> list[float]:
    """Return when reports were due, with a sample each 0.2 s."""
    at_s = [begin_s + 0.2 * number for number in range(count)]
    return [now_s for number, now_s in enumerate(at_s) if reports.due(loads[number % len(loads)], now_s)]


def test_a_report_is_due_at_once_and_then_only_after_a_change() -> None:
    reports = LoadReports()
    assert reports.due(None, 0.0) is None
    assert times(reports, 0.0, 500, load()) == [0.0]
    assert len(times(reports, 100.0, 500, load(0.0011))) == 0  # a tenth is no change
    (first, *later) = times(reports, 200.0, 500, load(0.003))
    assert first < 201.0
    assert all(after - before >= INTERVAL_S for before, after in zip([first, *later], later, strict=False))
    assert len(later) <= 3  # until the average has reached the new value


def test_batches_of_different_sizes_cause_no_reports() -> None:
    reports = LoadReports()
    times(reports, 0.0, 200, load(0.0005), load(0.0015))
    assert times(reports, 100.0, 500, load(0.0005), load(0.0015)) == []


def test_another_model_and_an_overload_are_reported() -> None:
    reports = LoadReports()
    times(reports, 0.0, 100, load())
    assert len(times(reports, 50.0, 1, load(one=0.001, two=0.001))) == 1
    overload = times(reports, 100.0, 100, load(one=0.001, two=0.001, over=True))
    assert len(overload) >= 3  # while it lasts, the supervisor may move one stream after each report

"""Filters keep each start with its end, and a position is stored before the first event."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from streamclf.events.positions import START, Position
from streamclf.events.types import Action, Lost, Prediction, Status, Window
from streamclf.net.curve_client import ServiceAddress
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import EventFilter, OutletRun

COMMON: dict[str, Any] = {
    "stream": "door", "epoch": "9f" * 16, "offset": 1, "previous": 0, "time": datetime.now(timezone.utc),
}  # fmt: skip


def action(phase: Any, *, probability: float, peak: float) -> Action:
    return Action(**COMMON, label="wave", phase=phase, started_s=1.0, at_s=2.0, probability=probability, peak=peak)


def prediction(probability: float) -> Prediction:
    window = Window(start_s=0.0, end_s=1.0, frames=8)
    return Prediction(**COMMON, window=window, top=(("wave", probability),), model="m@1")


def test_a_start_that_passes_has_an_end_that_passes() -> None:
    chosen = EventFilter(updates=False, min_probability=0.9)
    assert chosen.accepts(action("start", probability=0.92, peak=0.92))
    assert chosen.accepts(action("end", probability=0.1, peak=0.95))
    assert not chosen.accepts(action("start", probability=0.8, peak=0.8))
    assert not chosen.accepts(action("end", probability=0.1, peak=0.85))
    assert not chosen.accepts(action("update", probability=0.95, peak=0.95))


def test_predictions_have_a_least_probability_and_other_events_pass() -> None:
    chosen = EventFilter(min_probability=0.5)
    assert [chosen.accepts(prediction(p)) for p in (0.49, 0.5)] == [False, True]
    assert chosen.accepts(Status(**COMMON, state="live"))
    assert chosen.accepts(Lost(epoch="9f" * 16, first=1, last=2))
    assert EventFilter().accepts(action("update", probability=0.0, peak=0.0))


@pytest.mark.parametrize(
    ("begin", "stored"), [(Position("9f" * 16, 41), Position("9f" * 16, 41)), (START, None), (None, None)]
)
def test_where_a_new_outlet_begins_is_stored_before_its_first_event(
    tmp_path: Path, begin: Position | None, stored: Position | None
) -> None:
    run = OutletRun(
        address=ServiceAddress(endpoint="tcp://127.0.0.1:1"), stop=StopRequest(), report=OutletReport("webhook"),
        position=tmp_path / "p", begin=begin,
    )  # fmt: skip
    with run.open_position("webhook") as file:
        assert file.position == stored
    with PositionFile(tmp_path / "p", "webhook") as file:
        assert file.position == stored


def test_a_report_hides_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    report = OutletReport("webhook")
    report.waiting("http://user:tops3cret@h/: refused")
    report.notice("http://user:tops3cret@h/: refused")
    assert "tops3cret" not in f"{report.status.reason}{capsys.readouterr().err}"
    assert report.status.state == "waiting"
    report.running()
    assert (report.status.state, report.status.reason) == ("running", None)

"""The supervisor starts, changes and stops exactly the outlets that the configuration changes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from streamclf.config.outlet_options import OutletConfig
from streamclf.config.outlets import OutletsConfig
from streamclf.events.outlet_status import OutletStatus, parse_status_line, status_line
from streamclf.runtime.jobs import HubReady, OutletJob
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child
from streamclf.supervisor.outlets import OutletSet

READY = HubReady(events="tcp://0.0.0.0:5555", replay="tcp://0.0.0.0:5556", epoch="9f" * 16, head=41)


@pytest.fixture
def table() -> Iterator[LivenessTable]:
    table = LivenessTable()
    yield table
    table.close()


@pytest.fixture
def started() -> list[str]:
    return []


@pytest.fixture
def outlets(table: LivenessTable, started: list[str], tmp_path: Path) -> OutletSet:
    """Outlets whose processes are not started really: each start is recorded."""

    def start(child: Child) -> None:
        started.append(child.name)

    return OutletSet(table, lambda event: None, journal=tmp_path / "j.db", access=None, start_child=start)


def configs(**sections: Any) -> list[OutletConfig]:
    return OutletsConfig.model_validate(sections).all


def job(outlets: OutletSet, name: str) -> OutletJob:
    outlet = outlets.of_child(f"outlet[{name}]")
    assert outlet
    assert isinstance(outlet.child.job, OutletJob)
    return outlet.child.job


def test_nothing_starts_before_the_hub_is_ready(outlets: OutletSet, started: list[str]) -> None:
    assert outlets.apply(configs(metrics={})) == []
    assert started == []


def test_a_new_outlet_begins_behind_the_journal_of_the_start_and_keeps_its_position_beside_it(
    outlets: OutletSet, tmp_path: Path
) -> None:
    outlets.open(READY, configs(webhook={"url": "http://h/"}, log={"file": "a.db"}))
    webhook = job(outlets, "webhook")
    assert webhook.events == "tcp://127.0.0.1:5555"
    assert webhook.begin == (READY.epoch, 41)
    assert webhook.position == tmp_path / "j.db.outlets" / "webhook"
    assert webhook.position.parent.stat().st_mode & 0o777 == 0o700
    assert job(outlets, "log").position is None
    outlets.apply(configs(webhook={"url": "http://h/"}, mqtt={"broker": "mqtt://h"}))
    assert job(outlets, "mqtt").begin is None  # it is new in a running service: new events


def test_only_changed_outlets_start_again(outlets: OutletSet, started: list[str]) -> None:
    outlets.open(READY, configs(webhook={"url": "http://h/"}, log={"file": "a.db"}))
    started.clear()
    outlets.apply(configs(webhook={"url": "http://h/", "batch": 2}, log={"file": "a.db"}, metrics={}))
    assert started == ["outlet[webhook]", "outlet[metrics]"]
    assert job(outlets, "webhook").options["batch"] == 2
    outlets.apply(configs(log={"file": "a.db"}))
    assert list(outlets.statuses) == ["log"]
    assert outlets.of_child("outlet[webhook]") is None


def test_the_reason_of_a_parked_outlet_is_the_error_that_it_reported(outlets: OutletSet) -> None:
    outlets.open(READY, configs(metrics={}))
    outlet = outlets.of_child("outlet[metrics]")
    assert outlet
    reported = OutletStatus(state="waiting", reason="port in use", since=datetime.now(timezone.utc), delivered=3)
    outlets.record_line(outlet, status_line(reported))
    outlets.record_line(outlet, b"a library's output\n")
    assert outlet.status == reported
    assert outlets.record_end(outlet, "restarting", "signal 9", -9) == "signal 9"
    outlets.record_line(outlet, status_line(reported))
    assert outlets.record_end(outlet, "parked", "exit code 1", 1) == "port in use"
    assert (outlet.status.state, outlet.status.reason, outlet.status.delivered) == ("parked", "port in use", 3)


def test_a_parked_outlet_that_is_stopping_is_not_started_again(outlets: OutletSet, started: list[str]) -> None:
    outlets.open(READY, configs(metrics={}))
    outlet = outlets.of_child("outlet[metrics]")
    assert outlet
    outlets.record_end(outlet, "parked", "signal 9", -9)
    outlet.child.request_stop()  # it was started again in the meantime, and its exit is not handled yet
    started.clear()
    outlets.restart_parked()
    assert started == []
    outlet.child.stopping = False
    outlets.restart_parked()
    assert started == ["outlet[metrics]"]


def test_a_status_survives_its_line() -> None:
    status = OutletStatus(state="running", since=datetime.now(timezone.utc), delivered=1, refused=2, lost=3)
    assert parse_status_line(status_line(status)) == status

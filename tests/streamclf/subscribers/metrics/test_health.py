"""The health check names a silent service and each stream that is away for too long, and recovers with them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from streamclf.client.stream_views import SERVICE_SILENT_S, ServiceView
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import Heartbeat, Status
from streamclf.subscribers.metrics.health import MAX_REASONS, STATUS_OVERDUE_S, HealthCheck

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def status(state: Any, stream: str = "door", reason: str | None = None, **flags: bool) -> Status:
    event: dict[str, Any] = {"stream": stream, "epoch": EPOCH, "offset": 9, "previous": 8, "time": NOW}
    return Status(**event, state=state, reason=reason, **flags)


def heartbeat(epoch: str = EPOCH, not_durable: int = 0) -> Heartbeat:
    return Heartbeat(
        epoch=epoch, time=NOW, head=4711, oldest=12, last={}, replay="tcp://127.0.0.1:1", not_durable=not_durable
    )


def reasons(health: HealthCheck, now_s: float) -> list[str]:
    code, content_type, body = health.page(now_s)
    page = json.loads(body)
    assert content_type == "application/json"
    assert (code, page["status"]) == ((503, "unhealthy") if page["reasons"] else (200, "ok"))
    return list(page["reasons"])


def test_a_silent_service_is_unhealthy_until_it_sends_again() -> None:
    service = ServiceView()
    health = HealthCheck(service, 60.0)
    assert reasons(health, 0.0) == ["nothing received from the service yet"]
    service.apply(heartbeat(), 0.0)
    assert reasons(health, SERVICE_SILENT_S) == []
    assert reasons(health, SERVICE_SILENT_S + 2) == [f"service silent for {SERVICE_SILENT_S + 2:.0f} s"]
    service.apply(heartbeat(), 13.0)
    assert reasons(health, 13.0) == []


def test_events_that_are_not_kept_and_a_new_journal_are_reported_for_a_minute() -> None:
    service = ServiceView()
    health = HealthCheck(service, 60.0)

    def reasons_at(now_s: float, epoch: str = EPOCH, not_durable: int = 0) -> list[str]:
        service.apply(heartbeat(epoch, not_durable), now_s)
        return reasons(health, now_s)

    assert reasons_at(0.0, not_durable=3) == []  # before this program connected
    assert reasons_at(1.0, not_durable=5) == [
        "journal: events are published without being kept, 5 since the hub's start"
    ]
    assert len(reasons_at(60.0, not_durable=5)) == 1
    assert reasons_at(61.5, not_durable=5) == []
    assert reasons_at(62.0, "f" * 32) == ["journal: a new one began; the old events cannot be replayed"]
    assert reasons_at(123.0, "f" * 32) == []


def test_a_stream_that_is_away_for_too_long_is_named_with_its_reason() -> None:
    service = ServiceView()
    health = HealthCheck(service, 60.0)

    def reasons_at(now_s: float) -> list[str]:
        service.apply(heartbeat(), now_s)
        return reasons(health, now_s)

    service.apply(status("live"), 0.0)
    service.apply(status("stalled", reason="no picture"), 10.0)
    service.apply(status("connecting"), 40.0)  # the same absence goes on
    service.apply(status("offline", reason="connection refused"), 65.0)
    assert reasons_at(70.0) == []
    assert reasons_at(71.0) == ["stream door: offline, not live for 61 s (connection refused)"]
    service.apply(status("live"), 72.0)
    assert reasons_at(72.0) == []


def test_a_live_stream_without_status_is_named() -> None:
    service = ServiceView()
    service.apply(status("live"), 72.0)
    service.apply(heartbeat(), 72.0 + STATUS_OVERDUE_S + 1)
    expected = [f"stream door: no status for {STATUS_OVERDUE_S + 1:.0f} s"]
    assert reasons(HealthCheck(service, 60.0), 72.0 + STATUS_OVERDUE_S + 1) == expected


def test_a_film_that_has_ended_and_a_paused_stream_are_no_fault_whatever_their_reason() -> None:
    service = ServiceView()
    service.apply(status("offline", "film", reason="end of the file", finished=True), 0.0)
    service.apply(status("offline", "yard", reason="paused in the configuration", paused=True), 0.0)
    service.apply(status("offline", "broken", reason="end of the file"), 0.0)
    service.apply(heartbeat(), 61.0)
    expected = ["stream broken: offline, not live for 61 s (end of the file)"]
    assert reasons(HealthCheck(service, 60.0), 61.0) == expected


def test_the_number_of_reasons_is_limited() -> None:
    service = ServiceView()
    for number in range(MAX_REASONS + 5):
        service.apply(status("frozen", f"cam{number}"), 0.0)
    service.apply(heartbeat(), 100.0)
    found = reasons(HealthCheck(service, 60.0), 100.0)
    assert (len(found), found[-1]) == (MAX_REASONS + 1, "and 5 more")


def test_a_parked_outlet_is_reported_and_a_waiting_one_is_not() -> None:
    service = ServiceView()
    health = HealthCheck(service, 60.0)
    waiting = OutletStatus(state="waiting", reason="connection refused", since=NOW)
    parked = OutletStatus(state="parked", reason="port in use", since=NOW)
    service.apply(replace(heartbeat(), outlets={"mqtt": waiting, "metrics": parked}), 0.0)
    assert reasons(health, 1.0) == ["outlet metrics: parked (port in use)"]
    service.apply(heartbeat(), 1.0)
    assert reasons(health, 1.0) == []

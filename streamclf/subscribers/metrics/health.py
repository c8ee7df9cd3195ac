"""Check a service: it sends heartbeats, keeps its events, and no stream is down for too long. Times are monotonic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson

from streamclf.client.stream_views import ServiceView
from streamclf.events.fleet_heartbeat import FleetHeartbeat, fleet_fault

STATUS_OVERDUE_S: Final = 30.0
"""A live stream publishes a status with its counters every 5 s; report one that is missing for this long."""
JOURNAL_FAULT_S: Final = 60.0
"""Report a fault of the journal for this long after it last occurred."""
MAX_REASONS: Final = 20


class HealthCheck:
    """Make the answer of `/healthz` from the state of a service."""

    def __init__(self, service: ServiceView, stalled_after_s: float) -> None:
        self._service = service
        self._stalled_after_s = stalled_after_s

    def reasons(self, now_s: float) -> Iterator[str]:
        """Yield one line for each fault at monotonic `now_s`; a healthy service has none."""
        service = self._service
        if service.received_at_s is None:
            yield "nothing received from the service yet"
            return
        if service.is_silent(now_s):
            yield f"service silent for {now_s - service.received_at_s:.0f} s"
            return  # the states of its streams are outdated
        heartbeat = service.heartbeat
        if isinstance(heartbeat, FleetHeartbeat):
            yield from heartbeat.problems()
            for name in heartbeat.streams or ():
                if (fault := fleet_fault(heartbeat, name)) is not None:
                    yield f"stream {name}: {fault}"
        for name, outlet in service.outlets.items():
            if outlet.state == "parked":
                yield f"outlet {name}: parked ({outlet.reason})"
        for number, device in service.devices.items():
            if device.state == "lost":
                yield f"GPU {number}: lost ({device.reason})"
        if service.journal_fault and now_s - service.journal_fault_at_s < JOURNAL_FAULT_S:
            yield f"journal: {service.journal_fault}"
        for name, stream in service.streams.items():
            status = stream.status
            if status is None or stream.status_at_s is None or stream.changed_at_s is None:
                continue
            if fleet_fault(heartbeat, name) is not None:
                continue
            if status.state == "live":
                if now_s - stream.status_at_s > STATUS_OVERDUE_S:
                    yield f"stream {name}: no status for {now_s - stream.status_at_s:.0f} s"
            elif now_s - stream.changed_at_s > self._stalled_after_s and not (status.finished or status.paused):
                reason = f" ({status.reason})" if status.reason else ""
                yield f"stream {name}: {status.state}, not live for {now_s - stream.changed_at_s:.0f} s{reason}"

    def page(self, now_s: float) -> tuple[int, str, bytes]:
        """Return HTTP status, content type and body: 200 if healthy, else 503 with at most 20 reasons."""
        reasons = list(self.reasons(now_s))
        more = [f"and {len(reasons) - MAX_REASONS} more"] if len(reasons) > MAX_REASONS else []
        body = {"status": "unhealthy" if reasons else "ok", "reasons": reasons[:MAX_REASONS] + more}
        return 503 if reasons else 200, "application/json", orjson.dumps(body) + b"\n"

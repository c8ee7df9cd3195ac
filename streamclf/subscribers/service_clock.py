"""Measure the age of events by the service's clock."""

from __future__ import annotations

import time
from datetime import datetime, timezone

_CLOCK_PERIOD_S = 60.0


class ServiceClock:
    """Measure the age of events by the service's own clock, which may differ from this machine's.

    Heartbeats hold the service's time. A heartbeat that waited in a queue holds an old time, so the fastest heartbeat
    of the last one or two minutes counts.
    """

    def __init__(self) -> None:
        self._previous_s: float | None = None
        self._offset_s: float | None = None
        """The largest difference between the service's time and our monotonic clock in the current minute."""
        self._since_s = 0.0

    def update(self, service_time: datetime) -> None:
        """Note the time in a heartbeat that has just been received."""
        now_s = time.monotonic()
        offset_s = service_time.timestamp() - now_s
        if self._offset_s is None or now_s - self._since_s > _CLOCK_PERIOD_S:
            self._previous_s, self._offset_s, self._since_s = self._offset_s, offset_s, now_s
        self._offset_s = max(self._offset_s, offset_s)

    def age_s(self, at: datetime) -> float:
        """Return the seconds since `at`. Before the first heartbeat, this machine's clock counts."""
        if self._offset_s is None:
            return (datetime.now(timezone.utc) - at).total_seconds()
        offset_s = self._offset_s if self._previous_s is None else max(self._previous_s, self._offset_s)
        return time.monotonic() + offset_s - at.timestamp()

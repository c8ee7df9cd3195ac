"""Follow the events of a node's own service, to report how well it serves its streams."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from streamclf.client.subscription import subscribe
from streamclf.errors import StreamclfError
from streamclf.events.types import Heartbeat, Lost, Prediction, Received, Status
from streamclf.fleet.messages import Health
from streamclf.net.endpoints import local_endpoint

LATENCY_S: Final = 10.0
"""Latencies of the last seconds count."""
_MAX_LATENCIES: Final = 5000
_STALE_S: Final = 15.0
"""A stream without any event for this long is not live, whatever its last status was."""


class LocalStatus:
    """The state of one run of the service, from its events; a thread receives them until `close`."""

    def __init__(self, endpoint: str, keys: Path | None, server_key: Path | None) -> None:
        self._events = subscribe(
            local_endpoint(endpoint), types=["status", "prediction", "heartbeat"], keys=keys, server_key=server_key
        )
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._reasons: dict[str, str | None] = {}
        self._seen_s: dict[str, float] = {}
        self._dropped: dict[str, int] = {}
        self._latencies: deque[tuple[float, float]] = deque(maxlen=_MAX_LATENCIES)
        self.heartbeat: Heartbeat | None = None
        """The newest heartbeat."""
        threading.Thread(target=self._follow, name="local-status", daemon=True).start()

    def close(self) -> None:
        """Stop following."""
        self._events.close()

    def health(self, streams: Collection[str]) -> Health:
        """Return how well the service serves these streams."""
        now = time.monotonic()
        with self._lock:
            not_live = {}
            for stream in streams:
                state = self._states.get(stream, "starting")
                if state == "live" and now - self._seen_s[stream] > _STALE_S:
                    state = f"live, but without events for {_STALE_S:g} s"
                if state != "live":
                    reason = self._reasons.get(stream)
                    not_live[stream] = f"{state}: {reason}" if reason else state
            recent = sorted(latency for at_s, latency in self._latencies if now - at_s <= LATENCY_S)
            refused = {} if self.heartbeat is None else self.heartbeat.refused
            return Health(
                live=len(streams) - len(not_live),
                not_live=not_live,
                latency_ms=recent[int(0.95 * (len(recent) - 1))] if recent else None,
                dropped=sum(self._dropped.values()),
                refused=sum(refused.values()),
            )

    def forget(self, stream: str) -> None:
        """Forget the state of a stream that left this node."""
        with self._lock:
            for known in (self._states, self._reasons, self._seen_s, self._dropped):
                known.pop(stream, None)

    def _follow(self) -> None:
        with contextlib.suppress(StreamclfError):
            for event in self._events:
                with self._lock:
                    self._apply(event, time.monotonic())

    def _apply(self, event: Received, now: float) -> None:
        match event:
            case Heartbeat():
                self.heartbeat = event
            case Status():
                self._states[event.stream], self._reasons[event.stream] = event.state, event.reason or event.note
                self._seen_s[event.stream] = now
            case Prediction():
                self._seen_s[event.stream] = now
                self._states.setdefault(event.stream, "live")
                self._dropped[event.stream] = sum(event.dropped.values())
                if (latency := event.latency_ms.capture_to_publish) is not None:
                    self._latencies.append((now, latency))
            case Lost():
                pass

"""Whether a service does what it should: heard of lately, no stream away for too long. Pure; times are monotonic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson

from streamclf.events.types import State, Status

SILENT_S: Final = 5.0
"""A heartbeat comes each second."""
UNHEARD_S: Final = 30.0
"""A stream that is not offline tells its counters every 5 s."""
MAX_STREAMS: Final = 1024
MAX_REASONS: Final = 20


@dataclass(slots=True)
class _Watched:
    state: State
    reason: str | None
    finished: bool
    since_s: float
    heard_s: float


class HealthCheck:
    """Fed with heartbeats and statuses; gives the answer of `/healthz`."""

    def __init__(self, stalled_after_s: float) -> None:
        self._stalled_after_s = stalled_after_s
        self._beat_s: float | None = None
        self._streams: dict[str, _Watched] = {}

    def beat(self, now_s: float) -> None:
        """A heartbeat came."""
        self._beat_s = now_s

    def status(self, status: Status, now_s: float) -> None:
        """A stream told its state."""
        known = self._streams.get(status.stream)
        if known is None:
            if len(self._streams) < MAX_STREAMS:
                self._streams[status.stream] = _Watched(status.state, status.reason, status.finished, now_s, now_s)
            return
        # From connecting to offline and back is one absence: only live ends it.
        if (known.state == "live") != (status.state == "live"):
            known.since_s = now_s
        known.state, known.reason, known.finished = status.state, status.reason, status.finished
        known.heard_s = now_s

    def is_silent(self, now_s: float) -> bool:
        """Whether no heartbeat has come for too long, or ever."""
        return self._beat_s is None or now_s - self._beat_s > SILENT_S

    def reasons(self, now_s: float) -> Iterator[str]:
        """What is wrong, one line each."""
        if self._beat_s is None:
            yield "nothing heard of the service yet"
            return
        if self.is_silent(now_s):
            yield f"service silent for {now_s - self._beat_s:.0f} s"
            return  # its streams could not tell
        for name, stream in self._streams.items():
            if stream.state == "live":
                if now_s - stream.heard_s > UNHEARD_S:
                    yield f"stream {name}: no word for {now_s - stream.heard_s:.0f} s"
            elif now_s - stream.since_s > self._stalled_after_s and not stream.finished:
                because = f" ({stream.reason})" if stream.reason else ""
                yield f"stream {name}: {stream.state}, not live for {now_s - stream.since_s:.0f} s{because}"

    def page(self, now_s: float) -> tuple[int, str, bytes]:
        """HTTP status, content type and body."""
        reasons = list(self.reasons(now_s))
        more = [f"and {len(reasons) - MAX_REASONS} more"] if len(reasons) > MAX_REASONS else []
        body = {"status": "unhealthy" if reasons else "ok", "reasons": reasons[:MAX_REASONS] + more}
        return 503 if reasons else 200, "application/json", orjson.dumps(body) + b"\n"

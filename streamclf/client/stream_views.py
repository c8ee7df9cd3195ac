"""Reduce a service's events to the present state of each stream. No I/O; the caller gives the monotonic time."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import MAX_LISTED_STREAMS, Action, Heartbeat, Prediction, Received, State, Status

SERVICE_SILENT_S: Final = 5.0
"""Treat a service as silent when it has sent nothing for this long.

A service sends a heartbeat every second, so this is five missed heartbeats. The supervisor restarts a hub that died
after 0.2 s, and the hub takes about a second to publish again: with a limit near that, each restart would cause an
alarm and an "offline" in Home Assistant. A longer limit would show outdated predictions as current ones.
"""
RATE_WINDOW_S: Final = 3.0
"""The rate of predictions is measured over this time."""
_MIN_RATE_S: Final = 1.0
"""The rate of a stream that has been observed for less than this is not known: a replay sends many events at once."""
_MAX_ARRIVALS = 1024
_MAX_HISTORY = 600
_MAX_LATENCIES = 64


@dataclass(slots=True)
class StreamView:
    """The latest events of one stream, and values derived from them. Times are monotonic seconds."""

    status: Status | None = None
    status_at_s: float | None = None
    changed_at_s: float | None = None
    """When the stream last became live, or stopped being live. From connecting to offline is not such a change."""
    prediction: Prediction | None = None
    predicted_at_s: float | None = None
    action: Action | None = None
    active: dict[str, Action] = field(default_factory=dict)
    """The running actions by label, oldest first."""
    history: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=_MAX_HISTORY))
    """(label, probability) of the latest predictions, oldest first."""
    _first_s: float | None = None
    """When the first prediction arrived."""
    _arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_ARRIVALS))
    _latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_LATENCIES))

    def apply(self, event: Prediction | Action | Status, now_s: float) -> None:
        """Update the view with an event of this stream that arrived at `now_s`."""
        match event:
            case Prediction():
                self.prediction, self.predicted_at_s = event, now_s
                self.history.append(event.top[0])
                self._first_s = now_s if self._first_s is None else self._first_s
                self._arrivals_s.append(now_s)
                if event.latency_ms.capture_to_publish is not None:
                    self._latencies_ms.append(event.latency_ms.capture_to_publish)
            case Action():
                self.action = event
                if event.phase == "end":
                    self.active.pop(event.label, None)
                else:
                    self.active[event.label] = event
            case Status():
                if self.status is None or (self.status.state == "live") != (event.state == "live"):
                    self.changed_at_s = now_s
                self.status, self.status_at_s = event, now_s

    @property
    def state(self) -> State:
        """The state in the last status. A stream with a prediction and no status yet is live."""
        if self.status:
            return self.status.state
        return "live" if self.prediction else "connecting"

    @property
    def name(self) -> str | None:
        """The stream's name for people in the last status, if the configuration gives one."""
        return self.status.name if self.status else None

    @property
    def reason(self) -> str | None:
        """The reason in the last status."""
        return self.status.reason if self.status else None

    @property
    def note(self) -> str | None:
        """The note in the last status: a property of the source that a user should know."""
        return self.status.note if self.status else None

    @property
    def hop(self) -> int | None:
        """Chunks between two predictions, where the stream is adaptive."""
        return self.status.hop if self.status else None

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """(label, probability) of the last prediction, most probable first."""
        return self.prediction.top if self.prediction else ()

    @property
    def latency_ms(self) -> float | None:
        """The median time from captured frame to published prediction, over the last 64 predictions."""
        return statistics.median(self._latencies_ms) if self._latencies_ms else None

    def rate_per_s(self, now_s: float) -> float | None:
        """Return the predictions per second over the last three seconds, or since the first one if that is less.

        None while the stream has been observed for less than a second.
        """
        if self._first_s is None:
            return 0.0
        count = sum(now_s - arrival_s <= RATE_WINDOW_S for arrival_s in self._arrivals_s)
        observed_s = now_s - self._first_s
        if observed_s >= RATE_WINDOW_S:
            return count / RATE_WINDOW_S
        return (count - 1) / observed_s if observed_s >= _MIN_RATE_S else None


class ServiceView:
    """The streams of one service, at most 1,024. Events of further streams are ignored."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamView] = {}
        self.heartbeat: Heartbeat | None = None
        self.received_at_s: float | None = None
        """When the last event or heartbeat arrived."""
        self.journal_fault: str | None = None
        """What was wrong with the journal at `journal_fault_at_s`, as the last two heartbeats show it."""
        self.journal_fault_at_s = 0.0

    @property
    def outlets(self) -> Mapping[str, OutletStatus]:
        """The state of each outlet of the service, by name."""
        return self.heartbeat.outlets if self.heartbeat else {}

    def apply(self, event: Received, now_s: float) -> None:
        """Update the view with an event that arrived at `now_s`. An older event, of a snapshot, has an earlier time."""
        self.received_at_s = now_s if self.received_at_s is None else max(self.received_at_s, now_s)
        if isinstance(event, Heartbeat):
            self._compare(self.heartbeat, event, now_s)
            self.heartbeat = event
        elif isinstance(event, Prediction | Action | Status) and (view := self.find_or_add(event.stream)):
            view.apply(event, now_s)

    def _compare(self, last: Heartbeat | None, new: Heartbeat, now_s: float) -> None:
        if last is None:
            return
        if new.epoch != last.epoch:
            self.journal_fault, self.journal_fault_at_s = "a new one began; the old events cannot be replayed", now_s
        elif new.not_durable > last.not_durable:
            fault = f"events are published without being kept, {new.not_durable} since the hub's start"
            self.journal_fault, self.journal_fault_at_s = fault, now_s

    def find_or_add(self, name: str) -> StreamView | None:
        """Return the view of stream `name`, and add it if it is new; None if there are too many streams."""
        if name not in self.streams and len(self.streams) < MAX_LISTED_STREAMS:
            self.streams[name] = StreamView()
        return self.streams.get(name)

    def is_silent(self, now_s: float) -> bool:
        """Return whether the service has sent nothing for `SERVICE_SILENT_S`, or nothing at all."""
        return self.received_at_s is None or now_s - self.received_at_s > SERVICE_SILENT_S

"""Reduce a service's events to the present state of each stream. No I/O; the caller gives the monotonic time."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamclf.events.device_status import DeviceStatus
from streamclf.events.kinds import State
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import MAX_LISTED_STREAMS, Action, Heartbeat, Prediction, Received, Status
from streamclf.events.views import MAX_VIEWS, UNNAMED, ActionKey, Area, ViewKey, action_of, view_of

SERVICE_SILENT_S: Final = 5.0
"""Treat a service as silent when it has sent nothing for this long.

A service sends a heartbeat every second, so this is five missed heartbeats. The supervisor restarts a hub that died
after 0.2 s, and the hub takes about a second to publish again: with a limit near that, each restart would cause an
alarm and an "offline" in Home Assistant. A longer limit would show outdated predictions as current ones.
"""
RATE_WINDOW_S: Final = 3.0
"""The rate of predictions is measured over this time."""
MAX_ALL_VIEWS: Final = 4 * MAX_LISTED_STREAMS
"""Views of all streams together whose states are kept."""
_MIN_RATE_S: Final = 1.0
"""The rate of a stream that has been observed for less than this is not known: a replay sends many events at once."""
_MAX_ARRIVALS = 1024
_MAX_HISTORY = 600
_MAX_LATENCIES = 64


@dataclass(slots=True)
class ViewState:
    """The latest predictions and actions of one view of a stream. Times are monotonic seconds."""

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

    def apply(self, event: Prediction | Action, now_s: float) -> None:
        """Update the state with an event of this view that arrived at `now_s`."""
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

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """(label, probability) of the last prediction, most probable first."""
        return self.prediction.top if self.prediction else ()

    @property
    def present(self) -> tuple[tuple[str, float], ...] | None:
        """(label, probability) of the labels that apply now; None before the first prediction."""
        return self.prediction.present if self.prediction else None

    @property
    def latency_ms(self) -> float | None:
        """The median time from captured frame to published prediction, over the last 64 predictions."""
        return statistics.median(self._latencies_ms) if self._latencies_ms else None

    def rate_per_s(self, now_s: float) -> float | None:
        """Return the predictions per second over the last three seconds, or since the first one if that is less.

        None while the view has been observed for less than a second.
        """
        if self._first_s is None:
            return 0.0
        count = sum(now_s - arrival_s <= RATE_WINDOW_S for arrival_s in self._arrivals_s)
        observed_s = now_s - self._first_s
        if observed_s >= RATE_WINDOW_S:
            return count / RATE_WINDOW_S
        return (count - 1) / observed_s if observed_s >= _MIN_RATE_S else None


@dataclass(slots=True)
class StreamState:
    """The latest events of one stream, and values derived from them. Times are monotonic seconds."""

    status: Status | None = None
    status_at_s: float | None = None
    changed_at_s: float | None = None
    """When the stream last became live, or stopped being live. From connecting to offline is not such a change."""
    views: dict[ViewKey, ViewState] = field(default_factory=dict)
    """The state of each view that has had an event, at most `MAX_VIEWS`."""
    lease: int = 0
    """The largest lease of an event; 0 outside a fleet."""

    def apply(self, event: Prediction | Action | Status, now_s: float) -> None:
        """Update the state with an event of this stream that arrived at `now_s`. Further views are ignored.

        An event of an earlier lease is old, and changes nothing: its node was lost and is back. With a later lease,
        the actions of the earlier node have ended, though that node could not publish their ends.
        """
        lease = event.lease or 0
        if lease < self.lease:
            return
        if lease > self.lease:
            self.lease = lease
            for view in self.views.values():
                view.active.clear()
        if not isinstance(event, Status):
            if (state := self.find_or_add(view_of(event))) is not None:
                state.apply(event, now_s)
            return
        if self.status is None or (self.status.state == "live") != (event.state == "live"):
            self.changed_at_s = now_s
        self.status, self.status_at_s = event, now_s
        known = listed_views(event)
        for key in [] if known is None else [key for key in self.views if key not in known]:
            del self.views[key]  # a region or a model that was removed

    def find_or_add(self, key: ViewKey) -> ViewState | None:
        """Return the state of a view, and add it if it is new; None if there are too many."""
        if key not in self.views and len(self.views) < MAX_VIEWS:
            self.views[key] = ViewState()
        return self.views.get(key)

    def ordered_views(self) -> list[tuple[ViewKey, ViewState]]:
        """Return the views that the status lists or that have had an event, first the whole picture.

        A stream without any has one unnamed view without events.
        """
        keys = set(self.views)
        if self.status is not None and self.status.views is not None:
            keys.update(each.key for each in self.status.views)
        ordered = sorted(keys, key=lambda key: key.sort_key) or [UNNAMED]
        return [(key, self.views.get(key) or ViewState()) for key in ordered]

    def area_of(self, region: str | None) -> Area | None:
        """Return the rectangle of a region in shares of the picture, from the last status; None if it is not known."""
        views = self.status.views if self.status else None
        return next((each.area for each in views or () if each.region == region and each.area is not None), None)

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
    def decode(self) -> str | None:
        """How the source's latest frame was decoded, `exact` or `fast`; None if that is not known."""
        return self.status.decode if self.status else None

    @property
    def hop(self) -> int | None:
        """Chunks between two predictions, where the stream is adaptive; the longest of its views."""
        return self.status.hop if self.status else None

    @property
    def latest(self) -> ViewState:
        """The view with the latest prediction; an empty one before the first."""
        predicted = [each for each in self.views.values() if each.predicted_at_s is not None]
        return max(predicted, key=lambda each: each.predicted_at_s or 0.0, default=ViewState())

    @property
    def prediction(self) -> Prediction | None:
        """The latest prediction of any view."""
        return self.latest.prediction

    @property
    def predicted_at_s(self) -> float | None:
        """When it arrived."""
        return self.latest.predicted_at_s

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """(label, probability) of the latest prediction of any view, most probable first."""
        return self.latest.top

    @property
    def action(self) -> Action | None:
        """The latest event of an action of any view."""
        found = [each.action for each in self.views.values() if each.action is not None]
        return max(found, key=lambda action: action.time, default=None)

    @property
    def active(self) -> dict[ActionKey, Action]:
        """The running actions of all views, oldest first."""
        running = [action for each in self.views.values() for action in each.active.values()]
        return {action_of(action): action for action in sorted(running, key=lambda action: action.started_s)}

    @property
    def latency_ms(self) -> float | None:
        """The longest median latency of a view."""
        known = [each.latency_ms for each in self.views.values()]
        return max((each for each in known if each is not None), default=None)

    def rate_per_s(self, now_s: float) -> float | None:
        """Return the predictions per second of all views together; None while that is not known for any of them."""
        rates = [each.rate_per_s(now_s) for each in self.views.values()]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known or not rates else None


def listed_views(status: Status) -> frozenset[ViewKey] | None:
    """Return the views that a stream has by its status; None if the status does not say it."""
    if status.views is not None:
        return frozenset(each.key for each in status.views)
    return None if status.actions is None else frozenset({UNNAMED})


class ServiceView:
    """The streams of one service, at most 1,024. Events of further streams are ignored."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamState] = {}
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

    @property
    def devices(self) -> Mapping[str, DeviceStatus]:
        """The state of each GPU that the service's configuration lists, by its number."""
        return self.heartbeat.devices if self.heartbeat else {}

    def apply(self, event: Received, now_s: float) -> None:
        """Update the view with an event that arrived at `now_s`. An older event, of a snapshot, has an earlier time."""
        self.received_at_s = now_s if self.received_at_s is None else max(self.received_at_s, now_s)
        if isinstance(event, Heartbeat):
            self._compare(self.heartbeat, event, now_s)
            self.heartbeat = event
        elif isinstance(event, Prediction | Action | Status) and (view := self.find_or_add(event.stream)):
            self._apply_to(view, event, now_s)

    def _compare(self, last: Heartbeat | None, new: Heartbeat, now_s: float) -> None:
        if last is None:
            return
        if new.epoch != last.epoch:
            self.journal_fault, self.journal_fault_at_s = "a new one began; the old events cannot be replayed", now_s
        elif new.not_durable > last.not_durable:
            fault = f"events are published without being kept, {new.not_durable} since the hub's start"
            self.journal_fault, self.journal_fault_at_s = fault, now_s

    def find_or_add(self, name: str) -> StreamState | None:
        """Return the view of stream `name`, and add it if it is new; None if there are too many streams."""
        if name not in self.streams and len(self.streams) < MAX_LISTED_STREAMS:
            self.streams[name] = StreamState()
        return self.streams.get(name)

    def _apply_to(self, view: StreamState, event: Prediction | Action | Status, now_s: float) -> None:
        is_known = isinstance(event, Status) or view_of(event) in view.views
        if is_known or sum(len(each.views) for each in self.streams.values()) < MAX_ALL_VIEWS:
            view.apply(event, now_s)

    def is_silent(self, now_s: float) -> bool:
        """Return whether the service has sent nothing for `SERVICE_SILENT_S`, or nothing at all."""
        return self.received_at_s is None or now_s - self.received_at_s > SERVICE_SILENT_S

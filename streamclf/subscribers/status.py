"""`streamclf status`: show the state of each stream of a service, as a live table or as one JSON object."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any, TypeAlias

import orjson
from rich.console import Console
from rich.text import Text

from engines.printable import printable
from streamclf.client.replay import Snapshot
from streamclf.client.stream_views import ServiceView, StreamState, ViewState
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import BusError
from streamclf.events.device_status import DeviceStatus
from streamclf.events.fleet_heartbeat import FleetHeartbeat
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.positions import Position
from streamclf.events.types import Action, Heartbeat, Prediction, Received, Status, StreamEvent
from streamclf.events.views import ViewKey, view_keys, view_of
from streamclf.render.live_screen import live_screen
from streamclf.render.terminal_table import LiveTable
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.chosen_streams import refuse_unknown_streams
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.units import duration_text

AgeFunction: TypeAlias = Callable[[Prediction | Action | Status | None], float | None]
"""Returns the age of an event in seconds; None for no event."""

_RateKey: TypeAlias = tuple[str, ViewKey | None]
"""A stream and one of its views, or None for all of them together."""

_POLL_S = 0.25
_RATE_WINDOW_S = 10.0
_MAX_RECENT_EVENTS = 2000


def run_status(
    endpoint: str,
    *,
    streams: Collection[str] | None = None,
    as_json: bool = False,
    seconds: float | None = None,
    timeout_s: float = 5.0,
) -> int:
    """Show the live table until Ctrl-C or for `seconds`; return the exit code.

    Print once and return where stdout is not a terminal, or with `as_json`. Raises `BusError` when the service does not
    answer within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    with subscribe(endpoint, streams=streams) as events:
        snapshot = events.snapshot(timeout_s)
        heartbeat, received = _first_heartbeat(events, timeout_s)
        refuse_unknown_streams(streams, heartbeat)
        recent = _recent_events(endpoint, streams, snapshot, deadline_s)
        if as_json:
            report = _report(endpoint, snapshot, heartbeat, _rates(recent, heartbeat.time))
            sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_UTC_Z) + b"\n")
            sys.stdout.flush()
            return 0
        console = Console()
        table = LiveTable("streamclf status", endpoint, hint="Ctrl-C ends" if console.is_terminal else "")
        for event in _known_events(snapshot, recent):
            table.apply(event, age_s=max(1e-3, (heartbeat.time - event.time).total_seconds()))
        table.apply(heartbeat)
        table.footer = _footer(heartbeat)
        if not console.is_terminal:
            console.print(table)
            return 0
        for new in received:
            if _is_newer(new, snapshot.position):
                table.apply(new)
        began_s = time.monotonic()
        _follow(events, table, snapshot.position, console, StopRequest(seconds))
    OutletReport("status").notice(f"shown for {duration_text(time.monotonic() - began_s)}")
    return 0


def _first_heartbeat(events: Subscription, timeout_s: float) -> tuple[Heartbeat, list[Received]]:
    """Wait for a heartbeat, which holds the service's time and counts; also return the events before it."""
    received: list[Received] = []
    deadline_s = time.monotonic() + timeout_s
    while (remaining_s := deadline_s - time.monotonic()) > 0:
        event = events.receive(remaining_s)
        if isinstance(event, Heartbeat):
            return event, received
        if event is not None:
            received.append(event)
    raise BusError(
        f"{events.endpoint}: no heartbeat within {timeout_s:g} s; is the service running? Give a longer --timeout"
    )


def _is_newer(event: Received, position: Position) -> bool:
    """Return whether the snapshot at `position` lacks `event`. The live socket repeats events of the snapshot."""
    if not isinstance(event, Prediction | Action | Status) or event.offset is None:
        return True
    return event.offset > position.offsets.get(event.epoch, 0)


def _follow(events: Subscription, table: LiveTable, position: Position, console: Console, stop: StopRequest) -> None:
    """Update the table on the terminal with the events after `position` until `stop` is set."""
    with stop_on_signals(stop.request), live_screen(table, console):
        while not stop.is_set:
            event = events.receive(_POLL_S)
            if event is not None and _is_newer(event, position):
                table.apply(event)
            if isinstance(event, Heartbeat):
                table.footer = _footer(event)
            elif table.service.is_silent(now_s := time.monotonic()):
                silent_s = now_s - (table.service.received_at_s or now_s)
                table.footer = (Text(f"nothing received for {silent_s:.0f} s: the service is silent", "bold red"),)


def _footer(heartbeat: Heartbeat) -> tuple[Text, ...]:
    counts = ((heartbeat.not_durable, "not kept"), (sum(heartbeat.dropped.values()), "dropped"))
    return (
        *(Text(f"{count} {name}", "bold red") for count, name in counts if count),
        *(_device_text(number, device) for number, device in heartbeat.devices.items()),
        *_journal_texts(heartbeat),
    )


def _device_text(number: str, device: DeviceStatus) -> Text:
    load = "" if device.load is None else f", load {device.load:.0%}"
    if device.state == "serving":
        return Text(f"GPU {number}: {device.views} views{load}")
    reason = f" ({printable(device.reason)})" if device.reason else ""
    return Text(f"GPU {number}: {device.state}{reason}", "bold red" if device.state == "lost" else "")


def _journal_texts(heartbeat: Heartbeat) -> Iterator[Text]:
    if not isinstance(heartbeat, FleetHeartbeat):
        yield Text(f"events {heartbeat.oldest} to {heartbeat.head}")
        yield Text(f"journal {heartbeat.epoch[:8]}")
        return
    live = [name for name, node in heartbeat.nodes.items() if node.condition == "live"]
    yield Text(f"{len(live)} of {len(heartbeat.nodes)} nodes live")
    for name, node in heartbeat.nodes.items():
        if node.condition == "lost":
            yield Text(f"node {name} lost since {node.since:%H:%M:%S} UTC", "bold red")
    if heartbeat.directory_fault:
        yield Text(f"directory: {heartbeat.directory_fault}", "bold red")
    if heartbeat.unplaced:
        yield Text(f"{len(heartbeat.unplaced)} streams on no node", "bold red")


def _nodes_report(heartbeat: Heartbeat) -> dict[str, Any]:
    """Report the nodes of a fleet; empty outside one."""
    if not isinstance(heartbeat, FleetHeartbeat):
        return {}
    nodes = {
        name: {
            "state": node.condition,
            "since": node.since,
            "reason": node.reason,
            "streams": node.streams,
            "capacity": node.capacity,
            "version": node.version,
            "epoch": node.heartbeat.epoch if node.heartbeat else None,
            "head": node.heartbeat.head if node.heartbeat else None,
        }
        for name, node in heartbeat.nodes.items()
    }
    return {
        "nodes": nodes,
        "unplaced": heartbeat.unplaced,
        "refused": heartbeat.refused,
        "directory_fault": heartbeat.directory_fault,
    }


def _recent_events(
    endpoint: str, streams: Collection[str] | None, snapshot: Snapshot, deadline_s: float
) -> list[StreamEvent] | None:
    """Fetch the newest 2,000 events of the journal up to the snapshot; None if that takes too long."""
    heads = snapshot.position.offsets
    after = Position.of({epoch: max(0, head - _MAX_RECENT_EVENTS // len(heads)) for epoch, head in heads.items()})
    recent: list[StreamEvent] = []
    with subscribe(endpoint, streams=streams, replay=True, after=after) as events:
        while events.position is None or not events.position.covers(heads):
            if (remaining_s := deadline_s - time.monotonic()) <= 0:
                return None
            event = events.receive(min(remaining_s, _POLL_S))
            if isinstance(event, Prediction | Action | Status):
                recent.append(event)
    return recent


def _known_events(snapshot: Snapshot, recent: list[StreamEvent] | None) -> list[StreamEvent]:
    """Return the events of the snapshot that are older than the recent ones, then these, without repetitions."""
    repeated = {(event.epoch, event.offset) for event in recent or ()}
    old = (event for event in snapshot.events if (event.epoch, event.offset) not in repeated)
    return sorted([*old, *(recent or ())], key=lambda event: event.lease or 0)


def _rates(recent: list[StreamEvent] | None, now: datetime) -> dict[_RateKey, float]:
    """Count the predictions per second of each view and stream over the last 10 s; {} without the recent events.

    If they do not reach back 10 s, the rate is over the time that they cover.
    """
    counts: Counter[_RateKey] = Counter()
    covered_s = 0.0
    for event in recent or ():
        age_s = (now - event.time).total_seconds()
        covered_s = max(covered_s, age_s)
        is_counted = isinstance(event, Prediction) and 0 <= age_s <= _RATE_WINDOW_S
        counts[event.stream, None] += is_counted
        if isinstance(event, Prediction):
            counts[event.stream, view_of(event)] += is_counted
    if len(recent or ()) < _MAX_RECENT_EVENTS or covered_s > _RATE_WINDOW_S:
        covered_s = _RATE_WINDOW_S
    return {key: round(count / covered_s, 3) for key, count in counts.items()} if covered_s > 0 else {}


def _report(endpoint: str, snapshot: Snapshot, heartbeat: Heartbeat, rates: dict[_RateKey, float]) -> dict[str, Any]:
    service = ServiceView()
    for event in snapshot.events:
        service.apply(event, time.monotonic())
    streams = {name: _stream_report(name, view, heartbeat.time, rates) for name, view in service.streams.items()}
    return {
        "endpoint": endpoint,
        "replay": heartbeat.replay,
        "time": heartbeat.time,
        "epoch": snapshot.epoch,
        "oldest": snapshot.oldest,
        "head": snapshot.head,
        "not_durable": heartbeat.not_durable,
        "dropped": heartbeat.dropped,
        "streams": streams,
        **_nodes_report(heartbeat),
        "outlets": {name: _outlet_report(outlet, heartbeat.time) for name, outlet in heartbeat.outlets.items()},
        "devices": heartbeat.devices,
    }


def _outlet_report(outlet: OutletStatus, now: datetime) -> dict[str, Any]:
    return {
        "state": outlet.state,
        "reason": outlet.reason,
        "state_age_s": round((now - outlet.since).total_seconds(), 3),
        "delivered": outlet.delivered,
        "refused": outlet.refused,
        "lost": outlet.lost,
    }


def _stream_report(name: str, view: StreamState, now: datetime, rates: dict[_RateKey, float]) -> dict[str, Any]:
    """Report one stream. Every stream has every key, so that readers need not check for it."""

    def age_s(event: Prediction | Action | Status | None) -> float | None:
        return None if event is None else round((now - event.time).total_seconds(), 3)

    def rate_per_s(key: ViewKey | None = None) -> float | None:
        return rates.get((name, key), 0.0 if rates else None)

    status, prediction, action = view.status, view.prediction, view.action
    return {
        "name": view.name,
        "state": status.state if status else None,
        "reason": view.reason,
        "state_age_s": age_s(status),
        "counters": status.counters if status else {},
        "hop": view.hop,
        "decode": view.decode,
        "top": view.top,
        "views": [
            _view_report(key, part, age_s) | {"rate_per_s": rate_per_s(key)} for key, part in view.ordered_views()
        ],
        "model": prediction.model if prediction else None,
        "age_s": age_s(prediction),
        "latency_ms": prediction.latency_ms.capture_to_publish if prediction else None,
        "rate_per_s": rate_per_s(),
        "action": _action_report(action, age_s),
    }


def _view_report(key: ViewKey, part: ViewState, age_s: AgeFunction) -> dict[str, Any]:
    """Report one view of a stream; region and model are null where the view has no such name."""
    prediction = part.prediction
    return {
        "region": key.region,
        "model_name": key.model_name,
        "top": part.top,
        "labels": None if prediction is None else prediction.labels,
        "model": prediction.model if prediction else None,
        "age_s": age_s(prediction),
        "latency_ms": prediction.latency_ms.capture_to_publish if prediction else None,
        "action": _action_report(part.action, age_s),
    }


def _action_report(action: Action | None, age_s: AgeFunction) -> dict[str, Any] | None:
    if action is None:
        return None
    report = {"label": action.label, "phase": action.phase, "started_s": action.started_s, "age_s": age_s(action)}
    return report | view_keys(action)

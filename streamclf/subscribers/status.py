"""`streamclf status`: how each stream of a service is, as a live table or as one JSON object."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from rich.console import Console
from rich.live import Live

from streamclf.client.replay import Snapshot
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import BusError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Heartbeat, Prediction, Received, Status
from streamclf.render.terminal_table import LiveTable
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest

_REFRESH_HZ = 8
_TURN_S = 0.25
_SILENT_S = 3.0
_RATE_S = 10.0
_RATE_EVENTS = 2000


def run_status(endpoint: str, *, as_json: bool = False, seconds: float | None = None, timeout_s: float = 5.0) -> int:
    """Show the table until Ctrl-C or for `seconds`; once, where nobody watches or `as_json`. The exit code.

    Raises `BusError` when nobody answers within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with subscribe(endpoint) as events:
        found = events.snapshot(timeout_s)
        beat, early = _first_beat(events, deadline)
        if as_json:
            rates = _rates(endpoint, found, beat.time, deadline)
            print(orjson.dumps(_report(endpoint, found, beat, rates), option=orjson.OPT_UTC_Z).decode())
            return 0
        board = LiveTable(f"[bold]streamclf status[/]  {endpoint}")
        for event in found.events:
            board.apply(event, age_s=max(1e-3, (beat.time - event.time).total_seconds()))
        board.footer = _footer(beat)
        console = Console()
        if not console.is_terminal:
            console.print(board.render())
            return 0
        _follow(events, board, _Seen(found, early), console, seconds)
    return 0


def _first_beat(events: Subscription, deadline: float) -> tuple[Heartbeat, list[Received]]:
    """The service's own clock and counts; and what came before them."""
    early: list[Received] = []
    while (rest := deadline - time.monotonic()) > 0:
        event = events.receive(rest)
        if isinstance(event, Heartbeat):
            return event, early
        if event is not None:
            early.append(event)
    raise BusError(f"{events.endpoint}: no heartbeat in time; is the service running? Give a longer --timeout")


class _Seen:
    """Events that are both in the snapshot and on the live socket are shown once."""

    def __init__(self, found: Snapshot, early: Sequence[Received]) -> None:
        self._position = found.position
        self.early = [event for event in early if self.is_new(event)]

    def is_new(self, event: Received) -> bool:
        """Whether the snapshot was made before `event`."""
        if not isinstance(event, Prediction | Action | Status) or event.offset is None:
            return True
        return event.epoch != self._position.epoch or event.offset > self._position.offset


def _follow(events: Subscription, board: LiveTable, seen: _Seen, console: Console, seconds: float | None) -> None:
    stop = StopRequest(seconds)
    heard_at = time.monotonic()
    for early in seen.early:
        board.apply(early)
    with (
        stop_on_signals(stop.request),
        Live(console=console, refresh_per_second=_REFRESH_HZ, get_renderable=board.render),
    ):
        while not stop.is_set:
            event = events.receive(_TURN_S)
            now = time.monotonic()
            if event is None:
                if now - heard_at > _SILENT_S:
                    board.footer = f"[bold red]nothing heard for {now - heard_at:.0f} s: the service is gone[/]"
                continue
            heard_at = now
            if isinstance(event, Heartbeat):
                board.footer = _footer(event)
            elif seen.is_new(event):
                board.apply(event)


def _footer(beat: Heartbeat) -> str:
    lost = sum(beat.dropped.values())
    trouble = f"  ·  [bold red]{beat.not_durable} not kept[/]" if beat.not_durable else ""
    trouble += f"  ·  [bold red]{lost} dropped[/]" if lost else ""
    return f"journal {beat.epoch[:8]}  ·  events {beat.oldest} to {beat.head}{trouble}  ·  Ctrl-C ends"


def _rates(endpoint: str, found: Snapshot, now: datetime, deadline: float) -> dict[str, float]:
    """Predictions per second of each stream over the last seconds, from the journal; {} if it cannot tell in time."""
    after = Position(found.epoch, max(0, found.head - _RATE_EVENTS))
    recent: Counter[str] = Counter()
    reach_s = 0.0
    with subscribe(endpoint, replay=True, after=after) as events:
        while events.position is None or events.position.offset < found.head:
            if (rest := deadline - time.monotonic()) <= 0:
                return {}
            event = events.receive(min(rest, _TURN_S))
            if isinstance(event, Prediction | Action | Status):
                age_s = (now - event.time).total_seconds()
                reach_s = max(reach_s, age_s)
                recent[event.stream] += isinstance(event, Prediction) and 0 <= age_s <= _RATE_S
    if after.offset == 0 or reach_s > _RATE_S:
        reach_s = _RATE_S
    return {stream: round(count / reach_s, 3) for stream, count in recent.items()} if reach_s > 0 else {}


def _report(endpoint: str, found: Snapshot, beat: Heartbeat, rates: dict[str, float]) -> dict[str, Any]:
    streams: dict[str, dict[str, Any]] = {}
    for event in found.events:
        stream = streams.setdefault(event.stream, _nothing_yet(rates.get(event.stream, 0.0 if rates else None)))
        age_s = round((beat.time - event.time).total_seconds(), 3)
        match event:
            case Status():
                stream |= {"state": event.state, "reason": event.reason, "state_age_s": age_s}
                stream["counters"], stream["hop"] = event.counters, event.hop
            case Prediction():
                stream |= {"top": event.top, "model": event.model, "age_s": age_s}
                stream["latency_ms"] = event.latency_ms.capture_to_publish
            case Action():
                stream["action"] = {
                    "label": event.label, "phase": event.phase, "started_s": event.started_s, "age_s": age_s
                }  # fmt: skip
    return {
        "endpoint": endpoint,
        "replay": beat.replay,
        "time": beat.time,
        "epoch": found.epoch,
        "oldest": found.oldest,
        "head": found.head,
        "not_durable": beat.not_durable,
        "dropped": beat.dropped,
        "streams": streams,
    }


def _nothing_yet(rate_per_s: float | None) -> dict[str, Any]:
    """All keys, so that who reads them need not ask whether they are there."""
    return {
        "state": None, "reason": None, "state_age_s": None, "counters": {}, "hop": None,
        "top": [], "model": None, "age_s": None, "latency_ms": None, "rate_per_s": rate_per_s, "action": None,
    }  # fmt: skip

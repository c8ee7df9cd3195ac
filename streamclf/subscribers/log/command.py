"""`streamclf log`: write the events of a service to a file, exactly once, even if either process is killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import UsageError
from streamclf.events.positions import START, Position
from streamclf.events.types import JOURNALLED, Heartbeat
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.log.rotation import parse_rotation
from streamclf.subscribers.log.sinks import Sink, open_sink

_MAX_BATCH = 1000
_LINGER_S = 0.25
_ONCE_SILENCE_S = 10.0
"""With `once`, fail after this long without a service."""


def run_log(
    endpoint: str,
    output: Path,
    *,
    types: Sequence[str] = JOURNALLED,
    rotate: Sequence[str] = (),
    keep: int | None = None,
    once: bool = False,
    seconds: float | None = None,
) -> int:
    """Write events to `output` until SIGINT or SIGTERM, or for `seconds`; return the exit code.

    `types`: the events to write: prediction, action, status. `once`: end when the log has caught up with the journal.
    `rotate`: a size like 100MB, an age like 1d, or both; a JSON lines log then begins a new file, and `keep` complete
    files stay. Raises `UsageError` and `JournalError`; with `once` also `BusError`, when no service answers for 10 s.
    """
    for kind in types:
        if kind not in JOURNALLED:
            raise UsageError(f"type {kind!r}: one of {', '.join(JOURNALLED)}")
    sink = open_sink(output, parse_rotation(rotate, keep))
    stop = StopRequest(seconds)
    try:
        with (
            stop_on_signals(stop.request),
            subscribe(
                endpoint,
                types={*types, "heartbeat"},  # type: ignore[arg-type]  # checked above
                replay=True,
                after=sink.position() or START,
                patience_s=_ONCE_SILENCE_S if once else None,
            ) as events,
        ):
            outlet = _LogOutlet(sink, output, CatchUp(events, stop) if once else None)
            DeliveryLoop(events, outlet, None, max_batch=_MAX_BATCH, linger_s=_LINGER_S).run(stop)
    finally:
        sink.close()
    return 0


class CatchUp:
    """Request the stop when everything that was in the journal at the first heartbeat has been written."""

    def __init__(self, events: Subscription, stop: StopRequest) -> None:
        self._events, self._stop = events, stop
        self._goal: Position | None = None

    def update(self, heartbeat: Heartbeat | None) -> None:
        """Request the stop if the position has reached the goal. Called several times a second."""
        if heartbeat and (self._goal is None or self._goal.epoch != heartbeat.epoch):  # a new journal has a new head
            self._goal = Position(heartbeat.epoch, heartbeat.head)
        goal, position = self._goal, self._events.position
        if goal and position and position.epoch == goal.epoch and position.offset >= goal.offset:
            self._stop.request()


class _LogOutlet:
    """Write batches to a log file, which holds the position itself."""

    name = "log"

    def __init__(self, sink: Sink, path: Path, catch_up: CatchUp | None) -> None:
        self._sink, self._catch_up = sink, catch_up
        self.outcome = f"written to {path}"

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        self._sink.write(batch, position)
        return True

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        if self._catch_up:
            self._catch_up.update(heartbeat)

    def memory(self) -> dict[str, Any]:
        return {}

"""`streamclf log`: every event of a service in a file, exactly once, however often either of them is killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from streamclf.client.subscription import Subscription, subscribe
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost, Received, StreamEvent
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.log.rotation import parse_rotation
from streamclf.subscribers.log.sinks import Sink, open_sink

_BATCH = 1000
_BATCH_S = 0.25
_ONCE_PATIENCE_S = 10.0
_SILENT_S = 3.0


def run_log(
    endpoint: str,
    output: Path,
    *,
    rotate: Sequence[str] = (),
    keep: int | None = None,
    once: bool = False,
    seconds: float | None = None,
) -> int:
    """Write events to `output` until SIGINT or SIGTERM, for `seconds`, or (`once`) until caught up; the exit code.

    `rotate` is a size like 100MB, an age like 1d, or both: then a new file begins, and `keep` complete ones stay.
    """
    sink = open_sink(output, parse_rotation(rotate, keep))
    try:
        stop = StopRequest(seconds)
        known = sink.position()
        patience_s = _ONCE_PATIENCE_S if once else None
        with (
            stop_on_signals(stop.request),
            subscribe(endpoint, replay=True, after=known or START, patience_s=patience_s) as events,
        ):
            return _Logger(events, sink, output).run(stop, once)
    finally:
        sink.close()


class _Logger:
    """Collects small batches; what is not written yet at a crash is asked for again."""

    def __init__(self, events: Subscription, sink: Sink, output: Path) -> None:
        self._events, self._sink, self._output = events, sink, output
        self._batch: list[StreamEvent | Lost] = []
        self._oldest_at = 0.0
        self._heard_at = time.monotonic()
        self._silent = False
        self._goal: Position | None = None
        self._written = 0
        self._lost = 0

    def run(self, stop: StopRequest, once: bool) -> int:
        try:
            while not stop.is_set and not (once and self._caught_up()):
                self._take(self._events.receive(_BATCH_S))
                self._sink.tend()
                if len(self._batch) >= _BATCH or (self._batch and time.monotonic() - self._oldest_at >= _BATCH_S):
                    self._flush()
        finally:
            self._flush()
            lost = f", {self._lost} ranges lost before they could be read" if self._lost else ""
            _say(f"{self._written} events written to {self._output}{lost}")
        return 0

    def _take(self, event: Received | None) -> None:
        now = time.monotonic()
        if event is None:
            if not self._silent and now - self._heard_at > _SILENT_S:
                self._silent = True
                _say(f"waiting for a service at {self._events.endpoint}")
            return
        self._heard_at = now
        if self._silent:
            self._silent = False
            _say(f"connected to {self._events.endpoint}")
        if isinstance(event, Heartbeat):
            self._goal = self._goal or Position(event.epoch, event.head)
            return
        if isinstance(event, Lost):
            self._lost += 1
            upto = "an unknown offset" if event.last is None else event.last
            _say(f"lost: offsets {event.first} to {upto} of journal {event.epoch[:8]}, no longer there")
        if not self._batch:
            self._oldest_at = now
        self._batch.append(event)

    def _flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._written += self._sink.write(batch, self._events.position)

    def _caught_up(self) -> bool:
        position = self._events.position
        return (
            self._goal is not None
            and position is not None
            and position.epoch == self._goal.epoch
            and position.offset >= self._goal.offset
        )


def _say(text: str) -> None:
    print(f"streamclf log: {text}", file=sys.stderr, flush=True)

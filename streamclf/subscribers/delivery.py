"""What every outlet does: take events in small batches, deliver them, then store the position. At least once, in order.

While the other side is away nothing is read, and nothing is kept but the batch in hand: the journal is the buffer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from streamclf.client.subscription import Subscription
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost, StreamEvent
from streamclf.redact import redact
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile

Item: TypeAlias = StreamEvent | Lost

SILENT_S = 5.0
"""A heartbeat comes each second: after this long without one the service is away."""
_TURN_S = 0.25
_IDLE_SAVE_S = 5.0


class Outlet(Protocol):
    """Where events go."""

    name: str
    """Its command's name."""

    def deliver(self, batch: Sequence[Item]) -> bool:
        """True once the other side has confirmed the whole batch; False if it is time to end before that."""
        ...

    def tend(self, beat: Heartbeat | None, silent: bool) -> None:
        """Called between batches, several times a second; `beat` if the service has just been heard."""
        ...

    def memory(self) -> dict[str, Any]:
        """What it must know when it starts again, as a copy; stored together with the position."""
        ...


class DeliveryLoop:
    """Moves events from a subscription with `replay` to an outlet."""

    def __init__(
        self, events: Subscription, outlet: Outlet, file: PositionFile, *, max_batch: int, linger_s: float
    ) -> None:
        self._events, self._outlet, self._file = events, outlet, file
        self._max_batch, self._linger_s = max_batch, linger_s
        self._heard_at = time.monotonic()
        self._silent = False
        self._beat: Heartbeat | None = None
        self._saved_at = 0.0
        self._done: Position | None = None
        """Everything up to here has been delivered, or was not asked for."""
        self._memory = file.memory
        self.delivered = 0
        self.lost = 0
        """Ranges that were gone from the journal before they could be delivered."""

    def run(self, stop: StopRequest) -> None:
        """Deliver batches until `stop` is set."""
        try:
            while not stop.is_set:
                batch = self._collect()
                if batch and not self._outlet.deliver(batch):
                    break
                self._done = self._events.position
                if batch:
                    self._memory = self._outlet.memory()  # now: a batch that fails must leave nothing in it
                self.delivered += sum(not isinstance(item, Lost) for item in batch)
                self._save(now=bool(batch) or self._file.position is None)
                beat, self._beat = self._beat, None
                self._outlet.tend(beat, self._silent)
        finally:
            self._save(now=True)
            lost = f", {self.lost} ranges lost before they could be read" if self.lost else ""
            self._say(f"{self.delivered} events delivered{lost}")

    def _collect(self) -> list[Item]:
        batch: list[Item] = []
        wait_s, end = _TURN_S, 0.0
        while len(batch) < self._max_batch and wait_s >= 0:
            event = self._events.receive(wait_s)
            self._listen(heard=event is not None)
            if isinstance(event, Heartbeat):
                self._beat = event
            elif event is not None:
                if not batch:
                    end = time.monotonic() + self._linger_s
                if isinstance(event, Lost):
                    self._note_lost(event)
                batch.append(event)
            if not batch:
                break
            wait_s = end - time.monotonic()
        return batch

    def _listen(self, *, heard: bool) -> None:
        now = time.monotonic()
        if heard:
            self._heard_at = now
            if self._silent:
                self._silent = False
                self._say(f"connected to {self._events.endpoint}")
        elif not self._silent and now - self._heard_at > SILENT_S:
            self._silent = True
            self._say(f"waiting for a service at {self._events.endpoint}")

    def _note_lost(self, lost: Lost) -> None:
        self.lost += 1
        upto = "an unknown offset" if lost.last is None else lost.last
        self._say(f"lost: offsets {lost.first} to {upto} of journal {lost.epoch[:8]}, no longer there")

    def _save(self, *, now: bool) -> None:
        if self._done is None or self._done in (self._file.position, START):
            return
        if now or time.monotonic() - self._saved_at >= _IDLE_SAVE_S:
            self._file.save(self._done, self._memory)
            self._saved_at = time.monotonic()

    def _say(self, text: str) -> None:
        say(self._outlet.name, text)


def say(command: str, text: str) -> None:
    """One line for people, without credentials."""
    print(f"streamclf {command}: {redact(text)}", file=sys.stderr, flush=True)

"""Deliver a service's events to another system in small batches: at least once, in order.

While the other system cannot be reached, no events are read and only the current batch is kept in memory: the service's
journal is the buffer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from logging import WARNING
from typing import Any, Protocol, TypeAlias

from streamclf.client import stream_views
from streamclf.client.subscription import Subscription
from streamclf.events.fleet_heartbeat import heads_of
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost, StreamEvent
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.chosen_streams import find_unknown_streams
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import EventFilter

Item: TypeAlias = StreamEvent | Lost

_POLL_S = 0.25
"""Longest wait for an event; the stop request is checked between two waits."""
_IDLE_SAVE_S = 5.0
"""Interval of storing a position that changed without a delivery."""


class Outlet(Protocol):
    """A system that events are delivered to."""

    name: str
    """The name of its kind."""
    outcome: str
    """The word for delivered events in the last message of the command, like "delivered"."""

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """Deliver `batch` in order. Return True once the other system has confirmed all of it.

        Delivery resumes at `position` after this batch. Return False if the command must end before the confirmation.
        """
        ...

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Do the work that is due between two batches. The loop calls this several times a second.

        `heartbeat` is the latest one since the last call. `is_silent`: the service has sent nothing for
        `SERVICE_SILENT_S`.
        """
        ...

    def memory(self) -> dict[str, Any]:
        """Return a copy of the state that the outlet needs when it starts again, to be stored with the position."""
        ...


class DeliveryLoop:
    """Move events from a subscription with `replay` to an outlet.

    `file` stores the position. It is None for an outlet that stores the position together with the events.
    `count_refused` returns how many events the other system has refused for good, which are not delivered. Events that
    `chosen` does not accept are skipped.
    """

    def __init__(
        self,
        events: Subscription,
        outlet: Outlet,
        file: PositionFile | None,
        *,
        max_batch: int,
        linger_s: float,
        count_refused: Callable[[], int] = lambda: 0,
        chosen: EventFilter | None = None,
        report: OutletReport | None = None,
    ) -> None:
        self._events, self._outlet, self._file = events, outlet, file
        self._count_refused, self._chosen = count_refused, chosen or EventFilter()
        self._report = report or OutletReport(outlet.name)
        self._max_batch, self._linger_s = max_batch, linger_s
        self._received_at_s = time.monotonic()
        self._is_silent = False
        self._heartbeat: Heartbeat | None = None
        self._saved_at_s = 0.0
        self._position: Position | None = None
        """Every event up to here has been delivered, or was not subscribed to."""
        self._delivered_position: Position | None = None
        """The position that the outlet was given last."""
        self._memory = {} if file is None else file.memory
        self._received_any = False
        """Whether anything, also a heartbeat, has arrived in the last wait."""
        self._catch_up: CatchUp | None = None
        self._unknown: set[str] = set()
        """Chosen streams that the service does not have, which were reported."""

    def run(self, stop: StopRequest) -> None:
        """Deliver batches until `stop` is set, or until it is requested and nothing more arrives."""
        try:
            while not stop.is_set:
                batch = self._collect()
                position = self._events.position
                refused_before = self._count_refused()
                if batch and not self._outlet.deliver(batch, position):
                    break
                self._position = position
                if batch:
                    self._delivered_position = position
                    self._memory = self._outlet.memory()  # now: a batch that fails later must not change it
                report = self._report
                report.refused = self._count_refused()
                report.delivered += sum(not isinstance(item, Lost) for item in batch) - report.refused + refused_before
                self._save(is_due=bool(batch))
                heartbeat, self._heartbeat = self._heartbeat, None
                self._outlet.update(heartbeat, self._is_silent)
                if self._is_finished(stop, heartbeat) or (stop.is_requested and not self._received_any):
                    break
        finally:
            self._save(is_due=True)
            lost = f", {self._report.lost} ranges lost before they could be read" if self._report.lost else ""
            refused = f", {self._report.refused} refused for good" if self._report.refused else ""
            self._report.notice(f"{self._report.delivered} events {self._outlet.outcome}{refused}{lost}")

    def _is_finished(self, stop: StopRequest, heartbeat: Heartbeat | None) -> bool:
        if not stop.when_caught_up:
            return False
        self._catch_up = self._catch_up or CatchUp(self._events, stop.caught_up_after)
        return self._catch_up.update(heartbeat)

    def _collect(self) -> list[Item]:
        """Wait for the first event, then collect more for `linger_s` or until the batch is full."""
        batch: list[Item] = []
        wait_s, end_s = _POLL_S, 0.0
        self._received_any = False
        while len(batch) < self._max_batch and wait_s >= 0:
            event = self._events.receive(wait_s)
            self._check_silence(is_received=event is not None)
            self._received_any = self._received_any or event is not None
            if isinstance(event, Heartbeat):
                self._heartbeat = event
                self._check_streams(event)
            elif event is not None and self._chosen.accepts(event):
                if not batch:
                    end_s = time.monotonic() + self._linger_s
                if isinstance(event, Lost):
                    self._report_lost(event)
                batch.append(event)
            if not batch:
                break
            wait_s = end_s - time.monotonic()
        return batch

    def _check_streams(self, heartbeat: Heartbeat) -> None:
        """Report once each chosen stream that the service does not have."""
        for name, text in find_unknown_streams(self._events.streams, heartbeat):
            if name not in self._unknown:
                self._unknown.add(name)
                self._report.notice(text, WARNING)

    def _check_silence(self, *, is_received: bool) -> None:
        now_s = time.monotonic()
        if is_received:
            self._received_at_s = now_s
            if self._is_silent:
                self._is_silent = False
                self._report.running()
                self._report.notice(f"connected to {self._events.endpoint}")
        elif not self._is_silent and now_s - self._received_at_s > stream_views.SERVICE_SILENT_S:
            self._is_silent = True
            self._report.waiting("the service is silent")
            self._report.notice(f"waiting for a service at {self._events.endpoint}", WARNING)

    def _report_lost(self, lost: Lost) -> None:
        self._report.lost += 1
        last = "an unknown offset" if lost.last is None else lost.last
        self._report.notice(
            f"lost: offsets {lost.first} to {last} of journal {lost.epoch[:8]}, no longer there", WARNING
        )

    def _save(self, *, is_due: bool) -> None:
        """Store the position if it has changed: at once if `is_due` or nothing is stored yet, else every 5 s."""
        if self._file is None:
            self._save_with_events(is_due=is_due)
            return
        if self._position is None or self._position in (self._file.position, START):
            return
        is_due = is_due or self._file.position is None
        if is_due or time.monotonic() - self._saved_at_s >= _IDLE_SAVE_S:
            self._file.save(self._position, self._memory)
            self._saved_at_s = time.monotonic()

    def _save_with_events(self, *, is_due: bool) -> None:
        """Have the outlet store a position that has moved past events that it does not hand on."""
        if self._position in (None, START, self._delivered_position):
            return
        if is_due or time.monotonic() - self._saved_at_s >= _IDLE_SAVE_S:
            self._outlet.deliver((), self._position)
            self._delivered_position, self._saved_at_s = self._position, time.monotonic()


class CatchUp:
    """Find out when everything has been handled that is in the journal now, or was there at the time `since`."""

    def __init__(self, events: Subscription, since: datetime | None = None) -> None:
        self._events, self._since = events, since
        self._goal: dict[str, int] = {}

    def update(self, heartbeat: Heartbeat | None) -> bool:
        """Return whether the position has reached the goal: the head in the first heartbeat that was sent since then.

        An older heartbeat may have waited in a queue while further events were stored.
        """
        is_new = heartbeat is not None and (self._since is None or heartbeat.time >= self._since)
        if heartbeat and is_new:
            heads = heads_of(heartbeat)
            # A new journal has a new head; a node that is lost meanwhile is not waited for.
            self._goal = {epoch: self._goal.get(epoch, head) for epoch, head in heads.items()}
        position = self._events.position
        return bool(self._goal and position and position.covers(self._goal))

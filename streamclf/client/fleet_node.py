"""Follow one node of a fleet as a service of its own, one event at a time, through restarts and other addresses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Literal

from streamclf.client.receiver import EventReceiver
from streamclf.errors import BusError
from streamclf.events.directory import DirectoryNode
from streamclf.events.fleet_heartbeat import NodeCondition
from streamclf.events.positions import Position
from streamclf.events.types import Heartbeat, Lost, Received, StreamEvent

SILENT_S = 5.0
"""A node that sends nothing for this long is lost, whatever the directory says."""
CHECK_S = 5.0
"""A journal of which nothing arrives for this long is not waited for."""
CONNECT_S = 5.0
"""A node that has sent nothing yet may have older events: wait for it this long."""
RETRY_S = (2.0, 60.0)
"""The first pause after a node refused the connection, and the longest after it has doubled."""

Open = Callable[[DirectoryNode, Position | None], EventReceiver]


class FleetNode:
    """The receiver of one node, the event that it returns next, and the node's condition."""

    def __init__(self, entry: DirectoryNode, after: Position | None, open_receiver: Open, *, replay: bool) -> None:
        """Connect. `after` holds the offsets in all journals; None begins with the next event."""
        self.entry = entry
        self._open, self._replay = open_receiver, replay
        self._begin = after
        self.receiver: EventReceiver | None = None
        self.heartbeat: Heartbeat | None = None
        self.next: StreamEvent | Lost | None = None
        """The event that is returned next; its node reads no further until then."""
        self.next_s = 0.0
        """When it was read."""
        self._offset_before: Position | None = None
        self._started_s = time.monotonic()
        self._heard_s: float | None = None
        self._clock_s: float | None = None
        """The node's wall clock minus this machine's monotonic one; messages that were on the way make it smaller."""
        self._check_began_s: float | None = None
        self._checked_s = self._progress_s = 0.0
        self._first_head: int | None = None
        """The newest event when the receiver connected."""
        self.fault: str | None = None
        """Why the node cannot be read, if it refuses the connection."""
        self._retry_s = 0.0
        self._pause_s = RETRY_S[0]
        self.condition: NodeCondition = "connecting"
        self.since = datetime.now(timezone.utc)
        self.connections = 0
        """How often a receiver was opened: a new one subscribes to no previews."""
        self.watches_all = False
        """Whether the receiver subscribes to all previews."""
        self._counts: dict[Literal["missed", "refused"], int] = {"missed": 0, "refused": 0}
        """Those of receivers that were closed."""
        self._connect(after)

    @property
    def next_event(self) -> StreamEvent | None:
        """See `OtherJournal`."""
        return None if isinstance(self.next, Lost) else self.next

    @property
    def position(self) -> Position | None:
        """The position in the node's journal up to which all was returned; None while it is not known."""
        if self.next is not None:
            return self._offset_before
        return self._position()

    def update(self, entry: DirectoryNode) -> bool:
        """Use another entry of the directory; return whether the node has moved to other endpoints."""
        before, self.entry = self.entry, entry
        if (before.events, before.replay) == (entry.events, entry.replay):
            return False
        self.reopen(self._resume())
        return True

    def reopen(self, after: Position | None) -> None:
        """Connect again; an event that was read and not returned is read again."""
        self.close()
        self.next, self._heard_s, self._started_s = None, None, time.monotonic()
        self._check_began_s = None
        self._connect(after)

    def close(self) -> None:
        """Disconnect."""
        if self.receiver is not None:
            self._begin = self._resume()
            for key in self._counts:
                self._counts[key] = self.count(key)
            self.receiver.close()
        self.receiver, self.watches_all = None, False

    def read(self) -> Received | None:
        """Return a heartbeat, or store the next event in `next` and return it; None if there is none now."""
        if self.receiver is None:
            if time.monotonic() >= self._retry_s:
                self._connect(self._begin)
            return None
        if self.next is not None:
            return None
        before = self._position()
        try:
            event = self.receiver.receive(0.0)
        except BusError as error:
            self._give_up(str(error))
            return None
        now_s = time.monotonic()
        if event is not None and self._heard_s is not None:
            self._heard_s = now_s
        if isinstance(event, Heartbeat):
            self._note_heartbeat(event, now_s)
        elif event is not None:
            self.next, self.next_s, self._offset_before = event, now_s, before
            self._progress_s = now_s
        if self._check_began_s is not None and not self.receiver.is_checking and self.next is None:
            self._checked_s, self._check_began_s = self._check_began_s, None
        return event

    def count(self, key: Literal["missed", "refused"]) -> int:
        """Return the count of messages that were missed or refused, also before the connection was opened again."""
        return self._counts[key] + (0 if self.receiver is None else int(getattr(self.receiver, key)))

    def take(self) -> StreamEvent | Lost:
        """Return the event in `next`, so that the node reads further."""
        event, self.next = self.next, None
        assert event is not None
        self._heard_s = time.monotonic()  # nothing was read while the event waited
        return event

    def note_pause(self, pause_s: float) -> None:
        """Record that nobody called `read` for `pause_s`, so that its silence means nothing."""
        self._started_s += pause_s
        if self._heard_s is not None:
            self._heard_s += pause_s

    def is_alive(self, now_s: float) -> bool:
        """Return whether the node has sent something lately, by which its journal can be read."""
        return self.next is not None or (self._heard_s is not None and now_s - self._heard_s < SILENT_S)

    def has_read(self, stream: str, since_s: float) -> bool:
        """See `OtherJournal`. Starts to read up to the present if that is not known."""
        now_s = time.monotonic()
        if not self.is_alive(now_s):
            return self.entry.state != "live" or now_s - self._started_s >= CONNECT_S
        if not self._replay or (self.heartbeat is not None and stream not in self.heartbeat.last):
            return True
        if self._checked_s >= since_s:
            return True
        if self._check_began_s is None and self.receiver is not None:
            self._check_began_s = now_s
            self.receiver.begin_check()
        # A node whose replay endpoint cannot be reached must not stop the others.
        return self._check_began_s is not None and now_s - max(self._check_began_s, self._progress_s) > CHECK_S

    def received_at_s(self, event: StreamEvent) -> float | None:
        """Return the monotonic time of this machine when the node's hub received `event`; None while unknown."""
        return None if self._clock_s is None else event.time.timestamp() - self._clock_s

    def is_present(self, event: StreamEvent) -> bool:
        """Return whether `event` is newer than this connection. The node's clock may have been set before that."""
        return event.offset is None or (self._first_head is not None and event.offset > self._first_head)

    def update_condition(self, now_s: float) -> bool:
        """Find out whether the node is live; return whether that has changed."""
        condition: NodeCondition
        if self.entry.state == "left":
            condition = "left"
        elif self.fault is not None:
            condition = "lost"
        elif self.is_alive(now_s):
            condition = "live" if self.entry.state == "live" else "lost"
        elif self.condition != "lost" and self._heard_s is None and now_s - self._started_s < CONNECT_S:
            condition = "connecting" if self.entry.state == "live" else "lost"
        else:
            condition = "lost"
        changed = condition != self.condition
        if changed:
            self.condition = condition
            self.since = datetime.now(timezone.utc)
        return changed

    @property
    def reason(self) -> str | None:
        """Why the node is not live."""
        if self.condition in ("live", "connecting"):
            return None
        if self.fault is not None:
            return self.fault
        silence = None if self.receiver is None else self.receiver.explain_silence()
        return self.entry.reason or silence or f"it has sent nothing for {SILENT_S:g} s"

    def _note_heartbeat(self, heartbeat: Heartbeat, now_s: float) -> None:
        if self._first_head is None or self.heartbeat is None or self.heartbeat.epoch != heartbeat.epoch:
            self._first_head = heartbeat.head
        self.heartbeat, self._heard_s, self.fault, self._pause_s = heartbeat, now_s, None, RETRY_S[0]
        clock_s = heartbeat.time.timestamp() - now_s
        self._clock_s = clock_s if self._clock_s is None else max(clock_s, self._clock_s)

    def _position(self) -> Position | None:
        return self._begin if self.receiver is None else self.receiver.position

    def _resume(self) -> Position | None:
        """Return where another connection begins: the node may return with another journal."""
        position = self.position
        if position is None or not position.epoch:
            return self._begin
        return replace(position, others=() if self._begin is None else self._begin.others)

    def _connect(self, after: Position | None) -> None:
        try:
            self._first_head = None
            self.receiver = self._open(self.entry, after)
            self.connections += 1
        except BusError as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self.close()
        self.next, self._heard_s, self.fault = None, None, reason
        self._retry_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])

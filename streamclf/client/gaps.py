"""Find the events that a subscription has missed, from offsets alone. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamclf.events.positions import Position
from streamclf.events.types import Heartbeat, Lost, Received, StreamEvent

if TYPE_CHECKING:
    from streamclf.client.replay import Page


class GapTracker:
    """Decide which events to return, in whatever order they arrive; see `subscription` for the guarantees.

    The live socket, heartbeats and pages of the journal are its inputs.
    """

    def __init__(self, streams: frozenset[str] | None, after: Position | None) -> None:
        self._streams = streams
        self._from_start = after is not None and not after.epoch
        self._known = {} if after is None else dict(after.others)
        """Offsets in other journals of the fleet: one of them may be that of this service."""
        self._checks = False
        self.position = None if after is None else Position(after.epoch, after.offset)
        """Everything up to here has been passed to the subscription."""
        self.returned = self.position
        """Everything up to here has been returned to the consumer; it may store this."""
        self._seen: dict[str, int] = {}
        """The last live offset of each stream beyond `position`, for a subscription with a stream filter."""
        self._target = 0
        """The offset up to which events are known to exist."""
        self._old_epochs: set[str] = set()

    @property
    def is_behind(self) -> bool:
        """Whether events are missing that the journal may still have."""
        return self.position is not None and (self._checks or self.position.offset < self._target)

    def check(self) -> None:
        """Be behind until a page shows that the journal has no more events at present."""
        self._checks = True

    def add_event(self, event: StreamEvent) -> list[Received]:
        """Add an event of the live socket; return it, or nothing while an event before it is missing."""
        if event.offset is None:
            return [event]
        if event.epoch in self._old_epochs:
            return []
        if self.position is None:
            self.position = Position(event.epoch, event.offset - 1)
        if event.epoch != self.position.epoch:
            self._target = max(self._target, 1)  # the heartbeat or the first page shows where to continue
            return []
        if self.is_behind:
            self._target = max(self._target, event.offset)
            return []
        reached = max(self.position.offset, self._seen.get(event.stream, 0))
        if event.offset <= reached:
            return []
        gapless = event.offset == self.position.offset + 1 if self._streams is None else event.previous <= reached
        if not gapless:
            self._target = event.offset
            return []
        if self._streams is None:
            self.position = Position(event.epoch, event.offset)
        else:
            self._seen[event.stream] = event.offset
        return [event]

    def add_heartbeat(self, heartbeat: Heartbeat) -> list[Received]:
        """Add a heartbeat, which shows that the latest events are missing when no later event does."""
        if heartbeat.epoch in self._old_epochs:
            return []
        if self.position is None:
            self.position = Position(heartbeat.epoch, heartbeat.head)
            return []
        if heartbeat.epoch != self.position.epoch:
            return self._new_epoch(heartbeat.epoch, heartbeat.head)
        wanted = heartbeat.last if self._streams is None else {s: heartbeat.last.get(s, 0) for s in self._streams}
        complete = all(offset <= max(self.position.offset, self._seen.get(s, 0)) for s, offset in wanted.items())
        if self._streams is not None and complete and not self.is_behind:
            self._advance(heartbeat.head)
        elif heartbeat.head > self.position.offset:
            self._target = max(self._target, heartbeat.head)
        return []

    def add_page(self, page: Page) -> list[Received]:
        """Add a page of the journal; return its events that were not returned before."""
        assert self.position is not None
        out: list[Received] = []
        if page.epoch != self.position.epoch:
            out += self._new_epoch(page.epoch, page.head)
            if not page.from_start or self.position.offset:
                return out  # the page answers a request about the old journal
        found: list[tuple[int, Received]] = [
            (first, Lost(epoch=page.epoch, first=first, last=last))
            for first, last in page.lost
            if not (self._from_start and first == 1)
        ]
        self._from_start = False
        found += [
            (event.offset, event)
            for event in page.events
            if event.offset is not None and event.offset > self._seen.get(event.stream, 0)
        ]
        out += [item for _, item in sorted(found, key=lambda pair: pair[0])]
        self._target = max(self._target, page.head)
        self._checks = self._checks and page.upto < page.head
        self._advance(page.upto)
        return out

    def note_returned(self, event: Received) -> None:
        """Record that the consumer got `event`, to update `returned` while more events wait."""
        if isinstance(event, Lost):
            if event.last is not None:
                self.returned = Position(event.epoch, event.last)
        elif not isinstance(event, Heartbeat) and event.offset is not None and self._streams is None:
            self.returned = Position(event.epoch, event.offset)

    def _advance(self, offset: int) -> None:
        assert self.position is not None
        self.position = Position(self.position.epoch, max(self.position.offset, offset))
        self._seen = {stream: seen for stream, seen in self._seen.items() if seen > self.position.offset}

    def _new_epoch(self, epoch: str, head: int) -> list[Received]:
        """Switch to a new journal: the missing events of the old one are lost, and their number is unknown."""
        assert self.position is not None
        old = self.position
        # The last messages of the old journal may still wait in the queue, after a page of the new one has arrived.
        self._old_epochs.add(old.epoch)
        lost: list[Received] = [] if not old.epoch else [Lost(epoch=old.epoch, first=old.offset + 1, last=None)]
        self.position, self._seen, self._target = Position(epoch, self._known.get(epoch, 0)), {}, head
        return lost

"""What a subscription has seen and what is missing: offsets only, no input or output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost, Received, StreamEvent

if TYPE_CHECKING:
    from streamclf.client.replay import Page


class GapTracker:
    """Takes what arrives, in whatever order, and says what to return; see `subscription` for the promise."""

    def __init__(self, streams: frozenset[str] | None, after: Position | None) -> None:
        self._streams = streams
        self._from_start = after == START
        self.position = after
        self.returned = after
        self._seen: dict[str, int] = {}
        """Live offsets of a stream beyond `position`, of a subscription that is filtered."""
        self._target = 0
        self._retired: set[str] = set()

    @property
    def behind(self) -> bool:
        """Whether something is missing that the journal may have."""
        return self.position is not None and self.position.offset < self._target

    def live(self, event: StreamEvent) -> list[Received]:
        """What to return now that `event` arrived; if something before it is missing, nothing yet."""
        if event.offset is None:
            return [event]
        if event.epoch in self._retired:
            return []
        if self.position is None:
            self.position = Position(event.epoch, event.offset - 1)
        if event.epoch != self.position.epoch:
            self._target = max(self._target, 1)  # the heartbeat or the first page says how to go on
            return []
        if self.behind:
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

    def heartbeat(self, beat: Heartbeat) -> list[Received]:
        """Find out what is missing at the end, where no later event would tell."""
        if beat.epoch in self._retired:
            return []
        if self.position is None:
            self.position = Position(beat.epoch, beat.head)
            return []
        if beat.epoch != self.position.epoch:
            return self._new_epoch(beat.epoch, beat.head)
        wanted = beat.last if self._streams is None else {s: beat.last.get(s, 0) for s in self._streams}
        complete = all(offset <= max(self.position.offset, self._seen.get(s, 0)) for s, offset in wanted.items())
        if self._streams is not None and complete and not self.behind:
            self._advance(beat.head)
        elif beat.head > self.position.offset:
            self._target = max(self._target, beat.head)
        return []

    def page(self, page: Page) -> list[Received]:
        """What to return of one page of the journal."""
        assert self.position is not None
        out: list[Received] = []
        if page.epoch != self.position.epoch:
            out += self._new_epoch(page.epoch, page.head)
            if not page.from_start:
                return out  # it answers a question about the old journal
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
        self._advance(page.upto)
        return out

    def note_returned(self, event: Received) -> None:
        """Keep up what a consumer may store as its position while more is waiting."""
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
        """Another journal took the place of the one we know: what it still had for us is lost, how much is unknown."""
        assert self.position is not None
        old = self.position
        # Its last messages may still wait in our queue, behind a page of the new one.
        self._retired.add(old.epoch)
        lost: list[Received] = [] if old == START else [Lost(epoch=old.epoch, first=old.offset + 1, last=None)]
        self.position, self._seen, self._target = Position(epoch, 0), {}, head
        return lost

"""Decide in which order the events of a fleet's journals are returned, from epochs, offsets and tokens. No I/O.

Each event is returned once. The events of a stream are returned in the order of its leases, as far as the journals can
be read: an event of a new owner waits until the journals of the other nodes that can be reached have no older one.

These waits end. Tokens grow over all streams of a fleet, and a lease ends before the next one of its stream is granted.
Suppose that the next event of journal A has the token a and waits for journal B, whose next event has the token b > a.
B's later events of A's stream were published after that event, so after a lease that is newer than a: none of them is
older than A's event. Therefore A never waits for a journal whose next event has a larger token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from streamclf.events.directory import MAX_DIRECTORY_STREAMS
from streamclf.events.types import StreamEvent

OVERLAP_S: Final = 2.0
"""Events that were received so long after a later lease was granted are refused. The estimate of times is not exact."""
_MAX_STREAMS: Final = 2 * MAX_DIRECTORY_STREAMS


class OtherJournal(Protocol):
    """The journal of another node, as far as the order needs it."""

    @property
    def next_event(self) -> StreamEvent | None:
        """The event that the node has to return next, if it was read."""
        ...

    def has_read(self, stream: str, since_s: float) -> bool:
        """Return whether all events of `stream` were returned that were in the journal at the monotonic `since_s`.

        It is true for a journal that cannot be read now, and for one that never had the stream.
        """
        ...


class FleetOrder:
    """Know what was returned."""

    def __init__(self, offsets: Mapping[str, int]) -> None:
        """Continue after `offsets`, by epoch."""
        self._before = dict(offsets)
        self._returned: dict[tuple[str, str], int] = {}
        """The last offset of each epoch and stream."""
        self._tokens: dict[str, int] = {}
        """The largest token of each stream."""

    def is_repeated(self, event: StreamEvent) -> bool:
        """Return whether an event was returned before, by whichever node."""
        if event.offset is None:
            return False
        last = self._returned.get((event.epoch, event.stream), 0)
        return event.offset <= max(last, self._before.get(event.epoch, 0))

    def must_wait(self, event: StreamEvent, other: OtherJournal, received_s: float) -> bool:
        """Return whether `event`, received at the monotonic `received_s`, waits for an older event in `other`."""
        token = event.lease or 0
        if token <= self._tokens.get(event.stream, 0):
            return False
        following = other.next_event
        if following is not None:
            if following.stream == event.stream:
                return (following.lease or 0) < token
            if (following.lease or 0) > token:
                return False
        return not other.has_read(event.stream, received_s)

    def begins_lease(self, event: StreamEvent) -> bool:
        """Return whether `event` is of a newer lease of its stream than all that were returned."""
        return (event.lease or 0) > self._tokens.get(event.stream, 0)

    def note(self, event: StreamEvent) -> None:
        """Record that `event` is returned, or refused for good."""
        if event.offset is not None:
            self._returned[event.epoch, event.stream] = event.offset
            if len(self._returned) > _MAX_STREAMS:
                del self._returned[next(iter(self._returned))]
        if event.lease is not None:
            self._tokens[event.stream] = max(event.lease, self._tokens.pop(event.stream, 0))
            if len(self._tokens) > _MAX_STREAMS:
                del self._tokens[next(iter(self._tokens))]


def is_overtaken(event: StreamEvent, newest_token: int | None, granted_s: float | None, received_s: float) -> bool:
    """Return whether another node had the stream when the hub received `event`, so that the event is refused.

    `newest_token` is that of the stream's present lease, granted at the monotonic `granted_s`. `received_s` is the time
    of the event by the same clock. The end of an action always passes, since each start needs one.
    """
    if event.lease is None or newest_token is None or granted_s is None or event.lease >= newest_token:
        return False
    return received_s > granted_s + OVERLAP_S and getattr(event, "phase", None) != "end"

"""Test the gap tracker: it returns each event once, whatever the live socket loses."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from streamclf.client.gaps import GapTracker
from streamclf.client.replay import Page
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost, Received, Status, StreamEvent

EPOCH = "ab" * 16
NOW = datetime.now(timezone.utc)


def offsets(events: list[Received]) -> list[int]:
    return [event.offset for event in events if not isinstance(event, Lost | Heartbeat) and event.offset is not None]


class FakeService:
    """A service whose journal is a list; the test decides which of its events arrive."""

    def __init__(self) -> None:
        self.events: list[Status] = []
        self.last: dict[str, int] = {}

    def publish(self, stream: str) -> Status:
        offset = len(self.events) + 1
        event = Status(
            stream=stream, epoch=EPOCH, offset=offset, previous=self.last.get(stream, 0), time=NOW, state="live"
        )
        self.last[stream] = offset
        self.events.append(event)
        return event

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(epoch=EPOCH, time=NOW, head=len(self.events), oldest=1, last=dict(self.last), replay="")

    def page(self, after: int, limit: int, streams: frozenset[str] | None) -> Page:
        found: list[StreamEvent] = []
        upto = after
        for event in self.events[after:]:
            upto += 1
            if streams is None or event.stream in streams:
                found.append(event)
            if len(found) == limit:
                break
        return Page(epoch=EPOCH, head=len(self.events), upto=upto, lost=(), events=tuple(found), from_start=after == 0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from("abc"), st.booleans()),
        st.tuples(st.just("heartbeat"), st.just(""), st.booleans()),
        st.tuples(st.just("pull"), st.just(""), st.just(True)),
    ),
    max_size=80,
)


@given(steps=steps, streams=st.sampled_from([None, frozenset("a"), frozenset("ab")]), limit=st.integers(1, 4))
def test_each_event_is_returned_once_whatever_is_lost_on_the_way(
    steps: list[tuple[str, str, bool]], streams: frozenset[str] | None, limit: int
) -> None:
    service, tracker = FakeService(), GapTracker(streams, START)
    returned: list[Received] = []

    def pull() -> None:
        if tracker.is_behind and tracker.position is not None and tracker.position.epoch:
            returned.extend(tracker.add_page(service.page(tracker.position.offset, limit, streams)))

    for kind, stream, arrives in steps:
        if kind == "event":
            event = service.publish(stream)
            if arrives and (streams is None or stream in streams):
                returned.extend(tracker.add_event(event))
        elif kind == "heartbeat" and arrives:
            returned.extend(tracker.add_heartbeat(service.heartbeat()))
        else:
            pull()
    returned.extend(tracker.add_heartbeat(service.heartbeat()))
    for _ in range(len(service.events) + 1):
        pull()
    expected = [event for event in service.events if streams is None or event.stream in streams]
    assert sorted(offsets(returned)) == [event.offset for event in expected]
    for name in "abc":
        own = offsets([event for event in returned if isinstance(event, Status) and event.stream == name])
        assert own == sorted(own)
    if streams is None:
        assert offsets(returned) == sorted(offsets(returned))
    assert tracker.position == Position(EPOCH, len(service.events))

"""Test the merge of journals: each event once, in the order of leases, whatever arrives when, and no deadlock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamclf.client.fleet_order import OVERLAP_S, FleetOrder, is_overtaken
from streamclf.events.types import Action, Status, StreamEvent

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
STREAMS = ("door", "yard", "gate")


def status(epoch: str, offset: int, stream: str, lease: int | None) -> Status:
    return Status(stream=stream, epoch=epoch * 32, offset=offset, previous=0, time=NOW, state="live", lease=lease)


@dataclass
class Journal:
    """A journal that is read event by event."""

    name: str
    events: list[Status] = field(default_factory=list)
    read: int = 0
    next_event: StreamEvent | None = None
    readable: int = 0
    """Events that the subscriber can have read by now."""

    def has_read(self, stream: str, since_s: float) -> bool:
        del stream, since_s  # nothing is published any more: the end of the journal is the present
        return self.next_event is None and self.read == len(self.events)

    def advance(self) -> None:
        if self.next_event is None and self.read < self.readable:
            self.next_event, self.read = self.events[self.read], self.read + 1


@st.composite
def histories(draw: st.DrawFn) -> list[Journal]:
    """Journals of a fleet in which streams move: each event is of the node that has the lease then."""
    journals = [Journal(name) for name in "abc"]
    owners: dict[str, tuple[int, int]] = {}
    token = 0
    for _ in range(draw(st.integers(1, 40))):
        stream = draw(st.sampled_from(STREAMS))
        if stream not in owners or draw(st.integers(0, 2)) == 0:
            token += 1
            owners[stream] = (draw(st.integers(0, 2)), token)
        node, lease = owners[stream]
        journal = journals[node]
        journal.events.append(status(journal.name, len(journal.events) + 1, stream, lease))
    return journals


def run(journals: list[Journal], order: FleetOrder, data: st.DataObject, *, limit: int | None = None) -> list[Status]:
    """Merge the journals, of which more and more can be read, in a drawn order."""
    out: list[Status] = []
    stuck = 0
    while any(each.read < len(each.events) or each.next_event for each in journals):
        if limit is not None and len(out) >= limit:
            return out
        journal = data.draw(st.sampled_from(journals))
        journal.readable = min(len(journal.events), journal.readable + data.draw(st.integers(0, 3)))
        stuck += 1
        if stuck > 300:  # everything can be read at last
            for each in journals:
                each.readable = len(each.events)
        assert stuck < 2000, "the journals wait for each other"
        for each in journals:
            each.advance()
        for each in journals:
            event = each.next_event
            if event is None:
                continue
            if order.is_repeated(event):
                each.next_event = None
            elif not any(order.must_wait(event, other, 0.0) for other in journals if other is not each):
                order.note(event)
                assert isinstance(event, Status)
                out.append(event)
                each.next_event = None
                stuck = 0
                break
    return out


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_each_event_is_returned_once_and_streams_follow_their_leases(
    journals: list[Journal], data: st.DataObject
) -> None:
    found = run(journals, FleetOrder({}), data)
    expected = {(event.epoch, event.offset) for journal in journals for event in journal.events}
    assert len(found) == len(expected)
    assert {(event.epoch, event.offset) for event in found} == expected
    for stream in STREAMS:
        tokens = [event.lease or 0 for event in found if event.stream == stream]
        assert tokens == sorted(tokens)
    for journal in journals:
        offsets = [event.offset for event in found if event.epoch == journal.name * 32]
        assert offsets == sorted(offsets, key=int)


@settings(max_examples=40, deadline=None)
@given(histories(), st.data())
def test_subscriber_that_restarts_anywhere_gets_the_rest_once(journals: list[Journal], data: st.DataObject) -> None:
    total = sum(len(journal.events) for journal in journals)
    first = run(journals, FleetOrder({}), data, limit=data.draw(st.integers(0, total)))
    offsets: dict[str, int] = {}
    for event in first:
        offsets[event.epoch] = event.offset or 0
    # The next process reads from the beginning of each journal: positions that it does not use must not matter.
    again = [Journal(journal.name, journal.events) for journal in journals]
    second = run(again, FleetOrder(offsets), data)
    identities = [(event.epoch, event.offset) for event in (*first, *second)]
    assert len(identities) == total
    assert len(set(identities)) == total


def test_events_without_lease_never_wait() -> None:
    order = FleetOrder({})
    other = Journal("b", [status("b", 1, "door", None)])
    assert not order.must_wait(status("a", 1, "door", None), other, 0.0)
    assert order.must_wait(status("a", 1, "door", 1), other, 0.0)


@pytest.mark.parametrize(
    ("lease", "late_s", "is_refused"),
    [(1, OVERLAP_S + 1, True), (1, OVERLAP_S - 1, False), (2, 100.0, False), (3, 100.0, False), (None, 100.0, False)],
)
def test_event_is_refused_if_a_later_lease_was_granted_before_it(
    lease: int | None, late_s: float, is_refused: bool
) -> None:
    assert is_overtaken(status("a", 1, "door", lease), 2, 50.0, 50.0 + late_s) is is_refused


def test_end_of_an_action_is_never_refused() -> None:
    for phase, is_refused in (("start", True), ("update", True), ("end", False)):
        event = Action(
            stream="door", epoch="a" * 32, offset=1, previous=0, time=NOW, lease=1, label="wave",
            phase=phase, started_s=0, at_s=0, probability=0.5, peak=0.5,  # type: ignore[arg-type]
        )  # fmt: skip
        assert is_overtaken(event, 2, 0.0, 100.0) is is_refused
    assert not is_overtaken(event, None, None, 100.0)

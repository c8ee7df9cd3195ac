"""A subscription with replay returns every event, whatever the live socket loses; what is gone is said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from support.hub_process import HubProcess, action, prediction, status, wait_until

import streamclf
from streamclf.client.gaps import GapTracker
from streamclf.client.replay import Page, ReplayClient
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import BusError, UsageError
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost, Prediction, Received, Status, StreamEvent
from streamclf.producer.link import EventProducer

EPOCH = "ab" * 16
NOW = datetime.now(timezone.utc)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


@pytest.fixture
def link(hub: HubProcess) -> Iterator[EventProducer]:
    with EventProducer(hub.link, "test") as link:
        yield link


def settled(link: EventProducer) -> None:
    wait_until(lambda: link.unacknowledged == 0, "confirmation")


def take(events: Subscription, count: int, deadline_s: float = 15.0) -> list[Received]:
    """The next `count` events that are not heartbeats."""
    end = time.monotonic() + deadline_s
    got: list[Received] = []
    while len(got) < count:
        event = events.receive(0.2)
        if event is not None and not isinstance(event, Heartbeat):
            got.append(event)
        assert time.monotonic() < end, f"{len(got)} of {count} events"
    return got


def offsets(events: list[Received]) -> list[int | None]:
    return [event.offset for event in events if not isinstance(event, Lost | Heartbeat)]


def test_live_events_are_typed_and_filtered(hub: HubProcess, link: EventProducer) -> None:
    with subscribe(hub.events, streams=["door"], types=["prediction", "heartbeat"]) as events:
        assert isinstance(events.receive(5.0), Heartbeat)
        for draft in (status("door"), prediction("yard"), prediction("door"), prediction("door2")):
            link.post(draft)
        (event,) = take(events, 1)
        assert isinstance(event, Prediction)
        assert (event.stream, event.offset) == ("door", 3)


def test_of_more_streams_than_a_service_takes_topics_only_those_asked_for_come(
    hub: HubProcess, link: EventProducer
) -> None:
    with subscribe(hub.events, streams=[f"cam{number}" for number in range(400)]) as events:
        assert isinstance(events.receive(5.0), Heartbeat)
        for draft in (status("door"), prediction("cam7"), prediction("cam400"), prediction("cam399")):
            link.post(draft)
        assert [(event.stream, event.offset) for event in take(events, 2)] == [("cam7", 2), ("cam399", 4)]


def test_what_was_published_before_is_replayed_from_the_start(hub: HubProcess, link: EventProducer) -> None:
    for number in range(3000):
        link.post(prediction(f"cam{number % 4}", number=number))
    settled(link)
    with subscribe(hub.events, replay=True, after=START) as events:
        assert offsets(take(events, 3000)) == list(range(1, 3001))
        position = events.position
        assert position is not None
        assert position.offset == 3000
    link.post(status())
    with subscribe(hub.events, replay=True, after=position) as events:
        assert offsets(take(events, 1)) == [3001]


def test_from_now_on_means_from_now_on(hub: HubProcess, link: EventProducer) -> None:
    link.post(prediction())
    settled(link)
    with subscribe(hub.events, replay=True) as events:
        assert isinstance(events.receive(5.0), Heartbeat)
        link.post(prediction())
        assert offsets(take(events, 1)) == [2]


def test_an_event_loop_can_read_them_and_cancel(hub: HubProcess, link: EventProducer) -> None:
    for number in range(500):
        link.post(prediction(number=number))
    settled(link)

    async def read() -> list[Received]:
        got: list[Received] = []
        with subscribe(hub.events, types=["prediction"], replay=True, after=START) as events:
            async for event in events:
                got.append(event)
                if len(got) == 500:
                    break
            waiting = asyncio.create_task(anext(aiter(events)))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        return got

    assert offsets(asyncio.run(read())) == list(range(1, 501))


def test_filters_apply_to_replay_too(hub: HubProcess, link: EventProducer) -> None:
    for number in range(300):
        link.post(prediction(f"cam{number % 3}", number=number))
        link.post(status(f"cam{number % 3}"))
    link.post(action("start", "cam1"))
    settled(link)
    with subscribe(hub.events, streams=["cam1"], types=["status", "action"], replay=True, after=START) as events:
        got = take(events, 101)
        assert all(not isinstance(e, Prediction | Lost) and e.stream == "cam1" for e in got)
        link.post(prediction("cam1"))
        link.post(status("cam1"))
        (event,) = take(events, 1)
        assert isinstance(event, Status)


def test_a_slow_reader_with_replay_gets_all_and_without_it_some(
    hub: HubProcess, link: EventProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.client.event_socket.RECEIVE_HIGH_WATER", 10)
    count = 20_000
    with subscribe(hub.events, replay=True, after=START) as sure, subscribe(hub.events) as plain:
        for events in (sure, plain):
            assert isinstance(events.receive(5.0), Heartbeat)
        for number in range(count):
            link.post(prediction(number=number, model="m" * 256))
            if number % 1000 == 0:
                settled(link)
        settled(link)
        seen = 0
        for event in plain:
            seen += isinstance(event, Prediction)
            if isinstance(event, Heartbeat) and event.head == count:
                break
        assert 0 < seen < count
        assert offsets(take(sure, count, deadline_s=60)) == list(range(1, count + 1))


def test_what_retention_removed_is_told_once(link: EventProducer, hub: HubProcess) -> None:
    for number in range(20):
        link.post(prediction(number=number))
    settled(link)
    with subscribe(hub.events, replay=True, after=START) as events:
        take(events, 5)
        position = events.position
    assert position is not None
    assert hub.stop() == 0
    with sqlite3.connect(hub.journal) as db:
        db.execute("DELETE FROM events WHERE offset<=15")
    db.close()
    hub.start()
    with subscribe(hub.events, replay=True, after=position) as events:
        lost, *rest = take(events, 6)
        assert lost == Lost(epoch=position.epoch, first=position.offset + 1, last=15)
        assert offsets(rest) == [16, 17, 18, 19, 20]
    with subscribe(hub.events, replay=True, after=START) as events:
        assert offsets(take(events, 5)) == [16, 17, 18, 19, 20]


def test_a_new_journal_is_a_new_epoch_and_the_old_ones_end_is_unknown(hub: HubProcess, link: EventProducer) -> None:
    link.post(prediction())
    settled(link)
    with subscribe(hub.events, replay=True, after=START) as events:
        (old,) = take(events, 1)
        assert isinstance(old, Prediction)
        hub.kill()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{hub.journal}{suffix}").write_bytes(b"not a database" * 1000)
        hub.start()
        link.post(prediction(number=1))
        lost, new = take(events, 2)
        assert lost == Lost(epoch=old.epoch, first=2, last=None)
        assert isinstance(new, Prediction)
        assert (new.offset, new.epoch != old.epoch) == (1, True)


def test_a_service_that_stays_silent_is_an_error_in_time() -> None:
    with (
        subscribe("tcp://127.0.0.1:9", patience_s=0.2) as events,
        pytest.raises(BusError, match="is the service running"),
    ):
        next(iter(events))


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "localhost"},
        {"streams": ["a/b"]},
        {"types": ["rumour"]},
        {"after": START},
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        subscribe(**{"endpoint": "tcp://127.0.0.1:9", **wrong})  # type: ignore[arg-type]


class FakeService:
    """A journal in a list, and a tracker that hears only what `losses` lets through."""

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
def test_whatever_is_lost_on_the_way_each_event_is_returned_once(
    steps: list[tuple[str, str, bool]], streams: frozenset[str] | None, limit: int
) -> None:
    service, tracker = FakeService(), GapTracker(streams, START)
    got: list[Received] = []

    def pull() -> None:
        if tracker.is_behind and tracker.position is not None and tracker.position.epoch:
            got.extend(tracker.add_page(service.page(tracker.position.offset, limit, streams)))

    for kind, stream, arrives in steps:
        if kind == "event":
            event = service.publish(stream)
            if arrives and (streams is None or stream in streams):
                got.extend(tracker.add_event(event))
        elif kind == "heartbeat" and arrives:
            got.extend(tracker.add_heartbeat(service.heartbeat()))
        else:
            pull()
    got.extend(tracker.add_heartbeat(service.heartbeat()))
    for _ in range(len(service.events) + 1):
        pull()
    wanted = [event for event in service.events if streams is None or event.stream in streams]
    assert sorted(offsets(got)) == [event.offset for event in wanted]  # type: ignore[type-var]
    for name in "abc":
        own = offsets([event for event in got if isinstance(event, Status) and event.stream == name])
        assert own == sorted(own)  # type: ignore[type-var]
    if streams is None:
        assert offsets(got) == sorted(offsets(got))  # type: ignore[type-var]
    assert tracker.position == Position(EPOCH, len(service.events))


def test_a_snapshot_has_the_last_event_of_each_stream_and_type(hub: HubProcess, link: EventProducer) -> None:
    for number in range(20):
        link.post(prediction(f"cam{number % 2}", number=number))
    link.post(status("cam0", "stalled"))
    settled(link)
    found = streamclf.snapshot(hub.events, timeout_s=10)
    assert [(event.type, event.stream, event.offset) for event in found.events] == [
        ("prediction", "cam0", 19),
        ("prediction", "cam1", 20),
        ("status", "cam0", 21),
    ]
    assert (found.oldest, found.head) == (1, 21)
    assert all(event.raw for event in found.events)
    (only,) = streamclf.snapshot(hub.events, streams=["cam0"], types=["status"], timeout_s=10).events
    assert isinstance(only, Status)
    assert streamclf.snapshot(hub.events, streams=["nobody"], timeout_s=10).events == ()


def test_behind_a_snapshot_one_goes_on_without_a_gap(hub: HubProcess, link: EventProducer) -> None:
    for number in range(5):
        link.post(prediction(number=number))
    settled(link)
    found = streamclf.snapshot(hub.events, timeout_s=10)
    for number in range(5, 10):
        link.post(prediction(number=number))
    settled(link)
    with subscribe(hub.events, replay=True, after=found.position) as events:
        assert offsets(take(events, 5)) == [6, 7, 8, 9, 10]


def test_a_snapshot_takes_nothing_from_what_is_received(hub: HubProcess, link: EventProducer) -> None:
    with subscribe(hub.events) as events:
        events.snapshot(10.0)
        for number in range(3):
            link.post(prediction(number=number))
        settled(link)
        assert events.snapshot(10.0).head == 3
        assert offsets(take(events, 3)) == [1, 2, 3]


def test_a_snapshot_of_nobody_is_an_error_with_a_remedy(hub: HubProcess) -> None:
    with pytest.raises(BusError, match=r"no message for 0\.2 s; is the service running"):
        streamclf.snapshot("tcp://127.0.0.1:9", timeout_s=0.2)
    with subscribe(hub.events, types=["heartbeat"]) as events:
        assert isinstance(events.receive(5.0), Heartbeat)
        events._replay_endpoint = "tcp://127.0.0.1:9"
        with pytest.raises(BusError, match=r"no answer within 0\.3 s though .* can its `publish.replay`"):
            events.snapshot(0.3)


def test_an_answer_that_makes_no_sense_is_asked_for_again() -> None:
    context = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        answers = [b"nonsense", b'{"v":1,"reply":"error","id":"2","error":"the journal cannot be read now"}']

        def serve() -> None:
            for number in range(3):
                assert router.poll(5000)
                peer, question = router.recv_multipart()
                asked = json.loads(question)
                header = {"v": 1, "reply": "snapshot", "id": asked["id"], "epoch": EPOCH, "oldest": 1, "head": 7}
                router.send_multipart([peer, answers[number] if number < 2 else json.dumps(header).encode()])

        server = threading.Thread(target=serve)
        server.start()
        puller = ReplayClient(context, f"tcp://127.0.0.1:{port}", [])
        found = puller.snapshot([], time.monotonic() + 10)
        puller.close()
        server.join(10)
    assert found is not None
    assert found.position == Position(EPOCH, 7)

"""Test subscriptions and snapshots against a real hub: filters, replay, lost ranges, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from support.hub_process import HubProcess, action, clip, prediction, status, wait_until

import streamclf
from streamclf.client.receiver import EventReceiver
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import BusError, UsageError
from streamclf.events.positions import START
from streamclf.events.types import Heartbeat, Lost, Prediction, Received, Status
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


def wait_confirmed(link: EventProducer) -> None:
    wait_until(lambda: link.unacknowledged == 0, "confirmation")


def receive(events: Subscription, count: int, deadline_s: float = 60.0) -> list[Received]:
    """Receive the next `count` events that are not heartbeats."""
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
        assert isinstance(events.receive(60.0), Heartbeat)
        for draft in (status("door"), prediction("yard"), prediction("door"), prediction("door2")):
            link.post(draft)
        (event,) = receive(events, 1)
        assert isinstance(event, Prediction)
        assert (event.stream, event.offset) == ("door", 3)


def test_filter_of_more_streams_than_topics_are_allowed(hub: HubProcess, link: EventProducer) -> None:
    with subscribe(hub.events, streams=[f"cam{number}" for number in range(400)]) as events:
        assert isinstance(events.receive(60.0), Heartbeat)
        for draft in (status("door"), prediction("cam7"), prediction("cam400"), prediction("cam399")):
            link.post(draft)
        assert [(event.stream, event.offset) for event in receive(events, 2)] == [("cam7", 2), ("cam399", 4)]


def post_views(link: EventProducer) -> None:
    """Post seven events of two regions and two models that have the same labels at the same media time."""
    for view in ({}, {"region": "gate"}, {"region": "gate", "model_name": "hands"}, {"region": "gates"}):
        link.post(prediction("door", **view))
    link.post(action("start", region="gate", model_name="hands"))
    link.post(clip(region="gates"))
    link.post(status("door"))


@pytest.mark.parametrize("replay", [False, True])
def test_a_stream_includes_its_regions_and_a_region_nothing_else(
    hub: HubProcess, link: EventProducer, replay: bool
) -> None:
    after, types = START if replay else None, ("prediction", "clip", "heartbeat")
    with (
        subscribe(hub.events, streams=["door"], replay=replay, after=after) as stream,
        subscribe(hub.events, streams=["door"], regions=["gate"], replay=replay, after=after) as region,
        subscribe(hub.events, regions=["gates"], types=types, replay=replay, after=after) as anywhere,
    ):
        for events in (stream, region, anywhere):
            if not replay:  # else it also gets what was posted before it was connected
                assert isinstance(events.receive(60.0), Heartbeat)
        post_views(link)
        assert offsets(receive(stream, 7)) == [1, 2, 3, 4, 5, 6, 7]
        assert offsets(receive(region, 4)) == [2, 3, 5, 7], "with the status of the stream"
        assert offsets(receive(anywhere, 2)) == [4, 6]
        assert [events.missed for events in (stream, region, anywhere)] == [0, 0, 0]


def test_position_of_a_subscription_to_a_region_moves_past_other_events(hub: HubProcess, link: EventProducer) -> None:
    post_views(link)
    wait_confirmed(link)
    with subscribe(hub.events, regions=["gate"], types=["prediction"], replay=True, after=START) as events:
        assert offsets(receive(events, 2)) == [2, 3]
        wait_until(lambda: events.receive(0.05) is None and events.position.offset == 7, "the end")  # type: ignore[union-attr]
    snapshot = streamclf.snapshot(hub.events, regions=["gates"], timeout_s=60)
    assert [event.offset for event in snapshot.events] == [4, 6, 7]


def test_snapshot_has_the_last_event_of_each_view(hub: HubProcess, link: EventProducer) -> None:
    for _ in range(2):
        post_views(link)
    wait_confirmed(link)
    assert [event.offset for event in streamclf.snapshot(hub.events, timeout_s=60).events] == [8, 9, 10, 11, 13, 14, 15]


def test_earlier_events_are_replayed_from_the_start(hub: HubProcess, link: EventProducer) -> None:
    for number in range(3000):
        link.post(prediction(f"cam{number % 4}", number=number))
    wait_confirmed(link)
    with subscribe(hub.events, replay=True, after=START) as events:
        assert offsets(receive(events, 3000)) == list(range(1, 3001))
        position = events.position
        assert position is not None
        assert position.offset == 3000
    link.post(status())
    with subscribe(hub.events, replay=True, after=position) as events:
        assert offsets(receive(events, 1)) == [3001]


def test_replay_without_a_position_starts_now(hub: HubProcess, link: EventProducer) -> None:
    link.post(prediction())
    wait_confirmed(link)
    with subscribe(hub.events, replay=True) as events:
        assert isinstance(events.receive(60.0), Heartbeat)
        link.post(prediction())
        assert offsets(receive(events, 1)) == [2]


async def read(events: Subscription, count: int) -> list[Received]:
    """Read the next `count` events that are not heartbeats."""
    got: list[Received] = []
    while len(got) < count:
        event = await asyncio.wait_for(anext(events), 60)
        got += [] if isinstance(event, Heartbeat) else [event]
    return got


@pytest.mark.parametrize("replay", [True, False])
def test_event_loop_reads_all_events_however_often_it_is_cancelled(
    hub: HubProcess, link: EventProducer, replay: bool
) -> None:
    """A cancelled wait loses no event, and the next one continues where it ended."""

    async def run() -> list[int | None]:
        got: list[Received] = []
        async with subscribe(hub.events, types=["prediction", "heartbeat"], replay=replay) as events:
            assert isinstance(await asyncio.wait_for(anext(events), 60), Heartbeat)
            for number in range(300):
                link.post(prediction(number=number))
            while len(got) < 300:
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0)
                await asyncio.sleep(0.001 if len(got) % 3 else 0)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    event = await waiting
                    got += [] if isinstance(event, Heartbeat) else [event]
        return offsets(got)

    assert asyncio.run(asyncio.wait_for(run(), 60)) == list(range(1, 301))


def test_event_loop_replays_the_journal_and_keeps_the_position(hub: HubProcess, link: EventProducer) -> None:
    for number in range(2500):
        link.post(prediction(number=number))
    wait_confirmed(link)

    async def run() -> tuple[list[int | None], int]:
        pauses = 0

        async def count_pauses() -> None:
            nonlocal pauses
            while True:
                await asyncio.sleep(0)
                pauses += 1

        counting = asyncio.create_task(count_pauses())
        async with subscribe(hub.events, types=["prediction"], replay=True, after=START) as events:
            got: list[Received] = []
            async for event in events:
                got.append(event)
                if len(got) == 2500:
                    break
            assert events.position is not None
            assert events.position.offset == 2500
            counting.cancel()
            link.post(prediction(number=2500))
            got += await read(events, 1)
        return offsets(got), pauses

    found, pauses = asyncio.run(run())
    assert found == list(range(1, 2502))
    assert pauses >= 20, "a long replay lets other tasks run"


def test_event_loop_waits_without_a_thread_and_seldom_wakes(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    receive = EventReceiver.receive

    def count(self: EventReceiver, timeout_s: float) -> Received | None:
        nonlocal steps
        steps += 1
        return receive(self, timeout_s)

    monkeypatch.setattr(EventReceiver, "receive", count)

    async def run() -> None:
        async with subscribe(hub.events, types=["heartbeat"]) as events:
            for _ in range(2):
                await asyncio.wait_for(anext(events), 60)
            threads = threading.active_count()
            before = steps
            await asyncio.wait_for(anext(events), 60)
            assert threading.active_count() == threads
            assert steps - before <= 12

    asyncio.run(run())


def test_a_task_that_waits_ends_when_the_subscription_is_closed() -> None:
    async def run() -> None:
        descriptors = len(list(Path("/dev/fd").iterdir()))

        async def consume(events: Subscription) -> str:
            async for _ in events:
                pass
            return "ended"

        async with subscribe("tcp://127.0.0.1:9") as events:
            waiting = asyncio.create_task(consume(events))
            await asyncio.sleep(0.02)
            with pytest.raises(UsageError, match="another task waits"):
                await anext(events)
            with pytest.raises(UsageError, match="event loop"):
                await asyncio.to_thread(events.close)
        assert await asyncio.wait_for(waiting, 60) == "ended"
        with pytest.raises(UsageError, match="closed; subscribe again"):
            events.receive(0.1)
        assert list(events) == []
        cancelled = subscribe("tcp://127.0.0.1:9")
        async with cancelled:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(cancelled), 0.02)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert len(list(Path("/dev/fd").iterdir())) == descriptors, "a socket is left"

    asyncio.run(run())


def test_event_loop_raises_an_error_after_the_patience() -> None:
    async def run() -> None:
        async with subscribe("tcp://127.0.0.1:9", patience_s=0.1) as events:
            await asyncio.wait_for(anext(events), 60)

    with pytest.raises(BusError, match="is the service running"):
        asyncio.run(run())


def test_closing_in_another_thread_ends_the_iteration() -> None:
    events = subscribe("tcp://127.0.0.1:9")
    got: list[Received] = []
    thread = threading.Thread(target=lambda: got.extend(events))
    thread.start()
    events.close()
    thread.join(60)
    assert not thread.is_alive()
    assert got == []


def test_filters_apply_to_replay_too(hub: HubProcess, link: EventProducer) -> None:
    for number in range(300):
        link.post(prediction(f"cam{number % 3}", number=number))
        link.post(status(f"cam{number % 3}"))
    link.post(action("start", "cam1"))
    wait_confirmed(link)
    with subscribe(hub.events, streams=["cam1"], types=["status", "action"], replay=True, after=START) as events:
        got = receive(events, 101)
        assert all(not isinstance(e, Prediction | Lost) and e.stream == "cam1" for e in got)
        link.post(prediction("cam1"))
        link.post(status("cam1"))
        (event,) = receive(events, 1)
        assert isinstance(event, Status)


def test_slow_reader_gets_all_events_with_replay_and_some_without(
    hub: HubProcess, link: EventProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.client.event_socket.RECEIVE_HIGH_WATER", 10)
    count = 20_000
    with subscribe(hub.events, replay=True, after=START) as with_replay, subscribe(hub.events) as plain:
        for events in (with_replay, plain):
            assert isinstance(events.receive(60.0), Heartbeat)
        for number in range(count):
            link.post(prediction(number=number, model="m" * 256))
            if number % 1000 == 0:
                wait_confirmed(link)
        wait_confirmed(link)
        seen = 0
        for event in plain:
            seen += isinstance(event, Prediction)
            if isinstance(event, Heartbeat) and event.head == count:
                break
        assert 0 < seen < count
        assert offsets(receive(with_replay, count, deadline_s=60)) == list(range(1, count + 1))


def test_events_removed_by_retention_are_reported_lost_once(link: EventProducer, hub: HubProcess) -> None:
    for number in range(20):
        link.post(prediction(number=number))
    wait_confirmed(link)
    with subscribe(hub.events, replay=True, after=START) as events:
        receive(events, 5)
        position = events.position
    assert position is not None
    assert hub.stop() == 0
    with sqlite3.connect(hub.journal) as db:
        db.execute("DELETE FROM events WHERE offset<=15")
    db.close()
    hub.start()
    with subscribe(hub.events, replay=True, after=position) as events:
        lost, *rest = receive(events, 6)
        assert lost == Lost(epoch=position.epoch, first=position.offset + 1, last=15)
        assert offsets(rest) == [16, 17, 18, 19, 20]
    with subscribe(hub.events, replay=True, after=START) as events:
        assert offsets(receive(events, 5)) == [16, 17, 18, 19, 20]


def test_new_journal_has_a_new_epoch_and_the_end_of_the_old_one_is_unknown(
    hub: HubProcess, link: EventProducer
) -> None:
    link.post(prediction())
    wait_confirmed(link)
    with subscribe(hub.events, replay=True, after=START) as events:
        (old,) = receive(events, 1)
        assert isinstance(old, Prediction)
        hub.kill()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{hub.journal}{suffix}").write_bytes(b"not a database" * 1000)
        hub.start()
        link.post(prediction(number=1))
        lost, new = receive(events, 2)
        assert lost == Lost(epoch=old.epoch, first=2, last=None)
        assert isinstance(new, Prediction)
        assert (new.offset, new.epoch != old.epoch) == (1, True)


def test_silent_service_raises_an_error_after_the_patience() -> None:
    with (
        subscribe("tcp://127.0.0.1:9", patience_s=0.2) as events,
        pytest.raises(BusError, match="is the service running"),
    ):
        next(iter(events))


def test_a_reader_that_pauses_longer_than_the_patience_gets_the_waiting_events(
    hub: HubProcess, link: EventProducer
) -> None:
    with subscribe(hub.events, types=["prediction", "heartbeat"], patience_s=30) as events:
        assert isinstance(events.receive(60.0), Heartbeat)
        link.post(prediction())
        wait_confirmed(link)
        sockets = events._receiver._socket.sockets
        wait_until(lambda: any(socket.poll(0) for socket in sockets), "a message that waits")
        events._receiver._last_message_at -= 31.0  # as after a pause of the program
        assert offsets(receive(events, 1)) == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "localhost"},
        {"streams": ["a/b"]},
        {"regions": ["a/b"]},
        {"types": ["rumour"]},
        {"after": START},
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        subscribe(**{"endpoint": "tcp://127.0.0.1:9", **wrong})  # type: ignore[arg-type]


def test_snapshot_has_the_last_event_of_each_stream_and_type(hub: HubProcess, link: EventProducer) -> None:
    for number in range(20):
        link.post(prediction(f"cam{number % 2}", number=number))
    link.post(status("cam0", "stalled"))
    wait_confirmed(link)
    found = streamclf.snapshot(hub.events, timeout_s=60)
    assert [(event.type, event.stream, event.offset) for event in found.events] == [
        ("prediction", "cam0", 19),
        ("prediction", "cam1", 20),
        ("status", "cam0", 21),
    ]
    assert (found.oldest, found.head) == (1, 21)
    assert all(event.raw for event in found.events)
    (only,) = streamclf.snapshot(hub.events, streams=["cam0"], types=["status"], timeout_s=60).events
    assert isinstance(only, Status)
    assert streamclf.snapshot(hub.events, streams=["absent"], timeout_s=60).events == ()


def test_replay_after_a_snapshot_has_no_gap(hub: HubProcess, link: EventProducer) -> None:
    for number in range(5):
        link.post(prediction(number=number))
    wait_confirmed(link)
    found = streamclf.snapshot(hub.events, timeout_s=60)
    for number in range(5, 10):
        link.post(prediction(number=number))
    wait_confirmed(link)
    with subscribe(hub.events, replay=True, after=found.position) as events:
        assert offsets(receive(events, 5)) == [6, 7, 8, 9, 10]


def test_snapshot_removes_no_event_from_the_subscription(hub: HubProcess, link: EventProducer) -> None:
    with subscribe(hub.events) as events:
        events.snapshot(10.0)
        for number in range(3):
            link.post(prediction(number=number))
        wait_confirmed(link)
        assert events.snapshot(10.0).head == 3
        assert offsets(receive(events, 3)) == [1, 2, 3]


def test_snapshot_without_an_answer_gives_an_error_with_a_remedy(hub: HubProcess) -> None:
    with pytest.raises(BusError, match=r"no message for 0\.2 s; no program listens there; is the service running"):
        streamclf.snapshot("tcp://127.0.0.1:9", timeout_s=0.2)
    with subscribe(hub.events, types=["heartbeat"]) as events:
        assert isinstance(events.receive(60.0), Heartbeat)
        events._receiver._replay_endpoint = "tcp://127.0.0.1:9"
        with pytest.raises(BusError, match=r"no answer within 0\.3 s though .* can its `publish.replay`"):
            events.snapshot(0.3)

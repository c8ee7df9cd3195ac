"""Test the hub as a process: its messages to any subscriber, kills and restarts, and hostile requests."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zmq
from support.hub_process import (
    HubProcess,
    action,
    ask,
    check_journal,
    clip,
    prediction,
    read_journal,
    read_ready_line,
    start_hub,
    status,
    wait_until,
)
from support.processes import wakes

from streamclf.client.subscription import subscribe
from streamclf.config.service import parse_config
from streamclf.events.drafts import Draft
from streamclf.events.types import Clip, Heartbeat
from streamclf.producer.link import EventProducer


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_plain_zeromq_subscriber_receives_a_prediction(hub: HubProcess) -> None:
    subscriber = f"""
import json, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect("{hub.events}")
socket.subscribe("heartbeat/")
socket.subscribe("prediction/door/")
print(socket.recv_multipart()[0].decode(), flush=True)
topic, body = socket.recv_multipart()
while topic == b"heartbeat/":
    topic, body = socket.recv_multipart()
print(topic.decode(), body.decode(), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", subscriber], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "heartbeat/\n"
        with EventProducer(hub.link, "test") as link:
            link.post(prediction("yard"))
            link.post(prediction("door", number=12))
            topic, _, body = process.stdout.readline().partition(" ")
    finally:
        process.kill()
        process.communicate(timeout=60)
    event = json.loads(body)
    assert topic == "prediction/door/"
    assert list(event) == [
        "v", "type", "stream", "epoch", "offset", "previous", "time", "window", "top", "model", "latency_ms",
    ]  # fmt: skip
    assert event["window"] == {
        "start_s": 12.0, "end_s": 14.5, "frames": 32, "duplicates": 0, "corrupt": 0, "segment": 3,
    }  # fmt: skip
    assert (event["v"], event["offset"], event["previous"]) == (1, 2, 0)
    assert event["top"] == [["wave", 0.91], ["still", 0.04]]
    assert list(event["latency_ms"]) == ["capture_to_publish", "encode", "classify"]
    assert 0 < event["latency_ms"]["capture_to_publish"] < 60_000


def test_clean_stop_journals_every_posted_draft(hub: HubProcess) -> None:
    link = EventProducer(hub.link, "test")
    for number in range(2000):
        link.post(prediction(number=number))
    closing = threading.Thread(target=link.close, args=(5.0,))
    closing.start()
    closing.join()
    assert link.unacknowledged == 0
    assert hub.stop() == 0
    with sqlite3.connect(hub.journal) as db:
        assert db.execute("SELECT count(*), max(offset) FROM events").fetchone() == (2000, 2000)
    db.close()


def test_hub_killed_repeatedly_journals_everything_once_and_in_order(hub: HubProcess) -> None:
    link = EventProducer(hub.link, "test")
    posted = 0
    for _ in range(4):
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            link.post(prediction(f"cam{posted % 3}", number=posted))
            posted += 1
            time.sleep(0.0005)
        hub.kill()
        link.post(prediction(f"cam{posted % 3}", number=posted))
        posted += 1
        hub.start()
    assert link.close(20.0) == 0
    assert link.dropped == {}
    assert hub.stop() == 0
    last: dict[str, int] = {}
    for body in check_journal(hub.journal, posted):
        assert body["previous"] == last.get(body["stream"], 0)
        last[body["stream"]] = body["offset"]


def test_status_shows_the_hop_of_the_predictions(hub: HubProcess, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(b"")
    subscriber.connect(hub.events)
    with EventProducer(hub.link, "capture") as capture, EventProducer(hub.link, "classifier") as classifier:
        wait_until(lambda: subscriber.poll(100) > 0, "a heartbeat")
        capture.post(status("door", "live", frames=3))
        wait_until(lambda: capture.unacknowledged == 0, "confirmation")
        for hop in (1, 1, 8):
            classifier.post(prediction("door", hop=hop))
        wait_until(lambda: classifier.unacknowledged == 0, "confirmation")
        capture.post(status("door", "live", frames=9))
        seen: list[dict[str, Any]] = []
        while len(seen) < 7:
            assert subscriber.poll(60_000), seen
            event = json.loads(subscriber.recv_multipart()[1])
            if event["type"] != "heartbeat":
                seen.append(event)
    subscriber.close(0)
    assert [(event["type"], event.get("hop")) for event in seen] == [
        ("status", None), ("prediction", 1), ("status", 1), ("prediction", 1), ("prediction", 8), ("status", 8),
        ("status", 8),
    ]  # fmt: skip
    assert [event["counters"]["frames"] for event in seen if event["type"] == "status"] == [3, 3, 3, 9]
    assert all(later["previous"] == event["offset"] for event, later in pairwise(seen))


def test_drafts_that_producers_dropped_are_reported(hub: HubProcess, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    hub.kill()
    link = EventProducer(hub.link, "test", max_drafts=10)
    for number in range(30):
        link.post(prediction(number=number))
    hub.start()
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(b"heartbeat/")
    subscriber.subscribe(b"status/")
    subscriber.connect(hub.events)
    wait_until(lambda: link.unacknowledged == 0, "confirmation")
    seen: dict[str, dict[str, object]] = {}

    def reported() -> bool:
        link.post(status(chunks=5))
        while subscriber.poll(100):
            topic, body = subscriber.recv_multipart()
            seen[topic.decode()] = json.loads(body)
        return (
            seen.get("heartbeat/", {}).get("dropped") == {"door": 20}
            and seen.get("status/door/", {}).get("counters") == {"chunks": 5, "link_dropped": 20}
        )  # fmt: skip

    wait_until(reported, "the count of dropped predictions")
    link.close(1.0)
    subscriber.close(0)


def test_invalid_draft_is_refused_and_the_next_is_journalled(hub: HubProcess) -> None:
    with EventProducer(hub.link, "test") as link:
        link.post(Draft("prediction", "door", {"window": "broken"}))
        link.post(Draft("status", "door", {"state": "confused"}))
        link.post(status())
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    assert hub.stop() == 0
    with sqlite3.connect(hub.journal) as db:
        assert db.execute("SELECT offset, type FROM events").fetchall() == [(1, "status")]
    db.close()


def test_drafts_with_hostile_views_are_refused_and_the_hub_goes_on(hub: HubProcess) -> None:
    names: list[Any] = ["", "a/b", "x" * 65, "gate\n", "+", "#", 7, ["gate"], {"a": 1}, True]
    with EventProducer(hub.link, "test") as link:
        for name in names:
            for key in ("region", "model_name"):
                link.post(prediction(hop=2, **{key: name}))
                link.post(action("start", **{key: name}))
                link.post(clip(**{key: name}))
        link.post(action("start", region="gate", model_name=None))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    assert hub.stop() == 0
    (event,) = read_journal(hub.journal)
    assert (event["offset"], event["region"], "model_name" in event) == (1, "gate", False)


def test_a_status_with_a_region_is_published_under_its_stream(hub: HubProcess) -> None:
    with subscribe(hub.events, types=["status", "heartbeat"]) as events, EventProducer(hub.link, "test") as link:
        assert events.receive(60.0)
        link.post(Draft("status", "door", {"state": "live", "region": ["gate"]}))
        socket = events._receiver._socket
        topics: list[bytes] = []

        def has_status() -> bool:
            topics.extend(frames[0] for frames in [socket.receive(0.1)] if frames)
            return any(topic.startswith(b"status/") for topic in topics)

        wait_until(has_status, "the status")
    assert b"status/door/" in topics


def test_port_in_use_gives_one_line_and_exit_code_1(hub: HubProcess) -> None:
    job = hub.job.model_copy(update={"journal": hub.directory / "other.db", "link": f"{hub.link}2"})
    process = start_hub(job, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert b"another program uses it" in err
    assert b"Traceback" not in err
    assert err.count(b"\n") == 1


def test_actions_stay_paired_when_hub_and_classifier_crash() -> None:
    with HubProcess(timings={"streamclf.hub.process._HEARTBEAT_S": 0.1}) as hub:
        old = EventProducer(hub.link, "classifier")
        old.post(action("start"))
        wait_until(lambda: old.unacknowledged == 0, "confirmation")
        old.close(0.0)
        hub.kill()
        hub.start()
        with EventProducer(hub.link, "classifier") as new:
            new.post(action("start", label="walk"))
            new.post(action("end", label="walk"))

            def paired() -> bool:
                return Counter(event["phase"] for event in read_journal(hub.journal)) == {"start": 2, "end": 2}

            wait_until(paired, "the end of an action whose producer is gone", deadline_s=20)


@pytest.mark.skipif(sys.platform != "linux", reason="sleeps are counted in /proc")
def test_hub_without_events_sleeps(hub: HubProcess) -> None:
    """Measured: under 10 wakes a second, heartbeat and hello included; 110 with a thread that polled every 10 ms."""
    with EventProducer(hub.link, "idle") as link:
        link.post(prediction())
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        before, began_s = wakes(hub.pid), time.monotonic()
        threading.Event().wait(2.0)
        woken = wakes(hub.pid) - before
        assert woken < 30 * (time.monotonic() - began_s)
        wait_until(lambda: wakes(hub.pid) - before >= 2, "heartbeats: its sleeps are counted")


def test_sigterm_ends_the_hub(hub: HubProcess) -> None:
    hub.signal(signal.SIGTERM)
    assert hub.stop() == 0


def test_hub_ends_when_its_parent_is_gone(hub: HubProcess) -> None:
    process = start_hub(
        hub.job.model_copy(
            update={
                "journal": hub.directory / "b.db",
                "link": f"{hub.link}2",
                "events": "tcp://127.0.0.1:*",
                "replay": "tcp://127.0.0.1:*",
            }
        )
    )
    read_ready_line(process)
    process.communicate(timeout=60)
    assert process.returncode == 0


REQUESTS = [
    b"",
    b"\xff" * 100,
    b"[]",
    b"null",
    b"[" * 60_000,
    b'{"request":"replay","after":-1}',
    b'{"request":"replay","after":99999999999999999999}',
    b'{"request":"replay","limit":0}',
    b'{"request":"replay","limit":1000000}',
    b'{"request":"replay","streams":["door\' OR 1=1 --"]}',
    b'{"request":"replay","streams":["../../etc/passwd"]}',
    b'{"request":"replay","types":["prediction; DROP TABLE events"]}',
    b'{"request":"replay","id":"' + b"x" * 1000 + b'"}',
    b'{"request":"shutdown"}',
]


def test_hostile_requests_get_an_error_that_reveals_nothing(
    hub: HubProcess, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with EventProducer(hub.link, "test") as link:
        link.post(prediction())
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    for request in REQUESTS:
        answer = ask(context, hub.replay, request)
        assert len(answer) == 1, request[:60]
        header = json.loads(answer[0])
        assert header["reply"] == "error", request[:60]
        assert len(header["error"]) < 500
        assert str(hub.directory) not in header["error"]
    header, event = ask(context, hub.replay, b'{"request":"replay","id":"mine","streams":["door"]}')
    assert json.loads(header)["id"] == "mine"
    assert json.loads(event)["stream"] == "door"


def test_hub_keeps_the_journal_within_the_configured_size(tmp_path: Path) -> None:
    raw = {"streams": {"a": {"camera": 0}}, "publish": {"keep_size": "1MB"}}
    publish = parse_config(raw, base=tmp_path, origin="x").publish
    assert publish.keep_size == 1_000_000
    timings = {"streamclf.hub.process._HEARTBEAT_S": 0.1, "streamclf.hub.process._RETAIN_S": 0.1}
    with (
        HubProcess(keep_bytes=publish.keep_size, timings=timings) as hub,
        EventProducer(hub.link, "test") as link,
    ):
        with subscribe(hub.events, types=["heartbeat"]) as events:
            for number in range(3000):
                link.post(prediction(number=number))
                if number % 1000 == 999:
                    wait_until(lambda: link.unacknowledged == 0, "confirmation", 90)
            oldest = 1
            end = time.monotonic() + 60
            while oldest == 1:
                assert time.monotonic() < end, "nothing was removed"
                beat = events.receive(1.0)
                oldest = beat.oldest if isinstance(beat, Heartbeat) else oldest
        assert 1 < oldest <= 3000


def test_the_event_of_a_clip_keeps_offsets_of_its_own_journal_only(hub: HubProcess) -> None:
    with subscribe(hub.events, types=["clip"]) as events, EventProducer(hub.link, "capture-door") as link:
        epoch = events.snapshot(10).epoch
        link.post(clip(epoch=epoch))
        link.post(clip(epoch="0" * 32))
        link.post(clip(start=None))
        found = [event for event in (events.receive(60.0) for _ in range(3)) if isinstance(event, Clip)]
    assert [(event.action, event.actions) for event in found] == [(1, (1,)), (None, ()), (None, ())]
    assert b"action_epoch" not in found[0].raw

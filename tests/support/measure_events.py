"""Measure the speed of events: `PYTHONPATH=tests python -m support.measure_events` prints one JSON object."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import orjson
import zmq
from support.hub_process import HubProcess, prediction, wait_until

from streamclf.client.subscription import subscribe
from streamclf.events.positions import START
from streamclf.hub.journal import Journal, Record
from streamclf.net.curve_keys import Certificate, load_certificate, make_keys
from streamclf.producer.link import EventProducer


def journal_commits(batch: int, seconds: float = 2.0) -> float:
    """Measure events per second into the journal alone, `batch` in each commit."""
    body = orjson.dumps(dict(prediction().body))
    records = [Record("door", "prediction", lambda offset, previous: body)] * batch
    with tempfile.TemporaryDirectory() as directory, Journal(Path(directory) / "j.db", keep_s=60) as journal:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            journal.append(records, {b"p" * 16: 1})
        return journal.head / (time.monotonic() - began)


def through_the_hub(hub: HubProcess, count: int) -> float:
    """Measure events per second through the hub, from `post` until they are journalled, published and confirmed."""
    with EventProducer(hub.link, "measure") as link:
        began = time.monotonic()
        for number in range(count):
            while link.unacknowledged > 4000:
                time.sleep(0.001)
            link.post(prediction(number=number))
        wait_until(lambda: link.unacknowledged == 0, "confirmation", 90)
        return count / (time.monotonic() - began)


def latencies_ms(hub: HubProcess, rate: float, seconds: float, keys: Certificate | None = None) -> dict[str, float]:
    """Measure the time from `post` until a plain subscriber has the event, the commit included.

    With `keys` the events go over CURVE.
    """
    stop, latencies = threading.Event(), list[float]()
    ready = threading.Event()

    def listen() -> None:
        socket = zmq.Context.instance().socket(zmq.SUB)
        socket.subscribe(b"prediction/")
        socket.subscribe(b"heartbeat/")
        if keys:
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = (
                keys.public,
                keys.secret,
                keys.server,
            )
        socket.connect(hub.events)
        while not stop.is_set():
            if socket.poll(100):
                topic, body = socket.recv_multipart()
                now = time.monotonic_ns()
                ready.set()
                if topic != b"heartbeat/":
                    latencies.append((now / 1e9 - orjson.loads(body)["window"]["start_s"]) * 1e3)
        socket.close(0)

    listener = threading.Thread(target=listen)
    listener.start()
    ready.wait(60)
    with EventProducer(hub.link, "measure") as link:
        began = time.monotonic()
        sent = 0
        while (now := time.monotonic()) - began < seconds:
            if now - began >= sent / rate:
                draft = prediction()
                draft.body["window"]["start_s"] = time.monotonic_ns() / 1e9
                link.post(draft)
                sent += 1
            else:
                time.sleep(0.0002)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    time.sleep(0.3)
    stop.set()
    listener.join()
    latencies.sort()
    return {
        "p50": round(latencies[len(latencies) // 2], 3),
        "p99": round(latencies[len(latencies) * 99 // 100], 3),
        "count": len(latencies),
    }


def replay_typed(hub: HubProcess, count: int) -> float:
    """Measure the events per second that `subscribe(replay=True)` returns."""
    with subscribe(hub.events, replay=True, after=START, types=["prediction"]) as events:
        events.receive(1.0)
        began = time.monotonic()
        for _ in range(count - 1):
            events.receive(5.0)
        return count / (time.monotonic() - began)


def replay_raw(hub: HubProcess) -> float:
    """Measure the events per second that a plain REQ socket receives from the replay endpoint."""
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(hub.replay)
    after = received = 0
    began = time.monotonic()
    while True:
        socket.send(orjson.dumps({"request": "replay", "after": after}))
        header, *events = socket.recv_multipart()
        page = orjson.loads(header)
        after, received = page["upto"], received + len(events)
        if after >= page["head"]:
            socket.close(0)
            return received / (time.monotonic() - began)


def recovery_s(hub: HubProcess) -> float:
    """Measure the seconds from kill -9 of the hub until the next hub confirms an event that was posted meanwhile."""
    with EventProducer(hub.link, "measure") as link:
        link.post(prediction())
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        began = time.monotonic()
        hub.kill()
        link.post(prediction())
        hub.start()
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        return time.monotonic() - began


def main() -> None:
    figures: dict[str, object] = {
        "journal_singly_per_s": round(journal_commits(1)),
        "journal_batches_of_16_per_s": round(journal_commits(16)),
        "journal_batches_of_128_per_s": round(journal_commits(128)),
    }
    with HubProcess() as hub:
        figures["post_to_ack_per_s"] = round(through_the_hub(hub, 50_000))
        figures["replay_typed_per_s"] = round(replay_typed(hub, 50_000))
        figures["replay_raw_per_s"] = round(replay_raw(hub))
        figures["post_to_receive_ms_at_100_per_s"] = latencies_ms(hub, 100, 4)
        figures["post_to_receive_ms_at_1000_per_s"] = latencies_ms(hub, 1000, 4)
        figures["recovery_after_kill_s"] = round(recovery_s(hub), 2)
    with tempfile.TemporaryDirectory() as directory:
        server, server_secret = make_keys(Path(directory), "server")
        _, secret = make_keys(Path(directory) / "allowed", "viewer", service=server)
        with HubProcess(keys=server_secret, allow=secret.parent) as hub:
            for rate in (100, 1000):
                figures[f"curve_post_to_receive_ms_at_{rate}_per_s"] = latencies_ms(
                    hub, rate, 4, load_certificate(secret, secret=True)
                )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

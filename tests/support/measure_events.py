"""How fast events go: `PYTHONPATH=tests python -m support.measure_events` prints figures as one JSON object."""

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
    """Events per second into the journal alone, `batch` to a commit."""
    body = orjson.dumps(dict(prediction().body))
    records = [Record("door", "prediction", lambda offset, previous: body)] * batch
    with tempfile.TemporaryDirectory() as directory, Journal(Path(directory) / "j.db", keep_s=60) as journal:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            journal.append(records, {b"p" * 16: 1})
        return journal.head / (time.monotonic() - began)


def through_the_hub(hub: HubProcess, count: int) -> float:
    """Events per second, posted until acknowledged: journalled, published, confirmed."""
    with EventProducer(hub.link, "measure") as link:
        began = time.monotonic()
        for number in range(count):
            while link.unacknowledged > 4000:
                time.sleep(0.001)
            link.post(prediction(number=number))
        wait_until(lambda: link.unacknowledged == 0, "confirmation", 60)
        return count / (time.monotonic() - began)


def latencies_ms(hub: HubProcess, rate: float, seconds: float, keys: Certificate | None = None) -> dict[str, float]:
    """From `post` until a plain subscriber has it, the commit included; with `keys` over CURVE."""
    stop, got = threading.Event(), list[float]()
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
                    got.append((now / 1e9 - orjson.loads(body)["window"]["start_s"]) * 1e3)
        socket.close(0)

    listener = threading.Thread(target=listen)
    listener.start()
    ready.wait(10)
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
    got.sort()
    return {"p50": round(got[len(got) // 2], 3), "p99": round(got[len(got) * 99 // 100], 3), "count": len(got)}


def replay_typed(hub: HubProcess, count: int) -> float:
    """Events per second that `subscribe(replay=True)` returns."""
    with subscribe(hub.events, replay=True, after=START, types=["prediction"]) as events:
        events.receive(1.0)
        began = time.monotonic()
        for _ in range(count - 1):
            events.receive(5.0)
        return count / (time.monotonic() - began)


def replay_raw(hub: HubProcess) -> float:
    """Events per second pulled with a plain REQ socket."""
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(hub.replay)
    after = pulled = 0
    began = time.monotonic()
    while True:
        socket.send(orjson.dumps({"request": "replay", "after": after}))
        header, *events = socket.recv_multipart()
        page = orjson.loads(header)
        after, pulled = page["upto"], pulled + len(events)
        if after >= page["head"]:
            socket.close(0)
            return pulled / (time.monotonic() - began)


def recovery_s(hub: HubProcess) -> float:
    """From kill -9 of the hub until an event posted meanwhile is confirmed by its successor."""
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

"""Kill and stop the hub, the classifier and the logger at random, with small queues: each event is logged once.

`STREAMCLF_CHAOS_S=60 pytest tests/end_to_end/test_chaos.py -s` takes a minute, and prints the disturbances.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import zmq
from support.hub_process import HubProcess
from support.outlets import log_of_everything

from streamclf.subscribers.outlet_command import run_outlet

pytestmark = [
    pytest.mark.flaky(reruns=0),  # a failure once in a hundred runs is a lost event
    pytest.mark.alone,  # its processes use all cores
]

CHAOS_S = float(os.environ.get("STREAMCLF_CHAOS_S", "20" if os.environ.get("CI") else "5"))
HIGH_WATER = 50
"""Messages; the usual values are 2,000 and 10,000."""

CLASSIFIER = """
import signal, sys, threading, time
from support.hub_process import action, prediction, status
from streamclf.producer.link import EventProducer

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
link, life, number = EventProducer(sys.argv[1], "classifier"), int(sys.argv[2]), 0
while not stop.wait(0.0007):
    stream = f"cam{number % 5}"
    if number % 11 == 0:
        link.post(status(stream, life=life, number=number))
    else:
        link.post(prediction(stream, number=number, model=f"life@{life}"))
    number += 1
left = link.close(30.0)
sys.exit(0 if left == 0 and link.dropped == {} else 1)
"""

LOGGER = """
import sys
from pathlib import Path
import streamclf.client.event_socket
from support.outlets import log_of_everything
from streamclf.subscribers.outlet_command import run_outlet
streamclf.client.event_socket.RECEIVE_HIGH_WATER = int(sys.argv[3])
sys.exit(run_outlet(sys.argv[1], log_of_everything(sys.argv[2])))
"""


class Victim:
    """A process that is killed and started again, or stopped and continued."""

    def __init__(self, code: str, *arguments: str) -> None:
        self._code, self._arguments = code, arguments
        self.lives = 0
        self._start()

    def _start(self) -> None:
        arguments = [str(self.lives) if each == "LIFE" else each for each in self._arguments]
        self.lives += 1
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._code, *arguments],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)
        self._start()

    def hang(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)


class PlainSubscriber:
    """A subscriber that never asks for a replay."""

    def __init__(self, endpoint: str) -> None:
        self.received = 0
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        context = zmq.Context()
        with context, context.socket(zmq.SUB) as socket:
            socket.linger, socket.rcvhwm = 0, HIGH_WATER
            socket.subscribe(b"prediction/")
            socket.subscribe(b"status/")
            socket.connect(self._endpoint)
            while not self._stop.is_set():
                if socket.poll(100):
                    socket.recv_multipart()
                    self.received += 1

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)


def journal_rows(path: Path) -> list[tuple[int, str]]:
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT offset, CAST(body AS TEXT) FROM events ORDER BY offset").fetchall()
    db.close()
    return rows


def logged_rows(path: Path) -> list[tuple[int, str]]:
    if path.suffix == ".jsonl":
        return [(json.loads(line)["offset"], line) for line in path.read_text().splitlines()]
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT offset, body FROM events ORDER BY id").fetchall()
        assert db.execute("SELECT count(*) FROM lost").fetchone() == (0,)
    db.close()
    return rows


def numbers_by_life(rows: list[tuple[int, str]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for _, body in rows:
        event = json.loads(body)
        if event["type"] == "status":
            life, number = event["counters"]["life"], event["counters"]["number"]
        else:
            life, number = int(event["model"].removeprefix("life@")), int(event["window"]["start_s"])
        found.setdefault(life, []).append(number)
    return found


@pytest.mark.timeout(CHAOS_S + 180)
def test_every_event_is_logged_once_and_in_order_despite_random_kills_and_stops(tmp_path: Path) -> None:
    chance = random.Random(7)
    done: Counter[str] = Counter()
    outputs = [tmp_path / "events.db", tmp_path / "events.jsonl"]
    with HubProcess(high_water=HIGH_WATER) as hub:
        plain = PlainSubscriber(hub.events)
        classifier = Victim(CLASSIFIER, hub.link, "LIFE")
        loggers = [Victim(LOGGER, hub.events, str(path), str(HIGH_WATER)) for path in outputs]

        def disturb(process: str, how: str) -> None:
            done[f"{process} {how}"] += 1
            seconds = chance.uniform(0.05, 0.8)
            if process == "hub" and how == "killed":
                hub.kill()
                time.sleep(seconds / 3)
                hub.start()
            elif process == "hub":
                hub.signal(signal.SIGSTOP)
                time.sleep(seconds)
                hub.signal(signal.SIGCONT)
            else:
                victim = classifier if process == "classifier" else chance.choice(loggers)
                victim.kill() if how == "killed" else victim.hang(seconds)

        everything = [(process, how) for how in ("killed", "stopped") for process in ("hub", "classifier", "logger")]
        first = list(everything)
        end = time.monotonic() + CHAOS_S
        try:
            time.sleep(1.0)
            while first or time.monotonic() < end:
                disturb(*(first.pop() if first else chance.choice(everything)))
                time.sleep(chance.uniform(0.1, 0.6))
            assert classifier.end(signal.SIGTERM) == 0, "the last classifier could not deliver all its events"
        finally:
            for victim in (classifier, *loggers):
                victim.end(signal.SIGKILL)
            plain.end()
        for path in outputs:
            assert run_outlet(hub.events, log_of_everything(path), once=True, seconds=60) == 0
        assert hub.stop() == 0
        journal = journal_rows(hub.journal)
    lives = numbers_by_life(journal)
    print(f"\n{dict(done)}\n{len(journal)} events of {len(lives)} classifiers; a plain subscriber got {plain.received}")
    assert [offset for offset, _ in journal] == list(range(1, len(journal) + 1))
    assert len(lives) >= 2
    for numbers in lives.values():  # a killed classifier may lose its last events, but no event before them
        assert numbers == list(range(len(numbers)))
    for path in outputs:
        assert logged_rows(path) == journal
    assert 0 < plain.received < len(journal)

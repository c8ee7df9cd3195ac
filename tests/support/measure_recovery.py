"""Measure how long a disturbed service takes to recover: `PYTHONPATH=tests python -m support.measure_recovery`.

The time is from the signal to the first prediction that cannot have been made before it, of the slowest stream. A
window of the model is 0.8 s of video, which is part of the figures of capture and classifier.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from support.live import Setup
from support.service import DEADLINE_S, Service
from support.watcher import Seen, Watcher

ROUNDS = 3
STREAMS = ("one", "two")
Measure = Callable[[Setup, Service, Watcher], float]


def main() -> None:
    """Print one line for each disturbance: the median and the worst of some rounds, each with a new service."""
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {ROUNDS} rounds; median and worst in seconds")
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        setup = Setup(Path(folder))
        measure_and_print("from the start to the first predictions", setup, None)
        for module in ("capture", "classifier", "hub"):
            for number in (signal.SIGKILL, signal.SIGSTOP):
                measure_and_print(f"{number.name} of {module}", setup, disturb(module, number))
        measure_and_print("SIGHUP to the first prediction of a new stream", setup, add)
        measure_and_print("SIGTERM to the end", setup, end)


def measure_and_print(name: str, setup: Setup, measure: Measure | None) -> None:
    """Measure one disturbance in all rounds and print its figures."""
    took_s = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        path = setup.write(streams=dict.fromkeys(STREAMS, setup.film))
        with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
            for stream in STREAMS:
                watcher.wait("prediction", stream, since=began, within=DEADLINE_S)
            took_s.append(measure(setup, service, watcher) if measure else time.monotonic() - began)
    print(f"{name}: {statistics.median(took_s):.2f} {max(took_s):.2f}", flush=True)


def disturb(module: str, number: signal.Signals) -> Measure:
    """Return a measurement that sends signal `number` to a process of `module`."""

    def measure(_: Setup, service: Service, watcher: Watcher) -> float:
        began = time.monotonic()
        os.kill(service.children(f"streamclf.{module}")[0], number)
        service.wait_for_line(r"starting it again")
        restarted = time.monotonic()
        if module != "capture":
            seen = [watcher.wait("prediction", s, since=restarted, within=DEADLINE_S) for s in STREAMS]
            return max(each.at_s for each in seen) - began

        def renewed(each: Seen) -> bool:
            return each.window[0] > 1

        while not (seen := [e for s in STREAMS for e in watcher.events("prediction", s, since=began) if renewed(e)]):
            assert time.monotonic() < began + DEADLINE_S
            time.sleep(0.005)
        return seen[0].at_s - began

    return measure


def add(setup: Setup, service: Service, watcher: Watcher) -> float:
    """Add a third stream, and return the time until its first prediction."""
    setup.write(streams=dict.fromkeys((*STREAMS, "three"), setup.film))
    began = time.monotonic()
    service.process.send_signal(signal.SIGHUP)
    return watcher.wait("prediction", "three", since=began, within=DEADLINE_S).at_s - began


def end(_: Setup, service: Service, __: Watcher) -> float:
    """Ask the service to end, and return the time that this takes."""
    began = time.monotonic()
    service.process.terminate()
    service.wait()
    return time.monotonic() - began


if __name__ == "__main__":
    main()

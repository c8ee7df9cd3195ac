"""A child process: crashes are counted, crashing children are parked, orphans are reaped."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from streamclf.config.source_settings import SourceSettings
from streamclf.runtime.capture_job import CaptureJob
from streamclf.runtime.child import EXIT_CRASHED
from streamclf.supervisor import child as child_module
from streamclf.supervisor.child import BACKOFF_S, MAX_CRASHES, PARKED_S, STABLE_S, Child, ChildEvent, reap_orphans


class Clock:
    """A replacement for the module's `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(child_module, "time", clock)
    return clock


def child() -> Child:
    return Child("capture[door]", "streamclf.capture", lambda _: None)


def test_five_crashes_in_a_minute_park_a_child_and_fewer_never_do(clock: Clock) -> None:
    often, seldom = child(), child()
    for i in range(MAX_CRASHES - 1):
        assert often.record_crash() == BACKOFF_S[i]
        clock.now += 5
    assert often.record_crash() is None
    for _ in range(50):
        clock.now += 60 / (MAX_CRASHES - 1) + 1
        assert seldom.record_crash() is not None


def test_a_parked_child_waits_longer_each_time_until_it_has_run_for_long(clock: Clock) -> None:
    parked = child()
    waits = []
    for _ in range(len(PARKED_S) + 2):
        parked.started_s = clock.now
        for _ in range(MAX_CRASHES):
            delay = parked.record_crash()
        assert delay is None
        waits.append(parked.park())
        clock.now += waits[-1]
    assert waits == [*PARKED_S, PARKED_S[-1], PARKED_S[-1]]
    parked.started_s = clock.now
    clock.now += STABLE_S + 1
    parked.record_crash()
    assert parked.park() == PARKED_S[0]


@pytest.mark.parametrize("failing", ["socketpair", "Popen", "Thread"])
def test_a_child_that_the_machine_cannot_start_counts_as_crashed(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    events: list[ChildEvent] = []
    started = Child("capture[door]", "streamclf.capture", events.append)
    started.job = CaptureJob(link="ipc://none", stream="door", source=SourceSettings(camera=0), views=())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread") if failing == "Thread" else OSError(errno.EAGAIN, "no more")

    module = {"socketpair": socket, "Popen": subprocess, "Thread": threading}[failing]
    monkeypatch.setattr(module, failing, fail)
    before = len([*Path("/dev/fd").iterdir()])
    started.start()
    assert [(event.kind, event.run, event.code) for event in events] == [("exit", started.run, EXIT_CRASHED)]
    assert not started.running
    assert started.kill_reason in ("cannot be started: no more", "cannot be started: can't start new thread")
    assert len([*Path("/dev/fd").iterdir()]) <= before


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid")
def test_process_one_reaps_orphans_and_leaves_its_own_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    orphan = ended()
    assert reap_orphans(set()) == 0  # this process is not process 1
    monkeypatch.setattr("streamclf.supervisor.child.os.getpid", lambda: 1)
    assert reap_orphans(set()) == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan.pid, os.WNOHANG)
    orphan.returncode = 0
    ours = ended()
    assert reap_orphans({ours.pid}) == 0
    assert ours.wait(60) == 0

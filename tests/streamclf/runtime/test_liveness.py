"""Signs of life: kept, broken, and not to be faked by a thread beside a loop that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamclf.errors import RingError
from streamclf.runtime.child import ChildControl
from streamclf.runtime.jobs import Job
from streamclf.runtime.liveness import GRACE_NS, MAX_CHECK_INTERVAL_NS, NS, ROWS, Liveness, LivenessTable, LivenessWatch

HANGING_CHILD = """
import threading, time
from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import Job

def main(job, control):
    control.liveness.enter_phase("classifying", 0.3)
    threading.Thread(target=lambda: [control.stop_event.wait(0.05) for _ in range(10_000)], daemon=True).start()
    for _ in range(20):
        control.stop_event.wait(0.05)
    print("hanging", flush=True)
    time.sleep(60)  # a library that never returns

run_child("test", Job, main)
"""


@pytest.fixture
def table() -> Iterator[LivenessTable]:
    table = LivenessTable()
    yield table
    table.close()


def test_a_promise_is_kept_until_it_is_broken(table: LivenessTable) -> None:
    line = table.claim()
    table.start(line, 60)
    assert table.deadline(line).phase == "starting"
    pulse = Liveness(table.fd, line)
    pulse.enter_phase("reading", 2.0)
    promise = table.deadline(line)
    assert promise.phase == "reading"
    assert promise.silence_s(promise.due_ns) is None
    assert promise.silence_s(promise.due_ns + NS) == pytest.approx(3.0)
    time.sleep(0.01)
    pulse.beat()
    assert table.deadline(line).due_ns > promise.due_ns


def test_each_child_has_a_line_of_its_own(table: LivenessTable) -> None:
    lines = [table.claim() for _ in range(ROWS)]
    assert len(set(lines)) == ROWS
    with pytest.raises(RingError, match=rf"more than {ROWS} processes; serve fewer"):
        table.claim()
    pulses = [Liveness(table.fd, line) for line in (lines[0], lines[-1])]
    pulses[0].enter_phase("serving", 1)
    pulses[1].enter_phase("reading", 1000)
    assert table.deadline(lines[0]).due_ns < table.deadline(lines[-1]).due_ns
    table.release(lines[5])
    assert table.claim() == lines[5]


def test_a_pulse_that_nobody_watches_may_beat() -> None:
    Liveness().enter_phase("serving", 1)
    Liveness().beat()


def test_who_asks_whether_to_stop_is_alive_but_only_in_the_thread_that_works(table: LivenessTable) -> None:
    line = table.claim()
    control = ChildControl()
    control.liveness = Liveness(table.fd, line)
    control.liveness.enter_phase("reading", 5.0)

    def moved() -> bool:
        before = table.deadline(line).due_ns
        time.sleep(0.002)
        action()
        return table.deadline(line).due_ns > before

    action = control.stop_event.is_set
    assert moved()

    def wait() -> None:
        assert not control.stop_event.wait(0.01)

    action = wait
    assert moved()

    def beside() -> None:
        threads = [threading.Thread(target=call) for call in (control.stop_event.is_set, wait)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    action = beside
    assert not moved()


def test_a_wait_of_any_length_keeps_beating_and_ends_with_the_request(table: LivenessTable) -> None:
    line = table.claim()
    control = ChildControl()
    control.liveness = Liveness(table.fd, line)
    control.liveness.enter_phase("reading", 0.8)
    late: list[float] = []

    def watch() -> None:
        for _ in range(150):
            if silence := table.deadline(line).silence_s(time.monotonic_ns()):
                late.append(silence)
            time.sleep(0.01)
        control.request_stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert control.stop_event.wait(30)
    watcher.join(10)
    assert late == []


def test_a_hung_child_is_found_though_its_threads_go_on(table: LivenessTable) -> None:
    line = table.claim()
    table.start(line, 60)
    job = Job(link="ipc:///nowhere", liveness_fd=table.fd, liveness_row=line)
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[table.fd],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(job.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"hanging\n"
        watch = LivenessWatch(table, time.monotonic_ns())
        deadline = time.monotonic() + 20
        while not (found := list(watch.find_overdue([("test", line)], time.monotonic_ns()))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ((name, reason),) = found
        assert name == "test"
        assert reason.startswith("hung: no sign of life for 0.")
        assert reason.endswith("while classifying")
    finally:
        process.kill()
        process.communicate()


def test_a_judge_that_overslept_judges_nobody(table: LivenessTable) -> None:
    line = table.claim()
    table.start(line, 1.0)
    due = table.deadline(line).due_ns
    watch = LivenessWatch(table, due - NS)
    lines = [("child", line)]
    assert list(watch.find_overdue(lines, due - 1)) == []
    woke = due + MAX_CHECK_INTERVAL_NS + 1  # the whole machine was suspended, say
    assert list(watch.find_overdue(lines, woke)) == []
    assert list(watch.find_overdue(lines, woke + GRACE_NS // 2)) == []
    steps = [woke + GRACE_NS // 2 + i * NS for i in range(1, 6)]
    assert any(list(watch.find_overdue(lines, now)) for now in steps)


def test_memory_that_is_not_there_is_an_error_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamclf.runtime.liveness.allocate", full)
    with pytest.raises(RingError, match="64 KiB of shared memory: No space left"):
        LivenessTable()


def test_nothing_has_a_name(table: LivenessTable) -> None:
    assert not any("streamclf" in path.name for path in Path("/dev/shm").glob("*"))

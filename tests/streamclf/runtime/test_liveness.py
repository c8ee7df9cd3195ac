"""Beats extend deadlines, a missed deadline is found, and no other thread can hide a work loop that hangs."""

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
from streamclf.runtime.liveness import GRACE_NS, MAX_CHECK_INTERVAL_NS, ROWS, Liveness, LivenessTable, LivenessWatch
from streamclf.units import NS

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
    time.sleep(60)  # like a library that never returns

run_child("test", Job.model_validate_json, main)
"""


@pytest.fixture
def table() -> Iterator[LivenessTable]:
    table = LivenessTable()
    yield table
    table.close()


def test_a_beat_extends_the_deadline_and_silence_is_measured(table: LivenessTable) -> None:
    row = table.claim()
    table.start(row, 60)
    assert table.deadline(row).phase == "starting"
    liveness = Liveness(table.fd, row)
    liveness.enter_phase("reading", 2.0)
    deadline = table.deadline(row)
    assert deadline.phase == "reading"
    assert deadline.silence_s(deadline.due_ns) is None
    assert deadline.silence_s(deadline.due_ns + NS) == pytest.approx(3.0)
    time.sleep(0.01)
    liveness.extend()
    assert table.deadline(row).due_ns > deadline.due_ns


def test_each_child_has_its_own_row(table: LivenessTable) -> None:
    rows = [table.claim() for _ in range(ROWS)]
    assert len(set(rows)) == ROWS
    with pytest.raises(RingError, match=rf"more than {ROWS} processes; serve fewer"):
        table.claim()
    both = [Liveness(table.fd, row) for row in (rows[0], rows[-1])]
    both[0].enter_phase("serving", 1)
    both[1].enter_phase("reading", 1000)
    assert table.deadline(rows[0]).due_ns < table.deadline(rows[-1]).due_ns
    table.release(rows[5])
    assert table.claim() == rows[5]


def test_liveness_without_a_table_does_nothing() -> None:
    Liveness().enter_phase("serving", 1)
    Liveness().extend()


def test_checking_the_stop_event_beats_in_the_main_thread_only(table: LivenessTable) -> None:
    row = table.claim()
    control = ChildControl()
    control.liveness = Liveness(table.fd, row)
    control.liveness.enter_phase("reading", 5.0)

    def moved() -> bool:
        before = table.deadline(row).due_ns
        time.sleep(0.002)
        action()
        return table.deadline(row).due_ns > before

    action = control.stop_event.is_set
    assert moved()

    def wait() -> None:
        assert not control.stop_event.wait(0.01)

    action = wait
    assert moved()

    def in_other_threads() -> None:
        threads = [threading.Thread(target=call) for call in (control.stop_event.is_set, wait)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    action = in_other_threads
    assert not moved()


def test_a_long_wait_keeps_beating_and_ends_with_the_request(
    table: LivenessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.runtime.child.EXTEND_INTERVAL_S", 0.05)
    row = table.claim()
    control = ChildControl()
    control.liveness = Liveness(table.fd, row)
    control.liveness.enter_phase("reading", 0.8)  # much longer than the interval: the machine may be busy
    late: list[float] = []

    def watch() -> None:
        for _ in range(100):
            if silence := table.deadline(row).silence_s(time.monotonic_ns()):
                late.append(silence)
            time.sleep(0.01)
        control.request_stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert control.stop_event.wait(30)
    watcher.join(60)
    assert late == []


@pytest.mark.alone  # it must be found within a second
def test_a_hung_child_is_found_although_its_other_threads_run(table: LivenessTable) -> None:
    row = table.claim()
    table.start(row, 60)
    job = Job(liveness_fd=table.fd, liveness_row=row)
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
        deadline = time.monotonic() + 5
        while not (found := list(watch.find_overdue([("test", row)], time.monotonic_ns()))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ((name, reason),) = found
        assert name == "test"
        assert reason.startswith("hung: no progress for 0.")
        assert reason.endswith("while classifying")
    finally:
        process.kill()
        process.communicate()


def test_no_child_is_overdue_after_the_supervisor_itself_was_stopped(table: LivenessTable) -> None:
    row = table.claim()
    table.start(row, 1.0)
    due = table.deadline(row).due_ns
    watch = LivenessWatch(table, due - NS)
    rows = [("child", row)]
    assert list(watch.find_overdue(rows, due - 1)) == []
    woke = due + MAX_CHECK_INTERVAL_NS + 1  # as when the whole machine was suspended
    assert list(watch.find_overdue(rows, woke)) == []
    assert list(watch.find_overdue(rows, woke + GRACE_NS // 2)) == []
    steps = [woke + GRACE_NS // 2 + i * NS for i in range(1, 6)]
    assert any(list(watch.find_overdue(rows, now)) for now in steps)


def test_missing_memory_is_an_error_with_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamclf.runtime.liveness.allocate", full)
    with pytest.raises(RingError, match="64 KiB of shared memory: No space left"):
        LivenessTable()


def test_the_memory_has_no_name(table: LivenessTable) -> None:
    assert not any("streamclf" in path.name for path in Path("/dev/shm").glob("*"))

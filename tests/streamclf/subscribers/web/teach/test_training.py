"""A training runs in a child process: its progress, its result, its errors, its end."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path

import pytest
from support.hub_process import wait_until

from streamclf.errors import UsageError
from streamclf.subscribers.web.teach import training as module
from streamclf.subscribers.web.teach.training import TeachRunner, Training

BEGIN = """\
import json, signal, sys, time
def say(**event): print(json.dumps(event), flush=True)
say(event="start", labels={"open": 5})
"""
DONE = (
    BEGIN
    + """
say(event="progress", stage="read", share=0.5, film="open/a.mp4", left_s=3)
print("warning: something else", flush=True)
say(event="fault", film="open/b.mp4", reason="is no film")
say(event="unknown")
say(event="done", balanced_accuracy=0.9, labels=["open", "shut"], wrong=[{"film": "open/c.mp4", "still": "data:x"}])
"""
)
FAILS = BEGIN + 'say(event="error", message="open: 3 clips; at least 5", code=2); sys.exit(2)'
CRASHES = BEGIN + "raise SystemError('boom')"
HANGS = BEGIN + "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
WAITS = BEGIN + "time.sleep(60)"


def run(tmp_path: Path, program: str, **options: float) -> TeachRunner:
    script = tmp_path / "teach.py"
    script.write_text(program)
    runner = TeachRunner([sys.executable, str(script)], **options)
    runner.start("yard", "yard", tmp_path / "examples", tmp_path / "models" / "yard")
    return runner


def end_of(runner: TeachRunner) -> Training:
    wait_until(lambda: not runner.is_running, "the training ends", 90)
    assert runner.current is not None
    return runner.current


def test_progress_and_result_are_read_and_pictures_are_left_out(tmp_path: Path) -> None:
    training = end_of(run(tmp_path, DONE))
    assert training.outcome == "done", training
    assert training.result is not None
    assert training.result["wrong"] == [{"film": "open/c.mp4"}]
    assert training.share == 1.0
    assert "open/b.mp4: is no film" in training.notes
    assert "warning: something else" in training.notes


def test_the_error_of_the_child_is_shown(tmp_path: Path) -> None:
    training = end_of(run(tmp_path, FAILS))
    assert training.outcome == "failed"
    assert training.error == "open: 3 clips; at least 5"
    assert "boom" in str(end_of(run(tmp_path, CRASHES)).error)
    assert "exit code 0" in str(end_of(run(tmp_path, BEGIN)).error)


def test_a_child_that_is_killed_is_named_as_such(tmp_path: Path) -> None:
    """The kernel kills a process where memory is short; its last line is not the reason."""
    killed = BEGIN + 'say(event="fault", film="a.mp4", reason="no film"); import os; os.kill(os.getpid(), 9)'
    assert end_of(run(tmp_path, killed)).error == (
        "the training was killed (signal 9), maybe because memory ran out; use fewer or shorter films"
    )


LIMITS = (
    BEGIN
    + """
import os, resource
memory = resource.getrlimit(resource.RLIMIT_DATA)[0]
say(event="done", memory=memory, nice=os.nice(0), threads=os.environ["OMP_NUM_THREADS"])
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of another process")
def test_the_child_has_limits_of_its_own(tmp_path: Path) -> None:
    """The child inherited the page's limit of memory, and no engine could be opened in it."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, before[1]))
    try:
        result = end_of(run(tmp_path, LIMITS)).result
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert result is not None
    assert (result["memory"], result["threads"]) == (module.MEMORY_BYTES, "1")
    assert result["nice"] >= module.NICE


def test_one_at_a_time_and_cancel(tmp_path: Path) -> None:
    runner = run(tmp_path, WAITS)
    with pytest.raises(UsageError, match="yard is being trained"):
        runner.start("door", "door", tmp_path, tmp_path / "models" / "door")
    runner.cancel()
    assert end_of(runner).outcome == "cancelled"
    with pytest.raises(UsageError, match="no training"):
        runner.cancel()


def test_a_child_that_ignores_the_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_S", 0.3)
    training = end_of(run(tmp_path, HANGS, limit_s=0.5))
    assert training.outcome == "failed"
    assert "longer than" in str(training.error)


@pytest.mark.parametrize("thread", ["teach", "teach-log", "teach-limit"])
def test_a_training_that_cannot_be_followed_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread: str) -> None:
    start = threading.Thread.start

    def start_others(self: threading.Thread) -> None:
        if self.name == thread:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    if thread == "teach":
        with pytest.raises(UsageError, match="can't start new thread; try again"):
            run(tmp_path, WAITS)
    else:
        training = end_of(run(tmp_path, WAITS))
        assert (training.outcome, str(training.error)) == (
            "failed",
            "the page could not follow the training (can't start new thread); try again",
        )


def test_the_page_ends_its_child(tmp_path: Path) -> None:
    with run(tmp_path, WAITS) as runner:
        pass
    assert not runner.is_running
    assert not [each for each in threading.enumerate() if each.name == "teach"]

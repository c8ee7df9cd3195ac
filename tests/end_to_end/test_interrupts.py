"""Ctrl-C at any moment ends a command with one line: no process of it prints a traceback, and none is left over."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clips import write_clip

from streamclf.runtime.interrupts import EXIT_INTERRUPTED

DEADLINE_S = 120.0
MOMENTS = 2
LONGEST_S = 2.5
KILLED = -signal.SIGINT
"""The interpreter's own imports end by the signal itself. A shell reports 130, too."""
DEMO_SUMMARY = r"streamclf demo: .*prediction[^\0]*streamclf run"

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("interrupts")
    write_clip(made / "a.mp4", frames=500)
    (made / "service.yaml").write_text(
        f"streams:\n  yard: {{url: {made / 'a.mp4'}, loop: true}}\n  door: {{url: 'rtsp://127.0.0.1:9/live'}}\n"
        "publish: {events: 'tcp://127.0.0.1:*', replay: 'tcp://127.0.0.1:*'}\n"
    )
    return made


def moments(seed: str) -> Iterator[float]:
    chance = random.Random(seed)
    for number in range(MOMENTS):
        yield LONGEST_S * (number + chance.random()) / MOMENTS


def is_of_the_interpreter(traceback: str) -> bool:
    """Return whether a traceback has no frame of ours but those of the imports before a handler can be set.

    Python itself is interrupted like this in its first tenths of a second; no program can prevent that. The last of
    these imports are in `__init__.py` of the package, and `import signal` in `__main__.py`.
    """
    return not re.search(
        r"/(streamclf|engines|training)/(?!__(init|main)__\.py\", line \d+, in <module>)\w+", traceback
    )


def _heed_interrupts() -> None:
    """Undo what a shell does to its background jobs: they ignore SIGINT, and so would the children of the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start Python with these arguments, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until no process of the group is left; return the exit code and what was printed on stderr."""
    try:
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):  # a child that lives on would be in this group
        os.killpg(process.pid, 0)
    return process.returncode, errors


def check_end(code: int, errors: str, last_line: str, moment: object) -> None:
    """Check the exit code and the output of an interrupted command."""
    if code in (1, KILLED) and is_of_the_interpreter(errors):
        return
    assert "Traceback" not in errors, (moment, errors)
    assert "Exception ignored" not in errors, (moment, errors)
    assert re.search(f"{last_line}|: interrupted$", errors.strip()), (moment, code, errors)
    assert code in (0, EXIT_INTERRUPTED, KILLED) or "none.yaml" in errors, (moment, code, errors)


@pytest.mark.parametrize(
    ("arguments", "last_line"),
    [
        (["streamclf", "run", "service.yaml"], r"ended after .*: asked by Ctrl-C or a signal"),
        (["streamclf", "demo", "--headless", "--no-page"], DEMO_SUMMARY),
        (["streamclf", "classify", *["a.mp4"] * 200], r"streamclf classify: interrupted; \d+ of 200 files classified"),
        (["streamclf", "log", "tcp://127.0.0.1:9", "-o", "events.db"], r"INFO +log  0 events written to .*events.db"),
        (
            ["streamclf", "watch", "tcp://127.0.0.1:9", "--record", "w.mp4"],
            "streamclf watch: 0 frames written to w.mp4",
        ),
        (["streamclf", "status", "tcp://127.0.0.1:9", "--timeout", "60"], "streamclf status: interrupted"),
        (["streamclf", "metrics", "tcp://127.0.0.1:9", "--port", "0"], "INFO +metrics  0 events counted"),
        (["streamclf", "mqtt", "tcp://127.0.0.1:9", "mqtt://127.0.0.1:9"], "INFO +mqtt  0 events delivered"),
        (["streamclf", "webhook", "tcp://127.0.0.1:9", "http://127.0.0.1:9/"], "INFO +webhook  0 events delivered"),
        (["streamclf", "web", "tcp://127.0.0.1:9", "--port", "0"], "INFO +web  the page was served for"),
        (["streamclf", "compile", "camera-events"], "streamclf compile: interrupted|golden clip"),
        (["training", "train", "none.yaml"], "training: interrupted|none.yaml: cannot be read"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_ctrl_c_never_shows_a_traceback(arguments: list[str], last_line: str, folder: Path, tmp_path: Path) -> None:
    for number, seconds in enumerate(moments(" ".join(arguments[:2]))):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        for file in folder.iterdir():
            (cwd / file.name).symlink_to(file)
        process = start(["-m", *arguments], cwd)
        time.sleep(seconds)  # not a wait for an event: the moment is what the test varies
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        check_end(*wait_for_end(process), last_line, seconds)


INTERRUPTED_STAGE = """
import os, runpy, sys

def interrupt(event, arguments, stage=[sys.argv.pop(1)]):
    if stage and f"{event} {arguments[0] if arguments else ''}".startswith(stage[0]):
        stage.clear()
        os.write(2, b"SIGINT\\n")
        os.kill(0, 2)

sys.addaudithook(interrupt)
runpy.run_module("streamclf", run_name="__main__", alter_sys=True)
"""
"""Run a command that sends SIGINT to its process group at a stage: the beginning of an audit event and its argument."""


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        ("import signal", KILLED),
        ("import streamclf.cli", KILLED),
        ("import streamclf.commands.demo", EXIT_INTERRUPTED),
        ("import streamclf.supervisor.supervisor", EXIT_INTERRUPTED),
        ("tempfile.mkdtemp", EXIT_INTERRUPTED),
        ("subprocess.Popen", 0),
        ("shutil.rmtree", 0),
    ],
)
def test_demo_ends_at_each_stage(stage: str, code: int, tmp_path: Path) -> None:
    """The last stage is the clean-up at its end."""
    process = start(["-c", INTERRUPTED_STAGE, stage, "demo", "--headless", "--no-page", "--seconds", "0.1"], tmp_path)
    ended, errors = wait_for_end(process)
    assert errors.startswith("SIGINT\n")
    check_end(ended, errors, DEMO_SUMMARY, stage)
    assert ended == code, errors

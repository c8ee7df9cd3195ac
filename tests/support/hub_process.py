"""Run a real hub process, and make drafts for tests to post to it."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from streamclf.events.drafts import Draft
from streamclf.runtime.jobs import HubJob

READY_S = 60.0
_HUB_WITH_TIMINGS = """
import importlib, runpy
for path, value in {timings}.items():
    module, _, name = path.rpartition(".")
    assert hasattr(importlib.import_module(module), name), path
    setattr(importlib.import_module(module), name, value)
runpy.run_module("streamclf.hub", run_name="__main__")
"""


class HubProcess:
    """A `python -m streamclf.hub` process on free ports; it can be killed and started again on the same ports."""

    def __init__(self, *, keep_s: float = 3600.0, timings: Mapping[str, float] | None = None, **more: Any) -> None:
        """Prepare a hub; `timings` replaces constants, by module and name, so that tests wait less."""
        self._timings = timings
        # Not pytest's tmp_path: a socket's path has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="hub-"))
        self.job = HubJob(
            link=f"ipc://{self.directory}/link",
            events="tcp://127.0.0.1:*",
            replay="tcp://127.0.0.1:*",
            journal=self.directory / "journal.db",
            keep_s=keep_s,
            **more,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HubProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def link(self) -> str:
        return self.job.link

    @property
    def events(self) -> str:
        return self.job.events

    @property
    def replay(self) -> str:
        return self.job.replay

    @property
    def journal(self) -> Path:
        return self.job.journal

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._process = start_hub(self.job, timings=self._timings)
        line = read_ready_line(self._process)
        ready = json.loads(line)
        self.job = self.job.model_copy(update={key: ready[key] for key in ("events", "replay")})

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._close_pipes()

    def stop(self) -> int:
        """Ask the process to end, as the supervisor does; return its exit code."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(60)
        self._close_pipes()
        return code

    def _close_pipes(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait(60)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the events in the journal, in its order."""
    with closing(sqlite3.connect(path)) as db:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM events ORDER BY offset")]


def check_journal(path: Path, posted: int) -> list[dict[str, Any]]:
    """Check that the journal has predictions 0 to `posted` - 1, each once, in order, in one epoch; return them."""
    events = read_journal(path)
    assert [int(event["window"]["start_s"]) for event in events] == list(range(posted))
    assert [event["offset"] for event in events] == list(range(1, posted + 1))
    assert len({event["epoch"] for event in events}) == 1
    return events


def start_hub(
    job: HubJob, *, stderr: int | None = None, timings: Mapping[str, float] | None = None
) -> subprocess.Popen[bytes]:
    """Start a hub; read its first line with `read_ready_line`."""
    command = ["-m", "streamclf.hub"]
    if timings:
        command = ["-c", _HUB_WITH_TIMINGS.format(timings=dict(timings))]
    process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process


def read_ready_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the line with the endpoints, which a hub writes once it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the hub ended with code {process.wait(READY_S)} before it was ready"
    return line


def prediction(stream: str = "door", number: int = 0, **more: Any) -> Draft:
    """Make a prediction; its window starts at `number`, so that a test can tell one from another."""
    body = {
        "window": {
            "start_s": float(number), "end_s": number + 2.5, "frames": 32,
            "duplicates": 0, "corrupt": 0, "segment": 3,
        },
        "top": [["wave", 0.91], ["still", 0.04]],
        "model": "gestures@1",
        "latency_ms": {"encode": 5.2, "classify": 0.7},
        **more,
    }  # fmt: skip
    return Draft("prediction", stream, body, time.monotonic_ns())


def status(stream: str = "door", state: str = "live", **counters: int) -> Draft:
    """Make a status with counters."""
    return Draft("status", stream, {"state": state, "reason": None, "counters": counters})


def action(phase: str, stream: str = "door", label: str = "wave", at_s: float = 1.0, **view: Any) -> Draft:
    """Make the start, an update or the end of an action; `view` has its `region` and `model_name`."""
    body = {"label": label, "phase": phase, "started_s": 1.0, "at_s": at_s, "probability": 0.9, "peak": 0.9, **view}
    return Draft("action", stream, body)


def clip(
    stream: str = "door", label: str = "wave", start: int | None = 1, epoch: str | None = None, **view: Any
) -> Draft:
    """Make the event of a film; `start` is the offset of its action's start in the journal `epoch`."""
    body = {
        "label": label, "action": start, "actions": [] if start is None else [start], "part": 1, "last": True,
        "began": "2026-01-02T03:04:05.678Z", "start_s": 0.5, "end_s": 9.0, "bytes": 1000, "codec": "h264",
        "file": f"{stream}/2026-01-02/030405-678-{label}.mp4", "probability": 0.9, "action_epoch": epoch,
        **view,
    }  # fmt: skip
    return Draft("clip", stream, body)


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    """Poll `condition` until it holds; fail and name `what` when the deadline passes."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


def ask(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, request: bytes) -> list[bytes]:
    """Send one request to a hub's replay endpoint; return the frames of the reply."""
    with context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        socket.send(request)
        assert socket.poll(60_000), "no answer"
        return socket.recv_multipart()

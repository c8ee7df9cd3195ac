"""Run `streamclf teach` as a child process: one at a time, with progress, a time limit and a way to cancel it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal

import orjson

from streamclf.errors import UsageError
from streamclf.redact import redact

LIMIT_S: Final = 1800.0
"""Longest training."""
CANCEL_S: Final = 10.0
"""A child that ignores SIGINT for this long is killed."""
MAX_LINE_BYTES: Final = 16 << 20
"""The last line may hold a hundred small pictures."""
MAX_LOG_LINES: Final = 200
MAX_LINE_CHARS: Final = 500
NICE: Final = 10
"""The priority of a training: lower than that of the live service."""

MEMORY_BYTES: Final = 4 * 10**9
"""Largest memory of a training; an engine reserves much more than it uses."""
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Threads of BLAS wait for each other in a loop. At a low priority they wait for whole time slices of other processes:
the fit took 42 s of processor time instead of 11 s, and did not end. The engine has threads of its own."""

_REMEDY: Final = "use fewer or shorter films"

Outcome = Literal["running", "done", "failed", "cancelled"]


@dataclass(slots=True)
class Training:
    """One run, as the page shows it."""

    project: str
    version: str
    """Name of the model that it makes."""
    began_s: float
    outcome: Outcome = "running"
    share: float = 0.0
    stage: str = "start"
    film: str | None = None
    left_s: float | None = None
    error: str | None = None
    seconds: float = 0.0
    result: dict[str, Any] | None = None
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))


class TeachRunner:
    """Start and end trainings. Methods may be called in any thread."""

    def __init__(self, command: Sequence[str] | None = None, limit_s: float = LIMIT_S) -> None:
        self._command = [sys.executable, "-m", "streamclf", "teach"] if command is None else [*command]
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._thread: threading.Thread | None = None
        self.current: Training | None = None
        """The run that goes on, or the last one."""

    def __enter__(self) -> TeachRunner:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(UsageError):
            self.cancel()
        if self._thread is not None:
            self._thread.join(CANCEL_S + 2)

    @property
    def is_running(self) -> bool:
        """Whether a training goes on."""
        return self.current is not None and self.current.outcome == "running"

    def start(
        self, project: str, version: str, folder: Path, bundle: Path, done: Callable[[Training], None] = lambda _: None
    ) -> Training:
        """Train a model with the examples in `folder`, and write the bundle. `done` is called in a thread at the end.

        Raises `UsageError` while another training goes on.
        """
        with self._lock:
            if self.is_running:
                assert self.current is not None
                raise UsageError(f"{self.current.project} is being trained; wait, or cancel it")
            training = Training(project, version, time.time())
            try:
                bundle.parent.mkdir(exist_ok=True)
                self._process = subprocess.Popen(
                    [*self._command, str(folder), "-o", str(bundle), "--json"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **_ONE_THREAD},
                    start_new_session=True,  # Ctrl-C in a terminal reaches the page, which then ends the child
                )
            except OSError as error:
                raise UsageError(f"the training cannot be started: {error.strerror}; try again") from None
            _set_limits(self._process.pid)
            self._cancelled = False
            thread = threading.Thread(
                target=self._follow, args=(self._process, training, done), name="teach", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                _signal(self._process, signal.SIGKILL)
                self._process.communicate()
                raise UsageError(f"the training cannot be started: {error}; try again") from None
            self.current, self._thread = training, thread
            return training

    def cancel(self) -> None:
        """End the training; nothing of it stays. Raises `UsageError` if none goes on."""
        with self._lock:
            if not self.is_running or self._process is None:
                raise UsageError("no training is running, so there is nothing to cancel")
            self._cancelled = True
            process = self._process
        _signal(process, signal.SIGINT)

    def _follow(self, process: subprocess.Popen[bytes], training: Training, done: Callable[[Training], None]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=_collect, args=(process.stderr, training), name="teach-log", daemon=True)
        watch = threading.Thread(target=self._limit, args=(process, training), name="teach-limit", daemon=True)
        began_s = time.monotonic()
        try:
            errors.start()
            watch.start()
            while line := process.stdout.readline(MAX_LINE_BYTES):
                _apply(training, line)
        except Exception as error:  # noqa: BLE001 - no thread or no memory, for example: the training must end
            training.error = f"the page could not follow the training ({error or type(error).__name__}); try again"
            _signal(process, signal.SIGKILL)
        finally:
            code = process.wait()
            if errors.is_alive():
                errors.join(CANCEL_S)
            process.stdout.close()
            process.stderr.close()
        training.seconds = time.monotonic() - began_s
        if self._cancelled:
            training.outcome, training.error = "cancelled", training.error
        elif code == 0 and training.result is not None:
            training.outcome, training.share = "done", 1.0
        else:
            last = next((each for each in reversed(training.notes) if each), "")
            end = f"the training ended with exit code {code}"
            if code < 0:  # its last line, a notice about a film, is not the reason
                last = ""
                end = f"the training was killed (signal {-code}), maybe because memory ran out; {_REMEDY}"
            training.error = training.error or last or end
            training.outcome = "failed"
        with contextlib.suppress(Exception):
            done(training)

    def _limit(self, process: subprocess.Popen[bytes], training: Training) -> None:
        """End a child that takes too long, or that ignores the request to end."""
        end_s = time.monotonic() + self._limit_s
        killed_s: float | None = None
        while process.poll() is None:
            now_s = time.monotonic()
            if killed_s is None and (self._cancelled or now_s >= end_s):
                if not self._cancelled:
                    limit = f"{self._limit_s / 60:g} minutes"
                    training.error = f"the training took longer than {limit} and was ended; {_REMEDY}"
                    _signal(process, signal.SIGINT)
                killed_s = now_s + CANCEL_S
            if killed_s is not None and now_s >= killed_s:
                _signal(process, signal.SIGKILL)
            time.sleep(0.1)


def _set_limits(pid: int) -> None:
    """Lower the priority of the child, and give it a limit of memory of its own: it inherits that of the page."""
    with contextlib.suppress(OSError, ValueError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        if sys.platform == "linux":
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
            resource.prlimit(pid, resource.RLIMIT_DATA, (soft, hard))


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the child and its own children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _collect(stream: IO[bytes], training: Training) -> None:
    while line := stream.readline(64 << 10):
        if text := line.decode("utf-8", "replace").strip():
            training.notes.append(redact(text)[:MAX_LINE_CHARS])


def _apply(training: Training, line: bytes) -> None:
    """Read one line of the child's report; what is no line of it is kept in the log."""
    try:
        event = orjson.loads(line)
        kind = event["event"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        if text := line.decode("utf-8", "replace").strip():
            training.notes.append(redact(text)[:MAX_LINE_CHARS])
        return
    if kind == "progress":
        training.stage = str(event.get("stage", ""))[:40]
        training.share = min(1.0, max(training.share, _number(event.get("share"))))
        training.film = None if event.get("film") is None else str(event["film"])[:300]
        training.left_s = None if event.get("left_s") is None else _number(event["left_s"])
    elif kind == "fault":
        training.notes.append(f"{event.get('film')}: {event.get('reason')}"[:MAX_LINE_CHARS])
    elif kind == "note":
        training.notes.append(str(event.get("text"))[:MAX_LINE_CHARS])
    elif kind == "error":
        training.error = str(event.get("message"))[: 2 * MAX_LINE_CHARS]
    elif kind == "done":
        for wrong in event.get("wrong") or ():
            wrong.pop("still", None)  # the page plays the film instead
        training.result = event


def _number(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0

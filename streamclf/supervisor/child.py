"""Control one child process: start it, send its job and changes, watch it and stop it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from pydantic import BaseModel

from streamclf.runtime.capture_job import CaptureChange, CaptureJob
from streamclf.runtime.child import EXIT_CRASHED
from streamclf.runtime.control_channel import ControlSender
from streamclf.runtime.jobs import Job
from streamclf.runtime.plain_messages import encode_message
from streamclf.runtime.signals import without_interrupts

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CRASH_WINDOW_S = 60.0
MAX_CRASHES = 5
"""Crashes within `CRASH_WINDOW_S` after which a child is parked: more restarts would only load the machine."""
PARKED_S = (60.0, 120.0, 300.0, 600.0, 900.0)
"""Time until a parked child is started again: the cause of its crashes may have been repaired outside."""
STABLE_S = 600.0
"""After a run of this length, a child's crashes are forgotten: the next parking takes the first of `PARKED_S`."""
MAX_LINE_BYTES = 65536
CAN_DETECT_STOPS = hasattr(os, "waitid")
"""Whether this system reports that a child is stopped. If not (macOS before 3.13), only liveness shows it."""

log = logging.getLogger("service")

_run_numbers = itertools.count(1)
"""Numbers of the runs of all children: they keep a late event of one run apart from the events of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEvent:
    """An event of a child: its end, a line of its output, or a stop or continuation by a signal.

    `run` is the number of the run that it belongs to.
    """

    kind: Literal["exit", "line", "stopped", "continued"]
    child: str
    run: int
    code: int = 0
    line: bytes = b""


@dataclass(slots=True)
class Child:
    """A module that runs in a Python process of its own (`spawn`, never `fork`).

    It gets its job and later changes on its standard input. Threads call `notify` with its end, with stops and
    continuations by signals, and, where it `reports`, with each line of its output. While it is `stopping` at the
    supervisor's request, its exit is not a crash.
    """

    name: str
    module: str
    notify: Callable[[ChildEvent], None]
    stream: str | None = None
    """The stream that it serves alone. It is the process's last argument, so that `ps` shows it."""
    outlet: str | None = None
    """The outlet that it runs, in the same way."""
    models: str | None = None
    """The name of the models that it classifies with, in the same way."""
    job: Job | CaptureJob | None = None
    """Set before the first start, and again whenever the next run gets another job."""
    reports: bool = False
    """Whether it reports its state: each line of its output is an event."""
    pass_fds: Sequence[int] = ()
    run: int = 0
    stopping: bool = False
    kill_reason: str = ""
    """Why the supervisor killed it."""
    started_s: float = 0.0
    crashes: deque[float] = field(default_factory=deque)
    times_parked: int = 0
    """Number of times in succession that it was parked."""
    _process: subprocess.Popen[bytes] | None = None
    _control: ControlSender | None = None

    def start(self) -> None:
        """Start the process; it must not be running.

        Where the machine has no process, memory or descriptor left for it, `notify` gets an exit as after a crash.
        """
        assert self.job is not None
        assert not self.running
        self.run = next(_run_numbers)
        self.stopping, self.kill_reason = False, ""
        self.started_s = time.monotonic()
        try:
            self._start(self.job)
        except (OSError, RuntimeError) as error:  # RuntimeError: a thread cannot be started
            self.join(0.0)
            if self._control:
                self._control.close()
            self.kill_reason = f"cannot be started: {getattr(error, 'strerror', None) or error}"
            self.notify(ChildEvent(kind="exit", child=self.name, run=self.run, code=EXIT_CRASHED))

    def _start(self, job: Job | CaptureJob) -> None:
        control = self._control = ControlSender()
        shown_name = self.stream or self.outlet or self.models
        with without_interrupts():
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *([shown_name] if shown_name else [])],
                stdin=control.child_end.fileno(),
                stdout=subprocess.PIPE if self.reports else subprocess.DEVNULL,
                pass_fds=self.pass_fds,
            )
        control.child_end.close()
        control.send(_encode(job))  # if it died at once, the exit thread reports that
        if process.stdout:
            self._start_thread("output", self._read_lines, process.stdout, self.run)
        self._start_thread("exit", self._wait, process, self.run)

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, also of a process that has ended."""
        return self._process.pid if self._process else None

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields of a log record about this child."""
        return {"stream": self.stream} if self.stream else {}

    def send(self, change: BaseModel | CaptureChange, fds: Sequence[int] = ()) -> bool:
        """Send `change`; return False if the child does not read it: it must then be killed."""
        return self._control is not None and self._control.send(_encode(change), fds)

    def request_stop(self) -> None:
        """Ask the child to stop, by closing its standard input."""
        self.stopping = True
        if self._control:
            self._control.close()

    def kill(self) -> None:
        """Send SIGKILL, which also ends a process that is stopped or stuck."""
        if self._process and self._process.poll() is None:
            self._process.kill()

    def kill_because(self, reason: str) -> None:
        """Kill the process; `reason` then takes the place of its exit code in logs and events."""
        log.warning("%s: %s: killed", self.name, reason, extra=self.log_fields)
        self.kill_reason = reason
        self.kill()

    def join(self, deadline: float) -> None:
        """Wait until the process has ended, and kill it at the monotonic time `deadline`."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def record_crash(self) -> float | None:
        """Count a crash; return the seconds until the restart, or None if the child must be parked."""
        now = time.monotonic()
        if now - self.started_s > STABLE_S:
            self.times_parked = 0
        self.crashes.append(now)
        while now - self.crashes[0] > CRASH_WINDOW_S:
            self.crashes.popleft()
        if len(self.crashes) >= MAX_CRASHES:
            return None
        return BACKOFF_S[min(len(self.crashes), len(BACKOFF_S)) - 1]

    def park(self) -> float:
        """Stop restarting the child for a while; return the seconds until its next start."""
        self.times_parked += 1
        self.crashes.clear()
        return PARKED_S[min(self.times_parked, len(PARKED_S)) - 1]

    def _start_thread(self, purpose: str, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, name=f"{self.name}-{purpose}", daemon=True).start()

    def _read_lines(self, stdout: IO[bytes], run: int) -> None:
        with stdout:
            while line := stdout.readline(MAX_LINE_BYTES):
                self.notify(ChildEvent(kind="line", child=self.name, run=run, line=line))

    def _wait(self, process: subprocess.Popen[bytes], run: int) -> None:
        control = self._control
        if CAN_DETECT_STOPS:
            with contextlib.suppress(ChildProcessError):  # `join` reaped it in the meantime
                self._report_stops(process.pid, run)
        code = process.wait()
        if control:
            control.close()
        self.notify(ChildEvent(kind="exit", child=self.name, run=run, code=code))

    def _report_stops(self, pid: int, run: int) -> None:
        """Report stops and continuations until the process ends; leave its exit status to `Popen`."""
        while True:
            seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOWAIT)
            if seen is None or seen.si_code not in (os.CLD_STOPPED, os.CLD_CONTINUED):
                return
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)  # consume this report
            stopped = seen.si_code == os.CLD_STOPPED
            self.notify(ChildEvent(kind="stopped" if stopped else "continued", child=self.name, run=run))


def _encode(message: BaseModel | CaptureJob | CaptureChange) -> bytes:
    return message.model_dump_json().encode() if isinstance(message, BaseModel) else encode_message(message)


def reap_orphans(ours: Collection[int | None]) -> int:
    """Reap ended processes that this process did not start, and return their number.

    The kernel gives such orphans to process 1 only, as in a container; any other process has none. Processes in `ours`
    are left to the threads that wait for them. One of these at the head of the queue hides orphans until the next call.
    """
    reaped = 0
    if os.getpid() != 1 or not hasattr(os, "waitid"):
        return reaped
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in ours:
                break
            os.waitpid(ended.si_pid, os.WNOHANG)
            reaped += 1
    return reaped

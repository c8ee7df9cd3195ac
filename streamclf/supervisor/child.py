"""One child process as the supervisor holds it: started, told its job, watched, stopped."""

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

from streamclf.runtime.control_channel import ControlSender
from streamclf.runtime.jobs import Job

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CRASH_WINDOW_S = 60.0
MAX_CRASHES = 5
"""Crashes within `CRASH_WINDOW_S` after which a child is parked: it would only burn the machine."""
PARKED_S = (60.0, 120.0, 300.0, 600.0, 900.0)
"""Until a parked child is tried again: what made it crash may have been mended outside."""
STABLE_S = 600.0
"""A child that ran for this long is no longer the one that was parked."""
MAX_LINE_BYTES = 4096
CAN_DETECT_STOPS = hasattr(os, "waitid")
"""Whether this system tells when a child is stopped; where not (macOS before 3.13), only missing signs of life do."""

log = logging.getLogger("service")

_runs = itertools.count(1)
"""Lives of all children: a name may be given to another child, and news of the one before may come late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEvent:
    """What became of a child, in the words of the kernel or its own; `run` says which of its lives it was."""

    what: Literal["exit", "line", "stopped", "continued"]
    child: str
    run: int
    code: int = 0
    line: bytes = b""


@dataclass(slots=True)
class Child:
    """A module run with our interpreter (`spawn`, never `fork`), its job and later changes on its standard input.

    `notify` is called from threads, with its end, with its being stopped and continued by signals, and, where it
    `reports_ready`, with its first line of output. A child that was told to end is `ending`: its exit is no crash.
    """

    name: str
    module: str
    notify: Callable[[ChildEvent], None]
    job: Job | None = None
    """Assigned before the first start, and anew whenever the next life is to be another one."""
    reports_ready: bool = False
    pass_fds: Sequence[int] = ()
    run: int = 0
    ending: bool = False
    kill_reason: str = ""
    """Why the supervisor killed it."""
    started_s: float = 0.0
    crashes: deque[float] = field(default_factory=deque)
    parked: int = 0
    """How many times in a row it was parked."""
    _process: subprocess.Popen[bytes] | None = None
    _control: ControlSender | None = None

    def start(self) -> None:
        """Start the process; it must not be running."""
        assert self.job is not None
        assert not self.running
        self.run = next(_runs)
        self.ending, self.kill_reason = False, ""
        self.started_s = time.monotonic()
        control = self._control = ControlSender()
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=control.child_end.fileno(),
            stdout=subprocess.PIPE if self.reports_ready else subprocess.DEVNULL,
            pass_fds=self.pass_fds,
        )
        control.child_end.close()
        control.send(self.job.model_dump_json().encode())  # if it died at once, its exit is reported by the watcher
        if self.reports_ready:
            self._thread("output", self._read_line, process.stdout, self.run)
        self._thread("exit", self._wait, process, self.run)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, also of one that has ended."""
        return self._process.pid if self._process else None

    def send(self, change: BaseModel, fds: Sequence[int] = ()) -> bool:
        """Whether the child took `change`; one that did not is unsound and must be killed."""
        return self._control is not None and self._control.send(change.model_dump_json().encode(), fds)

    def request_stop(self) -> None:
        """Close its standard input, which every child takes as the request to end."""
        self.ending = True
        if self._control:
            self._control.close()

    def kill(self) -> None:
        """SIGKILL, which also ends one that is stopped or stuck."""
        if self._process and self._process.poll() is None:
            self._process.kill()

    def kill_because(self, reason: str) -> None:
        """Kill it because of `reason`, which stands for its exit code from then on."""
        log.warning("%s: %s: killed", self.name, reason)
        self.kill_reason = reason
        self.kill()

    def join(self, deadline: float) -> None:
        """Wait for its end until the monotonic time `deadline`, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def record_crash(self) -> float | None:
        """Count a crash now; seconds to wait before the restart, or None when the child is to be parked."""
        now = time.monotonic()
        if now - self.started_s > STABLE_S:
            self.parked = 0
        self.crashes.append(now)
        while now - self.crashes[0] > CRASH_WINDOW_S:
            self.crashes.popleft()
        if len(self.crashes) >= MAX_CRASHES:
            return None
        return BACKOFF_S[min(len(self.crashes), len(BACKOFF_S)) - 1]

    def park(self) -> float:
        """Give it up for now; seconds until it is worth another try."""
        self.parked += 1
        self.crashes.clear()
        return PARKED_S[min(self.parked, len(PARKED_S)) - 1]

    def _thread(self, what: str, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, name=f"{self.name}-{what}", daemon=True).start()

    def _read_line(self, stdout: IO[bytes], run: int) -> None:
        with stdout:
            if line := stdout.readline(MAX_LINE_BYTES):
                self.notify(ChildEvent(what="line", child=self.name, run=run, line=line))
            while stdout.read(MAX_LINE_BYTES):  # a full pipe would stop the child
                pass

    def _wait(self, process: subprocess.Popen[bytes], run: int) -> None:
        control = self._control
        if CAN_DETECT_STOPS:
            with contextlib.suppress(ChildProcessError):  # reaped by `join` while we looked
                self._report_stops(process.pid, run)
        code = process.wait()
        if control:
            control.close()
        self.notify(ChildEvent(what="exit", child=self.name, run=run, code=code))

    def _report_stops(self, pid: int, run: int) -> None:
        """Return when the process has ended, which is left for `Popen` to reap."""
        while True:
            seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOWAIT)
            if seen is None or seen.si_code not in (os.CLD_STOPPED, os.CLD_CONTINUED):
                return
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)  # taken note of
            stopped = seen.si_code == os.CLD_STOPPED
            self.notify(ChildEvent(what="stopped" if stopped else "continued", child=self.name, run=run))


def reap_orphans(ours: Collection[int | None]) -> int:
    """Reap ended processes that we did not start; how many. Nothing to do unless we are process 1.

    Our own are left to those who wait for them; one of these in front hides strangers until the next call.
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

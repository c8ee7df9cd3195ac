"""One child process as the supervisor holds it: started, told its job, watched, stopped."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from pydantic import BaseModel

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CRASH_WINDOW_S = 60.0
MAX_CRASHES = 5
"""Crashes within `CRASH_WINDOW_S` after which a child is parked: it would only burn the machine."""
MAX_LINE_BYTES = 4096


@dataclass(slots=True)
class Child:
    """A module run with our interpreter (`spawn`, never `fork`), its job on its standard input.

    `on_exit(name, code)` is called from a thread when it ends; `on_line(name, line)` with its first line of output.
    """

    name: str
    module: str
    job: BaseModel
    on_exit: Callable[[str, int], None]
    on_line: Callable[[str, bytes], None] | None = None
    pass_fds: Sequence[int] = ()
    crashes: deque[float] = field(default_factory=deque)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it must not be running."""
        assert not self.running
        process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if self.on_line else subprocess.DEVNULL,
            pass_fds=self.pass_fds,
        )
        self._process = process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit is reported by the watcher
            process.stdin.write(self.job.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        if self.on_line:
            self._thread("output", self._read_line, process.stdout)
        self._thread("exit", self._wait, process)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, also of one that has ended."""
        return self._process.pid if self._process else None

    def ask_to_stop(self) -> None:
        """Close its standard input, which every child takes as the request to end."""
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def join(self, deadline: float) -> None:
        """Wait for its end until the monotonic time `deadline`, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def note_crash(self) -> float | None:
        """Count a crash now; seconds to wait before the restart, or None when the child is to be parked."""
        now = time.monotonic()
        self.crashes.append(now)
        while now - self.crashes[0] > CRASH_WINDOW_S:
            self.crashes.popleft()
        if len(self.crashes) >= MAX_CRASHES:
            return None
        return BACKOFF_S[min(len(self.crashes), len(BACKOFF_S)) - 1]

    def _thread(self, what: str, target: Callable[..., None], argument: object) -> None:
        threading.Thread(target=target, args=(argument,), name=f"{self.name}-{what}", daemon=True).start()

    def _read_line(self, stdout: IO[bytes]) -> None:
        assert self.on_line is not None
        with stdout:
            if line := stdout.readline(MAX_LINE_BYTES):
                self.on_line(self.name, line)
            while stdout.read(MAX_LINE_BYTES):  # a full pipe would stop the child
                pass

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        self.on_exit(self.name, code)

"""Run a real `streamclf` process: read its stderr, interrupt it, and check that its processes have ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from streamclf.bench.service.process_usage import descendants

DEADLINE_S = 120.0


class Service:
    """`streamclf ARGUMENTS` in a process group of its own. A thread reads its stderr line by line."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "streamclf"),
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=cwd,
            env={**os.environ, "STREAMCLF_CACHE": str(cwd / "cache"), "PYTHONUNBUFFERED": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in [self.process.pid, *self.descendants()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        if self.process.stdout:
            self.process.stdout.close()
        if self.process.stderr:
            self.process.stderr.close()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait for a line on stderr that contains `pattern`, and return the match; earlier lines count, too."""
        deadline = time.monotonic() + DEADLINE_S
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                if self._ended or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"no line matches {pattern!r} in:\n" + "\n".join(self.lines))

    @property
    def endpoint(self) -> str:
        """Return the endpoint on which the service publishes; wait until the service reports it."""
        return self.wait_for_line(r"publishing on (\S+)")[1]

    def descendants(self) -> list[int]:
        """Return the ids of the service's child processes and of all their descendants."""
        return list(descendants(self.process.pid))

    def children(self, module: str) -> list[int]:
        """Return the ids of the service's child processes that run `module`."""
        return [pid for pid in self.descendants() if module in _command(pid)]

    def interrupt(self) -> None:
        """Send Ctrl-C as a terminal does: SIGINT to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Wait until the service ends, and return its exit code."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def wait_gone(pids: list[int]) -> None:
    """Wait until all `pids` have ended; a zombie has ended, too."""
    deadline = time.monotonic() + DEADLINE_S
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, [(_command(pid)) for pid in pids if _alive(pid)]
        time.sleep(0.02)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Start a Python module as a process and exchange lines of JSON with it over its standard input and output."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

from streamclf.errors import BenchError

STOP_S: Final = 5.0
MAX_ERROR_CHARS: Final = 300


class HelperProcess:
    """Run `python -m MODULE` and exchange lines with it; the end of its standard input asks it to end.

    The process has a session of its own, so that Ctrl-C in a terminal reaches only the bench. Its standard error goes
    to the file `log`. As a context manager, it ends the process on exit, by force after `STOP_S`.
    """

    def __init__(
        self,
        module: str,
        first_line: bytes,
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self._module, self._log = module, log
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [python, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=module, daemon=True)
        self._reader.start()
        self.send_line(first_line)

    def __enter__(self) -> HelperProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_input()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_S)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def send_line(self, line: bytes) -> None:
        """Write a line to the process. If it has ended, the next `receive` raises the error."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout_s: float) -> Any:
        """Return the next line that the process prints, parsed. Raises `BenchError` if it ends or prints nothing."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise BenchError(f"{self._module}: no answer within {timeout_s:g} s{self.log_tail()}") from None
        if not line:
            self._lines.put(b"")
            raise BenchError(f"{self._module} ended{self.log_tail()}")
        return orjson.loads(line)

    def receive_waiting(self) -> list[Any]:
        """Return, parsed, all lines that have arrived and were not received yet."""
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        return [orjson.loads(line) for line in lines if line]

    def finish(self, timeout_s: float) -> Any:
        """Close the standard input of the process and return its next line, parsed. Raises `BenchError`."""
        self._close_input()
        return self.receive(timeout_s)

    def log_tail(self) -> str:
        """Return ": " and the last line of the log, to be appended to an error; empty if there is none."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f": {lines[-1][:MAX_ERROR_CHARS]}"
        return ""

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self) -> None:
        """Queue each line of standard output, and an empty line at its end."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(b"")

"""A process that the bench starts: told one line, heard line by line, ended by the end of its standard input."""

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
MAX_TOLD_CHARS: Final = 300


class HelperProcess:
    """`python -m MODULE` in a session of its own, so that Ctrl-C in a terminal reaches the bench alone."""

    def __init__(
        self,
        module: str,
        told: bytes,
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
        self.tell(told)

    def __enter__(self) -> HelperProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_S)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process.poll() is None

    def tell(self, line: bytes) -> None:
        """Send it a line; its end is noticed by whoever waits for its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def hear(self, deadline_s: float) -> Any:
        """Its next line, JSON. Raises `BenchError` when it has ended, or says nothing for so long."""
        try:
            line = self._lines.get(timeout=deadline_s)
        except queue.Empty:
            raise BenchError(f"{self._module}: no answer within {deadline_s:g} s{self.last_words()}") from None
        if not line:
            self._lines.put(b"")
            raise BenchError(f"{self._module} ended{self.last_words()}")
        return orjson.loads(line)

    def heard(self) -> list[Any]:
        """All that it has said and nobody has heard yet."""
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        return [orjson.loads(line) for line in lines if line]

    def finish(self, deadline_s: float) -> Any:
        """End its input, and hear its last line."""
        self._hang_up()
        return self.hear(deadline_s)

    def last_words(self) -> str:
        """What it last wrote to its log, ready to be put behind an error."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f": {lines[-1][:MAX_TOLD_CHARS]}"
        return ""

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(b"")

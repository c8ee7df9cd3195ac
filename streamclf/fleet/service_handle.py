"""Start, watch and stop the service of one node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import orjson

STOP_S: Final = 6.0
"""Longest time for a service to end; then its processes are killed. The service itself needs up to three seconds."""


class ServiceHandle:
    """One run of the service. It ends with this process, whose death closes its standard input."""

    def __init__(self, config: Path, *, lock_fd: int) -> None:
        """Start it; the lock of the node's folder then lasts until this process and the service have ended."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamclf.fleet.service_process", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[lock_fd],
            cwd=config.parent,
        )
        self.endpoints: dict[str, str] = {}
        """The endpoints `events` and `replay`, once the service is ready."""
        self.error = ""
        threading.Thread(target=self._read_output, name="service-output", daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the service runs."""
        return self._process.poll()

    def reload(self) -> None:
        """Have the service read its configuration now."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"reload\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """End the service, and wait until it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with contextlib.suppress(ValueError):
                    found = orjson.loads(line)
                    self.error = found.pop("error", "")
                    self.endpoints = found

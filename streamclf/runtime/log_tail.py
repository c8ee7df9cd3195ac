"""Keep the last lines of the log of a service's processes in a small file, for its page.

All processes add their lines to one file in the service's private directory, which the service removes at its end. The
lines are formatted as those on stderr, so they hold no credentials.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TAIL_VARIABLE: Final = "STREAMCLF_LOG_TAIL"
"""Environment variable with the path of the file, which the child processes inherit."""
MAX_FILE_BYTES: Final = 128 << 10
"""A file that is longer becomes the file before, and a new one begins: the two hold this much at least."""
MAX_LINE_BYTES: Final = 2048
_BEFORE: Final = ".before"


class LogTail(logging.Handler):
    """Append each record to the file. An error of the disk is ignored: the line is on stderr as well."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line for each line of the record."""
        try:
            lines = self.format(record).encode("utf-8", "replace").splitlines()
            data = b"".join(line[:MAX_LINE_BYTES] + b"\n" for line in lines[-100:])
            with self._path.open("ab", buffering=0) as file:
                file.write(data)
                if file.tell() > MAX_FILE_BYTES and self._path.stat().st_size > MAX_FILE_BYTES:
                    self._path.replace(f"{self._path}{_BEFORE}")
        except OSError:
            pass
        except Exception:  # noqa: BLE001 - as every handler of logging does: a log line must not end a process
            self.handleError(record)


@contextlib.contextmanager
def kept_log_tail(path: Path, formatter: logging.Formatter) -> Iterator[None]:
    """Add this process's lines to the file `path` within the block, and those of processes that start in it."""
    handler = LogTail(path)
    handler.setFormatter(formatter)
    before = os.environ.get(TAIL_VARIABLE)
    os.environ[TAIL_VARIABLE] = str(path)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        del os.environ[TAIL_VARIABLE]
        if before is not None:
            os.environ[TAIL_VARIABLE] = before


def remove_log_tail() -> None:
    """Remove the file that this process inherited, in place of a supervisor that was killed. Raises `OSError`."""
    if path := os.environ.get(TAIL_VARIABLE):
        for each in (f"{path}{_BEFORE}", path):
            Path(each).unlink(missing_ok=True)


def read_log_tail(path: Path, count: int) -> list[str]:
    """Return the last `count` lines, oldest first; none if there is no file."""
    lines: list[bytes] = []
    for each in (Path(f"{path}{_BEFORE}"), path):
        with contextlib.suppress(OSError), each.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * MAX_FILE_BYTES))
            lines += file.read(2 * MAX_FILE_BYTES).splitlines()
    return [line.decode("utf-8", "replace") for line in lines[-count:]]

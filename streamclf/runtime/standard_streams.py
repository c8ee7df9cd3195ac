"""Prepare the standard streams of a command: output that cannot be written ends it with one line, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final

from streamclf.errors import OutputError

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2


def prepare_standard_streams() -> None:
    """Make the standard streams safe to use. Call it once, at the start of a command's process.

    Writing to stdout raises `OutputError` if it fails; writing to stderr never fails. Characters that the encoding
    lacks are written as escapes.
    """
    _open_closed_streams()
    sys.stdout = _text(_Output(STDOUT), sys.stdout)
    sys.stderr = _text(_Messages(STDERR), sys.stderr, line_buffering=True)


def _open_closed_streams() -> None:
    """Open the null device in place of each stream that the caller has closed.

    Otherwise the next file that is opened, such as a database, would take its number, and output would go there.
    """
    # Writing to a stdout that is open for reading fails, as it would on the closed one.
    for descriptor, mode in ((STDIN, os.O_RDONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        if _is_closed(descriptor):
            opened = os.open(os.devnull, mode)
            if opened == descriptor:
                os.set_inheritable(descriptor, True)
            else:
                os.dup2(opened, descriptor)
                os.close(opened)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def _text(raw: io.FileIO, given: Any, *, line_buffering: bool = False) -> io.TextIOWrapper:
    """Return a text stream over `raw`, with the encoding and buffering of the stream that Python has opened."""
    encoding = "utf-8"
    if given is not None:  # Python's stream for a closed descriptor is None
        given.flush()
        encoding, line_buffering = given.encoding, line_buffering or given.line_buffering
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=line_buffering
    )


class _Messages(io.FileIO):
    """The descriptor of stderr. If a write fails, this and all later messages are discarded."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _discard_output(self.fileno())
            return self._failed(data, error)

    def _failed(self, data: Any, error: OSError) -> int:
        return memoryview(data).nbytes


class _Output(_Messages):
    """The descriptor of stdout. A write that fails raises `OutputError`; later output is discarded."""

    def _failed(self, data: Any, error: OSError) -> int:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise OutputError(f"standard output cannot be written: {reason}") from None


def _discard_output(descriptor: int) -> None:
    """Send later output to the null device, so that the flush at the end of the process does not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)

"""Report how far a ring has been read, to a writer that must not overtake its reader: a file read at full speed.

Each message is the number of chunks read so far: 8 bytes, little endian. It is an absolute position, not an increment.
So a reader that restarts repeats its position, and no count has to be added up over restarts.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading

POSITION = struct.Struct("<Q")
POLL_S = 0.25
"""A stop request is noticed within this time."""


class ProgressReporter:
    """The reader's end: the non-blocking write end of a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_up_to(self, number: int) -> None:
        """Report that every chunk before chunk `number` has been read."""
        # If the pipe is full, the writer has missed thousands of messages; the next one holds the newest position.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, POSITION.pack(number))


class ProgressWaiter:
    """The writer's end: the non-blocking read end of the same pipe."""

    def __init__(self, fd: int, stop: threading.Event) -> None:
        self._fd = fd
        self._stop = stop
        self._position = 0
        self._is_closed = False

    def wait_for(self, number: int) -> bool:
        """Wait until every chunk before chunk `number` has been read. Returns False if `stop` is set before.

        Returns False, too, when all write ends are closed: the view was removed, and nobody reads its ring any more.
        """
        while self._position < number and not self._is_closed and not self._stop.is_set():
            select.select([self._fd], [], [], POLL_S)
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._fd, POSITION.size * 512)
                self._is_closed = not data
                whole = len(data) - len(data) % POSITION.size
                self._position = max([self._position, *(n for (n,) in POSITION.iter_unpack(data[:whole]))])
        return self._position >= number

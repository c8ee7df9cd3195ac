"""How far a ring has been read, told by the reader to a writer that must not overtake it: a file read at full speed.

One message is the number of chunks read so far, 8 bytes, little endian. A position and not a count: a reader that
starts again says it again, and nothing has to be added up over restarts.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading

POSITION = struct.Struct("<Q")
LOOK_S = 0.25


class ProgressReporter:
    """The reader's end: a pipe's non-blocking write end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_up_to(self, number: int) -> None:
        """Everything before chunk `number` has been read."""
        # Full: the writer has not looked for thousands of messages, and the next one says it all.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, POSITION.pack(number))


class ProgressWaiter:
    """The writer's end: the same pipe's non-blocking read end."""

    def __init__(self, fd: int, stop: threading.Event) -> None:
        self._fd = fd
        self._stop = stop
        self._position = 0

    def wait_for(self, number: int) -> bool:
        """Return when everything before chunk `number` has been read; False when asked to stop before."""
        while self._position < number and not self._stop.is_set():
            select.select([self._fd], [], [], LOOK_S)
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._fd, POSITION.size * 512)
                whole = len(data) - len(data) % POSITION.size
                self._position = max([self._position, *(n for (n,) in POSITION.iter_unpack(data[:whole]))])
        return self._position >= number

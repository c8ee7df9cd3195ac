"""Send a child its job, later changes with their file descriptors, and the request to stop.

The channel is a Unix socket that is the child's standard input. One message is one line of JSON; its key `descriptors`
says how many file descriptors come with it. The end of the input is the request to stop. It also ends a child whose
supervisor was killed. A child that gets no descriptors can read from a plain pipe instead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

MAX_MESSAGE_BYTES: Final = 16 << 20
SEND_S: Final = 1.0
"""A child's control thread only reads. A child that does not read a message within this time must be killed."""
_MAX_FDS: Final = 64
_READ_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One line of JSON, and the descriptors that came with it, which the receiver has to close."""

    body: bytes
    fds: tuple[int, ...] = ()


class ControlSender:
    """The supervisor's end. `child_end` becomes the child's standard input and is closed here afterwards."""

    def __init__(self) -> None:
        self._socket, self.child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SEND_S)

    def send(self, body: bytes, fds: Sequence[int] = ()) -> bool:
        """Send a message; return False if the child did not read it. It must then be killed: it may have read half."""
        assert b"\n" not in body
        try:
            sent = socket.send_fds(self._socket, [body + b"\n"], list(fds)) if fds else 0
            self._socket.sendall((body + b"\n")[sent:])
        except OSError:  # a time-out, too
            return False
        return True

    def close(self) -> None:
        """Ask the child to stop."""
        self._socket.close()
        self.child_end.close()


class ControlReader:
    """The child's end, read from its standard input; for one thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket: socket.socket | None = None
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._fds: deque[int] = deque()

    def next(self) -> ControlMessage | None:
        """Wait for the next message; return None at the end of the input, or after data that is no message."""
        while not self._lines:
            data = self._receive()
            if not data or len(self._rest) + len(data) > MAX_MESSAGE_BYTES:
                return None
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(lines)
        body = self._lines.popleft()
        count = _descriptor_count(body)
        if count > len(self._fds):
            return None
        return ControlMessage(body, tuple(self._fds.popleft() for _ in range(count)))

    def close(self) -> None:
        """Close the socket, and the descriptors that were received with messages still unread."""
        if self._socket is not None:
            self._socket.close()
        while self._fds:
            os.close(self._fds.popleft())

    def _receive(self) -> bytes:
        if self._socket is None:
            return os.read(self._fd, _READ_BYTES)
        with contextlib.suppress(ConnectionResetError):
            data, fds, _, _ = socket.recv_fds(self._socket, _READ_BYTES, _MAX_FDS)
            self._fds.extend(fds)
            return data
        return b""


def _descriptor_count(body: bytes) -> int:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 0
    count = value.get("descriptors", 0) if isinstance(value, dict) else 0
    return count if isinstance(count, int) and 0 <= count <= _MAX_FDS else 0

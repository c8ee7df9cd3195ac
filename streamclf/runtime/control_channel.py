"""The supervisor's line to a child: the job, later changes with the descriptors that they need, and the request to end.

A Unix socket that is the child's standard input. One message is one line of JSON; its key `descriptors` says how many
file descriptors travel with it. The end of the input is the request to end, and also how a child learns that its
supervisor was killed. A plain pipe will do for a child that gets no descriptors.
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

MAX_MESSAGE_BYTES: Final = 4 << 20
SEND_S: Final = 1.0
"""A child's control thread does nothing but read: one that takes no message for this long is no longer sound."""
_MAX_FDS: Final = 64
_CHUNK: Final = 65536


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One line of JSON, and the descriptors that came with it, which are the receiver's to close."""

    body: bytes
    fds: tuple[int, ...] = ()


class ControlSender:
    """The supervisor's end; `child_end` goes to the child as its standard input and is closed here afterwards."""

    def __init__(self) -> None:
        self._socket, self.child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SEND_S)

    def send(self, body: bytes, fds: Sequence[int] = ()) -> bool:
        """Whether the child took the message; it must be killed if not, for half of it may have been sent."""
        assert b"\n" not in body
        try:
            sent = socket.send_fds(self._socket, [body + b"\n"], list(fds)) if fds else 0
            self._socket.sendall((body + b"\n")[sent:])
        except OSError:  # a time-out is one too
            return False
        return True

    def close(self) -> None:
        """Ask the child to end."""
        self._socket.close()
        self.child_end.close()


class ControlReader:
    """The child's end, from its standard input; for one thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket: socket.socket | None = None
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._fds: deque[int] = deque()

    def next(self) -> ControlMessage | None:
        """The next message; None when there will be none, or when what comes is no message."""
        while not self._lines:
            data = self._receive()
            if not data or len(self._rest) + len(data) > MAX_MESSAGE_BYTES:
                return None
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(lines)
        body = self._lines.popleft()
        count = _descriptors(body)
        if count > len(self._fds):
            return None
        return ControlMessage(body, tuple(self._fds.popleft() for _ in range(count)))

    def close(self) -> None:
        """Let go of the socket; what was read and not taken is closed with it."""
        if self._socket is not None:
            self._socket.close()
        while self._fds:
            os.close(self._fds.popleft())

    def _receive(self) -> bytes:
        if self._socket is None:
            return os.read(self._fd, _CHUNK)
        with contextlib.suppress(ConnectionResetError):
            data, fds, _, _ = socket.recv_fds(self._socket, _CHUNK, _MAX_FDS)
            self._fds.extend(fds)
            return data
        return b""


def _descriptors(body: bytes) -> int:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 0
    count = value.get("descriptors", 0) if isinstance(value, dict) else 0
    return count if isinstance(count, int) and 0 <= count <= _MAX_FDS else 0

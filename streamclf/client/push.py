"""Push frames that a program has made to a stream of a service on the same machine (`streamclf.push`)."""

from __future__ import annotations

import hmac
import os
import socket
import threading
import time
from collections import deque
from types import TracebackType

import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from streamclf.errors import SourceError
from streamclf.net.push_protocol import (
    ACCEPTED,
    GREETING_BYTES,
    HEADER,
    HEADER_MAGIC,
    MAGIC,
    MAX_FRAME_BYTES,
    MAX_SIDE,
    NONCE_BYTES,
    REFUSED,
    VERDICT_BYTES,
    PushAddress,
    make_proof,
    parse_push_address,
)

IO_TIMEOUT_S = 2.0
"""Time-out of each read and write; the service counts as lost after it."""
FIRST_WAIT_S, LAST_WAIT_S = 0.1, 1.0
"""The first wait between two attempts to connect, and the longest after it has doubled."""
MAX_QUEUE = 64


def push(where: str, *, width: int, height: int, secret: str = "", queue: int = 2) -> PushSink:
    """Open a sink for frames of one size, to be used in a `with` block.

        with streamclf.push("screen", width=1280, height=720) as sink:
            sink.write(rgb)

    `where` is the stream's `push` in the service's configuration: a name, a socket's path, or `tcp://127.0.0.1:PORT`
    with `secret`. The service may start later, and restart; `write` never waits for it. When more than `queue` frames
    wait, the oldest is dropped and counted. Raises `SourceError` for an invalid address.
    """
    return PushSink(parse_push_address(where), width=width, height=height, secret=secret, queue=queue)


class PushSink:
    """Send frames to a stream; a thread connects and sends. Made by `streamclf.push`."""

    def __init__(self, address: PushAddress, *, width: int, height: int, secret: str, queue: int) -> None:
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height * 3 <= MAX_FRAME_BYTES):
            raise SourceError(
                f"push of {width}x{height}: must be 1 to {MAX_SIDE} a side and at most {MAX_FRAME_BYTES} bytes"
            )
        if not 1 <= queue <= MAX_QUEUE:
            raise SourceError(f"push with a queue of {queue}: must be 1 to {MAX_QUEUE} frames")
        self._address = address
        self._shape = (height, width, 3)
        self._secret = secret
        self._queue_length = queue
        self._changed = threading.Condition()
        # The condition guards everything from here to the next blank line.
        self._waiting: deque[tuple[int, U8]] = deque()
        self._dropped = 0
        self._sent = 0
        self._refused: str | None = None
        self._closing = False

        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"push-{address}", daemon=True)
        self._thread.start()

    def __enter__(self) -> PushSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """The number of frames that were dropped because the service did not read them in time."""
        with self._changed:
            return self._dropped

    @property
    def sent(self) -> int:
        """The number of frames sent to the service."""
        with self._changed:
            return self._sent

    def write(self, rgb: npt.ArrayLike, pts_ns: int | None = None) -> None:
        """Queue a copy of `rgb`, (height, width, 3) uint8 RGB; never blocks.

        `pts_ns` is the frame's media time, by default the monotonic clock now. Raises `ValueError` for
        another shape or dtype, `SourceError` when the service has refused this program.
        """
        frame = np.asarray(rgb)
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}: must be uint8 {self._shape}")
        copy = np.array(frame, order="C")
        with self._changed:
            if self._refused:
                raise SourceError(self._refused)
            if self._closing:
                raise SourceError(f"push {self._address}: the sink is closed; open another one with streamclf.push")
            self._waiting.append((time.monotonic_ns() if pts_ns is None else pts_ns, copy))
            if len(self._waiting) > self._queue_length:
                self._waiting.popleft()
                self._dropped += 1
            self._changed.notify_all()

    def close(self, timeout_s: float = 1.0) -> None:
        """Send the waiting frames, for at most `timeout_s`, and disconnect; drop and count the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._done.set()
        self._thread.join(IO_TIMEOUT_S + LAST_WAIT_S)
        with self._changed:
            self._dropped += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._finished():
            if self._connect_and_send():
                wait_s = FIRST_WAIT_S
            # The service has not started yet, or has ended. The newest frames wait for its next start.
            self._done.wait(wait_s)
            wait_s = min(2 * wait_s, LAST_WAIT_S)

    def _connect_and_send(self) -> bool:
        """Send frames until the connection ends; return whether there was one."""
        connected = False
        try:
            with self._address.socket() as connection:
                connection.settimeout(IO_TIMEOUT_S)
                connection.connect(self._address.target)
                self._handshake(connection)
                connected = True
                self._send_all(connection)
        except SourceError as error:
            with self._changed:
                self._refused = str(error)
            self._done.set()
        except OSError:
            pass
        return connected

    def _finished(self) -> bool:
        with self._changed:
            return self._done.is_set() or (self._closing and not self._waiting)

    def _handshake(self, connection: socket.socket) -> None:
        greeting = _receive(connection, GREETING_BYTES)
        challenge, nonce = greeting[len(MAGIC) :], os.urandom(NONCE_BYTES)
        if not greeting.startswith(MAGIC):
            raise SourceError(f"push {self._address}: no streamclf stream listens there; check name and port")
        connection.sendall(nonce + make_proof(self._secret, b"program", challenge, nonce))
        verdict = _receive(connection, VERDICT_BYTES)
        genuine = hmac.compare_digest(verdict[1:], make_proof(self._secret, b"server", challenge, nonce))
        if verdict[:1] == REFUSED or (verdict[:1] == ACCEPTED and not genuine):
            raise SourceError(f"push {self._address}: refused; the secret is not the stream's push_secret")

    def _send_all(self, connection: socket.socket) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, LAST_WAIT_S)
                if self._done.is_set() or (self._closing and not self._waiting):
                    return
                if not self._waiting:
                    continue
                pts_ns, frame = self._waiting.popleft()
                dropped = self._dropped
            height, width, _ = self._shape
            try:
                connection.sendall(HEADER.pack(HEADER_MAGIC, width, height, pts_ns, dropped))
                connection.sendall(frame.data)
            except OSError:
                with self._changed:
                    self._dropped += 1
                raise
            with self._changed:
                self._sent += 1


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("closed during the handshake")
        data += part
    return data

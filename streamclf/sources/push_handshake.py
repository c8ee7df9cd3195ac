"""Authenticate the programs that connect to a push address side by side, so that a silent one delays no other."""

from __future__ import annotations

import contextlib
import hmac
import os
import selectors
import socket
import time
from dataclasses import dataclass, field
from types import TracebackType

from streamclf.net.push_protocol import (
    ACCEPTED,
    ANSWER_BYTES,
    MAGIC,
    NONCE_BYTES,
    PROOF_BYTES,
    REFUSED,
    make_proof,
)

HANDSHAKE_S = 2.0
"""Time in which a program must answer the challenge. A program of ours needs milliseconds."""
MAX_PENDING = 64
"""Connections in a handshake at once. One more closes the oldest, which had the most time to answer."""

ACCEPT_PAUSE_S = 0.02


@dataclass(slots=True)
class _Pending:
    """A connection that has not answered its challenge yet."""

    challenge: bytes
    deadline_s: float
    answer: bytearray = field(default_factory=bytearray)


class HandshakeServer:
    """Accept connections on `listener`, and do the handshake of each in the thread that calls `wait`."""

    def __init__(self, listener: socket.socket, secret: str) -> None:
        self._listener, self._secret = listener, secret
        self._pending: dict[socket.socket, _Pending] = {}  # the oldest first
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def __enter__(self) -> HandshakeServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        for connection in list(self._pending):
            self._drop(connection)
        self._selector.close()

    def wait(self, timeout_s: float) -> socket.socket | None:
        """Return the connection of a program that knows the secret; None if there is none within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            remaining_s = deadline_s - time.monotonic()
            for key, _ in self._selector.select(max(0.0, remaining_s)):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and self._reads_proof(key.fileobj):
                    return self._release(key.fileobj)
            now_s = time.monotonic()
            for connection in [each for each, state in self._pending.items() if state.deadline_s < now_s]:
                self._drop(connection)
            if remaining_s <= 0:
                return None

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has closed again, or this process is out of descriptors and the connection stays queued
            time.sleep(ACCEPT_PAUSE_S)
            return
        connection.setblocking(False)
        state = _Pending(challenge=os.urandom(NONCE_BYTES), deadline_s=time.monotonic() + HANDSHAKE_S)
        if len(self._pending) >= MAX_PENDING:
            self._drop(next(iter(self._pending)))
        self._pending[connection] = state
        self._selector.register(connection, selectors.EVENT_READ)
        self._send(connection, MAGIC + state.challenge)

    def _reads_proof(self, connection: socket.socket) -> bool:
        """Read a part of the answer; return whether it is whole and proves knowledge of the secret."""
        state = self._pending.get(connection)
        if state is None:  # closed by another event of the same call
            return False
        try:
            part = connection.recv(ANSWER_BYTES - len(state.answer))
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        state.answer += part
        if not part:
            self._drop(connection)
        if not part or len(state.answer) < ANSWER_BYTES:
            return False
        nonce, proof = bytes(state.answer[:NONCE_BYTES]), bytes(state.answer[NONCE_BYTES:])
        if not hmac.compare_digest(proof, make_proof(self._secret, b"program", state.challenge, nonce)):
            self._send(connection, REFUSED + bytes(PROOF_BYTES))
            self._drop(connection)
            return False
        return self._send(connection, ACCEPTED + make_proof(self._secret, b"server", state.challenge, nonce))

    def _send(self, connection: socket.socket, data: bytes) -> bool:
        """Send `data`, which fits into the buffer of a new connection; drop the connection if that fails."""
        with contextlib.suppress(OSError):
            if connection.send(data) == len(data):
                return True
        self._drop(connection)
        return False

    def _release(self, connection: socket.socket) -> socket.socket:
        self._selector.unregister(connection)
        del self._pending[connection]
        return connection

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._pending:
            self._release(connection).close()

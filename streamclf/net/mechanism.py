"""Ask a service which security mechanism of ZeroMQ it uses."""

from __future__ import annotations

import time
from typing import Final

import zmq

from streamclf.net.zeromq import is_readable, open_socket, send_now

_ANSWER_S: Final = 5.0
"""Time for a service to answer."""
_GREETING: Final = b"\xff" + b"\0" * 8 + b"\x7f\x03"
"""The start of ZMTP 3's greeting (ZeroMQ RFC 23): the signature and the version, without a mechanism."""
_MECHANISM: Final = slice(12, 32)
_PEER: Final = b"service"


class MechanismQuery:
    """Ask a service for its security mechanism over a connection of its own; nothing here waits.

    A client and a service with different mechanisms both close the connection. The service often closes it before it
    has sent its mechanism, most of all under load, so the client's own connection does not always show the difference.
    This connection sends only the start of a greeting. libzmq answers it with the mechanism, then waits for the rest
    (libzmq 4.3.5, `receive_greeting_versioned`).
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._until = time.monotonic() + _ANSWER_S
        self._answer = b""
        self._socket = open_socket(context, zmq.STREAM, max_bytes=_MECHANISM.stop)
        self._socket.ipv6 = "[" in endpoint
        self._socket.reconnect_ivl = -1
        self._socket.setsockopt(zmq.STREAM_NOTIFY, 0)
        self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, _PEER)
        self._socket.connect(endpoint)
        send_now(self._socket, _PEER, _GREETING)

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come."""
        return not self._socket.closed

    def read(self) -> bytes:
        """Return the name of the mechanism, such as `NULL` or `CURVE`; empty as long as the service has not sent it."""
        while self.is_open and is_readable(self._socket):
            self._answer += self._socket.recv_multipart()[-1]
            if len(self._answer) >= _MECHANISM.stop:
                self.close()
        if time.monotonic() >= self._until:
            self.close()
        is_whole = len(self._answer) >= _MECHANISM.stop and self._answer[0] == _GREETING[0]
        return self._answer[_MECHANISM].rstrip(b"\0") if is_whole else b""

    def close(self) -> None:
        """Disconnect. May be called twice."""
        self._socket.close(0)

"""A subscriber's side of CURVE: which service, with which keys; and why it does not let us in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamclf.errors import BusError, UsageError
from streamclf.net.curve_keys import Certificate, load_certificate
from streamclf.net.endpoints import ENDPOINT
from streamclf.net.zeromq import is_readable

REFUSED_S: Final = 5.0
"""So long a service may refuse us before that is an error: a key that was just put on the list is read by then."""
_REST_S = 1.0
_QUICK_S = 1.5
_ENOUGH = 3
_EVENTS: Final = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_CLOSED, _NOT_ALLOWED, _MISMATCH = "closed", "not allowed", "mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a service is, and the keys to it; None for a service without."""

    endpoint: str
    keys: Certificate | None = None
    server: bytes | None = None

    def arm(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket a CURVE client, before it connects."""
        if "[" in self.endpoint:
            socket.ipv6 = True
        if self.keys and self.keys.secret and self.server:
            socket.curve_publickey, socket.curve_secretkey = self.keys.public, self.keys.secret
            socket.curve_serverkey = self.server


def open_access(endpoint: str | Path, keys: str | Path | None = None, server_key: str | Path | None = None) -> Access:
    """`endpoint` is one (tcp://…, ipc://…), or a key file that holds one. Raises `UsageError`.

    `keys` is the subscriber's secret file, `server_key` the service's public one; the latter may stand in the former.
    """
    found: str | None = str(endpoint)
    if "://" not in str(endpoint):
        if not Path(endpoint).is_file():
            raise UsageError(
                f"endpoint {str(endpoint)!r}: like tcp://127.0.0.1:5555, or a file made by `streamclf keys`"
            )
        keys, found = keys or endpoint, None
    certificate = None if keys is None else load_certificate(Path(keys), secret=True)
    found = found or (certificate.endpoint if certificate else None)
    if found is None:
        raise UsageError(f"{endpoint}: names no endpoint; make it with --endpoint tcp://…, or give the endpoint itself")
    if not ENDPOINT.match(found):
        raise UsageError(f"endpoint {found!r}: like tcp://127.0.0.1:5555")
    server = load_certificate(Path(server_key)).public if server_key is not None else None
    if certificate is None:
        if server is not None:
            raise UsageError("server_key: only together with keys, the subscriber's own secret file")
        return Access(endpoint=found)
    server = server or certificate.server
    if server is None:
        raise UsageError(
            f"{certificate.path}: names no service; make it with --service SERVER.key, or give server_key, the "
            "service's public file"
        )
    return Access(endpoint=found, keys=certificate, server=server)


class HandshakeWatch:
    """Listens how the handshakes of one client socket end; ZeroMQ itself says nothing and, at times, gives up."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._socket: zmq.Socket[bytes] | None = None
        self._events: zmq.Socket[bytes] | None = None
        self._connected_at = 0.0
        self._first_at: float | None = None
        self._refusals = 0
        self._why = ""
        self._reopen_at: float | None = None

    def attach(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Begin with `socket`, before it connects; return what to poll besides it."""
        self._socket = socket
        self._events = socket.get_monitor_socket(_EVENTS)
        self._reopen_at = None
        return self._events

    def detach(self) -> None:
        """Let go of the socket, before it is closed."""
        if self._socket and self._events:
            self._read()  # a full queue of events would hold up the thread that closes the socket
            self._socket.disable_monitor()
            self._events.close(0)
        self._socket = self._events = None

    def check(self) -> bool:
        """Whether the socket must be opened anew; raises `BusError` when the service goes on refusing us."""
        self._read()
        if self._first_at is None:
            return False
        now = time.monotonic()
        if self._refusals >= _ENOUGH and now - self._first_at >= REFUSED_S:
            self._first_at = None
            raise BusError(f"{self._access.endpoint}: {self._reason()}")
        return self._reopen_at is not None and now >= self._reopen_at

    def _read(self) -> None:
        assert self._events is not None
        while is_readable(self._events):
            event = recv_monitor_message(self._events)
            self._note(event["event"])

    def _note(self, event: int) -> None:
        now = time.monotonic()
        if event == zmq.EVENT_CONNECTED:
            self._connected_at = now
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._first_at, self._refusals = None, 0
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            if now - self._connected_at < _QUICK_S:  # a service that is stopped or overloaded takes longer
                self._refused(_CLOSED)
        else:
            self._refused(_NOT_ALLOWED if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else _MISMATCH)
            self._reopen_at = now + _REST_S  # after these libzmq does not try again

    def _refused(self, why: str) -> None:
        self._first_at = self._first_at or time.monotonic()
        self._refusals += 1
        # Whether the service closes before it has said why is a race: one reason outlives closings without any.
        if why != _CLOSED or not self._why:
            self._why = why

    def _reason(self) -> str:
        keys, why = self._access.keys, self._why
        self._why = ""
        if keys is None:
            return (
                "what answers there does not let us in without keys, or is no streamclf service; ask for a key file "
                "(`streamclf keys`) and give it in place of the endpoint"
            )
        if why == _NOT_ALLOWED:
            return (
                f"the service does not know our key {keys.public.decode()}; put the public file that belongs to "
                f"{keys.path} into its `publish.allow` directory"
            )
        if why == _MISMATCH:
            return f"the service does not use keys; give its endpoint instead of {keys.path}, or its `publish.keys`"
        return (
            f"closed during the handshake: the service's key is not the one that {keys.path} was made for (ask for "
            "the service's public file again), or no streamclf service answers there"
        )

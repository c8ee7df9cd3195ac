"""Connect to a service with CURVE keys, and find out why it refuses the connection."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamclf.errors import BusError, UsageError
from streamclf.net.curve_keys import Certificate, load_certificate
from streamclf.net.endpoints import check_service_endpoint
from streamclf.net.mechanism import MechanismQuery
from streamclf.net.zeromq import is_readable

REFUSED_S: Final = 5.0
"""Refusals for this long are an error; by then the service has read a key that was just added to its list."""
REOPEN_AFTER_S: Final = 1.0
"""A pause before the socket is opened again, after a refusal that libzmq does not retry by itself."""
_QUICK_CLOSE_S: Final = 1.5
"""A connection that is closed within this time counts as refused; a stopped or overloaded service takes longer."""
_MIN_REFUSALS: Final = 3
"""Fewer refusals in a row are never an error: one may come from a service that is just starting or stopping."""
_EVENTS: Final = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_CLOSED, _NOT_ALLOWED, _OTHER_KEY, _NO_KEYS = "closed", "not allowed", "other key", "no keys"
_REASONS: Final = {b"CURVE": _OTHER_KEY, b"NULL": _NO_KEYS}
"""Why a service closes the connection of a client with keys and gives no reason, by the service's mechanism."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddress:
    """A service's endpoint, and the keys for it; the keys are None for a service without keys."""

    endpoint: str
    keys: Certificate | None = None
    server_key: bytes | None = None

    def configure(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket a CURVE client of this service, before it connects."""
        if "[" in self.endpoint:
            socket.ipv6 = True
        if self.keys and self.keys.secret and self.server_key:
            socket.curve_publickey, socket.curve_secretkey = self.keys.public, self.keys.secret
            socket.curve_serverkey = self.server_key


def resolve_service_address(
    endpoint: str | Path, keys: str | Path | None = None, server_key: str | Path | None = None
) -> ServiceAddress:
    """Find the endpoint and the keys of a service. Raises `UsageError`.

    `endpoint` is an endpoint (tcp://…, ipc://…), or a key file that holds one. `keys` is the subscriber's secret file,
    `server_key` the service's public one; the secret file may also hold the service's public key.
    """
    found: str | None = str(endpoint)
    if "://" not in str(endpoint):
        if not Path(endpoint).is_file():
            raise UsageError(
                f"endpoint {str(endpoint)!r}: must be like tcp://127.0.0.1:5555, or a file made by `streamclf keys`"
            )
        keys, found = keys or endpoint, None
    certificate = None if keys is None else load_certificate(Path(keys), secret=True)
    found = found or (certificate.endpoint if certificate else None)
    if found is None:
        raise UsageError(
            f"{endpoint}: names no endpoint; make the file with --endpoint tcp://…, or give the endpoint itself"
        )
    check_service_endpoint(found)
    server = load_certificate(Path(server_key)).public if server_key is not None else None
    if certificate is None:
        if server is not None:
            raise UsageError("server_key: only together with keys, the subscriber's own secret file")
        return ServiceAddress(endpoint=found)
    server = server or certificate.server
    if server is None:
        raise UsageError(
            f"{certificate.path}: names no service; make the file with --service SERVER.key, or give server_key, the "
            "service's public file"
        )
    return ServiceAddress(endpoint=found, keys=certificate, server_key=server)


class HandshakeMonitor:
    """Monitor how the handshakes of one client socket end.

    ZeroMQ reports a failed handshake to monitors only, and after some failures it does not try again.
    """

    def __init__(self, address: ServiceAddress) -> None:
        self._address = address
        self._socket: zmq.Socket[bytes] | None = None
        self._events: zmq.Socket[bytes] | None = None
        self._connected_at = 0.0
        self._refused_since: float | None = None
        self._refusals = 0
        self._reason = ""
        self._query: MechanismQuery | None = None
        self._reopen_at: float | None = None

    def attach(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Start to monitor `socket`, before it connects; return the monitor socket, to be polled too."""
        self._socket = socket
        self._events = socket.get_monitor_socket(_EVENTS)
        self._reopen_at = None
        return self._events

    def detach(self) -> None:
        """Stop monitoring, before the socket is closed."""
        if self._socket and self._events:
            self._read()  # a full queue of events would block the thread that closes the socket
            self._socket.disable_monitor()
            self._events.close(0)
        self._socket = self._events = None
        self._close_query()

    def check(self) -> bool:
        """Return whether the socket must be opened again. Raises `BusError` if the service refuses for `REFUSED_S`."""
        self._read()
        if self._refused_since is None:
            return False
        now = time.monotonic()
        is_asking = self._reason == _CLOSED and self._query is not None and self._query.is_open
        if self._refusals >= _MIN_REFUSALS and now - self._refused_since >= REFUSED_S and not is_asking:
            self._refused_since = None
            raise BusError(f"{self._address.endpoint}: {self._explain_refusal()}")
        return self._reopen_at is not None and now >= self._reopen_at

    def explain_silence(self) -> str:
        """Return why no message has come, as far as the connection shows it; "" for a connection that is open."""
        self._read()
        if self._refusals:
            return self._explain_refusal()
        if self._connected_at or self._address.endpoint.startswith("ipc://"):
            return ""
        return "no program listens there; is the service running, and is this its `publish.events` endpoint?"

    def _read(self) -> None:
        assert self._events is not None
        while is_readable(self._events):
            self._handle(recv_monitor_message(self._events)["event"])
        if self._query is not None and self._reason == _CLOSED:
            self._reason = _REASONS.get(self._query.read(), _CLOSED)

    def _handle(self, event: int) -> None:
        now = time.monotonic()
        if event == zmq.EVENT_CONNECTED:
            self._connected_at = now
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._refused_since, self._refusals = None, 0
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            if now - self._connected_at < _QUICK_CLOSE_S:
                self._count_refusal(_CLOSED)
        else:
            self._count_refusal(_NOT_ALLOWED if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else _NO_KEYS)
            self._reopen_at = now + REOPEN_AFTER_S  # libzmq does not try again after these

    def _count_refusal(self, reason: str) -> None:
        if self._refused_since is None:
            self._refused_since, self._refusals, self._reason = time.monotonic(), 0, ""
            self._close_query()
        self._refusals += 1
        # The service may close the connection before its reason arrives; so a later closing keeps an earlier reason.
        if reason != _CLOSED or not self._reason:
            self._reason = reason
        if self._reason == _CLOSED and self._refusals >= _MIN_REFUSALS and self._query is None and self._address.keys:
            assert self._socket is not None
            self._query = MechanismQuery(self._socket.context, self._address.endpoint)

    def _close_query(self) -> None:
        if self._query is not None:
            self._query.close()
        self._query = None

    def _explain_refusal(self) -> str:
        keys, reason = self._address.keys, self._reason
        if keys is None:
            return (
                "the service refuses clients without keys, or it is not a streamclf service; ask its operator for a "
                "key file (`streamclf keys`) and give that file in place of the endpoint"
            )
        if reason == _NOT_ALLOWED:
            return (
                f"the service does not know the key {keys.public.decode()}; copy the public file that belongs to "
                f"{keys.path} into its `publish.allow` directory"
            )
        if reason == _NO_KEYS:
            return f"the service does not use keys; give its endpoint instead of {keys.path}, or set its `publish.keys`"
        if reason == _OTHER_KEY:
            return (
                f"the service's key is not the one that {keys.path} was made for; ask for the service's public file "
                "again"
            )
        return (
            f"closed during the handshake: the service does not use keys (give its endpoint instead of {keys.path}), "
            "or its key is not the one that this file was made for (ask for the service's public file again), or it is "
            "not a streamclf service"
        )

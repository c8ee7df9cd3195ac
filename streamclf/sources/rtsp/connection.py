"""Connect with deadlines: TCP or TLS to a server, and the pair of UDP ports for its packets."""

from __future__ import annotations

import errno
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Container
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from streamclf.errors import SourceError
from streamclf.sources.rtsp.address import RtspAddress
from streamclf.sources.rtsp.framing import ReceivedPackets

if TYPE_CHECKING:
    import ssl

READ_BYTES = 1 << 16
POLL_S = 0.25
"""A stop request is noticed within this time, even if the server sends nothing."""
MAX_DATAGRAMS = 64
UDP_BUFFER_BYTES = 2 << 20
"""A key frame's burst must fit into the socket."""
PORT_TRIES = 32
"""Attempts to find two consecutive free UDP ports."""
Addresses = list[tuple[Any, ...]]
ResultT = TypeVar("ResultT")


_TLS_WAITS = {"SSLWantReadError": select.POLLIN, "SSLWantWriteError": select.POLLOUT}
"""The events after which an encrypted connection can go on."""


class StopRequestedError(Exception):
    """A stop was requested."""


class RtspConnection:
    """One TCP or TLS connection. Raises `OSError`, `TimeoutError` after a deadline, `StopRequestedError`."""

    def __init__(
        self, address: RtspAddress, *, context: ssl.SSLContext | None, deadline: float, stop: threading.Event
    ) -> None:
        """Connect until `deadline` (monotonic seconds)."""
        self._stop = stop
        self.holds_data = context is not None
        """Whether data may be available although polling the socket does not show it: TLS decrypts ahead."""
        self._socket = self._connected(address, deadline)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer: str = self._socket.getpeername()[0]
            self.local: str = self._socket.getsockname()[0]
            self.family = self._socket.family
            if context is not None:
                self._socket = context.wrap_socket(
                    self._socket, server_hostname=address.host, do_handshake_on_connect=False
                )
                self._until_done(self._socket.do_handshake, deadline)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the file descriptor for `select.poll`."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return the available data; None if there is none yet, empty at the end of the connection."""
        try:
            return self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if _tls_error_name(error) in _TLS_WAITS:
                return None
            if _tls_error_name(error) == "SSLEOFError":
                return b""
            raise

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._until_done(partial(self._socket.send, rest), deadline) :]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _until_done(self, step: Callable[[], ResultT], deadline: float) -> ResultT:
        while True:
            try:
                return step()
            except InterruptedError:  # noqa: PERF203 - it waits anyway
                self._wait(select.POLLIN, deadline)
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                if (event := _TLS_WAITS.get(_tls_error_name(error))) is None:
                    raise
                self._wait(event, deadline)

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket.fileno(), events)
        wait_ready(poll, deadline, self._stop)

    def _connected(self, address: RtspAddress, deadline: float) -> socket.socket:
        places = _resolve(address, deadline, self._stop)
        for i, (family, kind, protocol, _, place) in enumerate(places):
            now = time.monotonic()
            # Each address gets an equal share of the time, because the first may be unreachable.
            until = now + (deadline - now) / (len(places) - i)
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                self._socket = sock
                code = sock.connect_ex(place)
                if code == errno.EINPROGRESS:
                    self._wait(select.POLLOUT, until)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
            except OSError:
                sock.close()
                if i == len(places) - 1:
                    raise
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise OSError(errno.EADDRNOTAVAIL, "the host name has no address")


class UdpPair:
    """Two consecutive UDP ports, an even one for RTP and the next for RTCP. Accepts packets of the server only."""

    def __init__(self, connection: RtspConnection) -> None:
        self._peer = connection.peer
        self._ports: list[int | None] = [None, None]  # the server's ports, once it has sent from them
        self._declared: tuple[int, int] | None = None
        self._sockets = _bind_pair(connection.family, connection.local)

    @property
    def port(self) -> int:
        """The even port, for RTP."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    def set_peer_ports(self, ports: tuple[int, int]) -> None:
        """Set the ports that the server declares. Other ports of it are accepted until it sends from these."""
        self._declared = ports

    def filenos(self) -> tuple[int, int]:
        """Return the file descriptors of RTP and RTCP, for `select.poll`."""
        return self._sockets[0].fileno(), self._sockets[1].fileno()

    def receive(self, ready: Container[int]) -> list[ReceivedPackets]:
        """Return the packets at the sockets that are in `ready`, at most `MAX_DATAGRAMS` from each."""
        found: list[ReceivedPackets] = []
        for channel, sock in enumerate(self._sockets):
            packets: list[bytes] = []
            for _ in range(MAX_DATAGRAMS if sock.fileno() in ready else 0):
                try:
                    data, source = sock.recvfrom(READ_BYTES)
                except (BlockingIOError, InterruptedError):
                    break
                except ConnectionError:
                    continue  # the server's port is closed; the read time-out covers that
                if self._is_peer(channel, source):
                    packets.append(data)
            if packets:
                found.append(ReceivedPackets(channel, packets))
        return found

    def _is_peer(self, channel: int, source: Any) -> bool:
        if source[0] != self._peer:
            return False
        is_declared = self._declared is not None and source[1] == self._declared[channel]
        if is_declared or self._ports[channel] is None:
            self._ports[channel] = source[1]
        return bool(self._ports[channel] == source[1])

    def send(self, channel: int, data: bytes, port: int) -> None:
        """Send to the server's `port`. A packet that cannot be sent is lost, like any UDP packet may be."""
        try:
            self._sockets[channel].sendto(data, (self._peer, port))
        except OSError:
            return

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()


def wait_ready(poll: select.poll, deadline: float, stop: threading.Event) -> list[tuple[int, int]]:
    """Wait until a descriptor is ready and return all that are, as (descriptor, events).

    Raises `TimeoutError` at `deadline` and `StopRequestedError` when a stop is requested.
    """
    while True:
        if stop.is_set():
            raise StopRequestedError
        left_s = deadline - time.monotonic()
        if ready := poll.poll(max(0.0, min(left_s, POLL_S)) * 1000):
            return ready
        if left_s <= 0:
            raise TimeoutError


def _tls_error_name(error: OSError) -> str:
    """Return the name of an error of TLS, "" for another one. Without TLS, its module is not loaded."""
    return type(error).__name__ if type(error).__module__ == "ssl" else ""


def tls_context(tls_ca: str | None, *, verify: bool, shown: str) -> ssl.SSLContext:
    """Make a TLS context that trusts the PEM file `tls_ca`, else the system's certificates.

    Without `verify` it trusts every server.
    """
    import ssl  # 5 MB that a connection without TLS does not need

    if not verify:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context = ssl.create_default_context(cafile=tls_ca)
    except (OSError, ssl.SSLError) as error:
        detail = error.strerror if not isinstance(error, ssl.SSLError) else "no certificate in it"
        raise SourceError(f"{shown}: tls_ca {tls_ca}: cannot be read ({detail}); give a PEM file") from None
    # Cameras' own certificates lack fields that strict checks require. Trust one in `tls_ca` whoever signed it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls_ca is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _resolve(address: RtspAddress, deadline: float, stop: threading.Event) -> Addresses:
    """Return the host's addresses. A resolver has no deadline, so it runs in a thread, abandoned after ours."""
    kind = socket.SOCK_STREAM
    try:
        return list(socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_NUMERICHOST))
    except socket.gaierror:
        pass
    answer: queue.Queue[Addresses | OSError] = queue.Queue()

    def resolve() -> None:
        try:
            answer.put(list(socket.getaddrinfo(address.host, address.port, type=kind)))
        except (OSError, UnicodeError) as error:
            answer.put(error if isinstance(error, OSError) else socket.gaierror(str(error)))

    threading.Thread(target=resolve, name="resolve", daemon=True).start()
    while not stop.is_set():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            found = answer.get(timeout=min(left_s, POLL_S))
        except queue.Empty:
            continue
        if isinstance(found, OSError):
            raise found
        return found
    raise StopRequestedError


def _bind_pair(family: socket.AddressFamily, local: str) -> tuple[socket.socket, socket.socket]:
    for _ in range(PORT_TRIES):
        first, second = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
        try:
            first.bind((local, 0))
            port = first.getsockname()[1]
            if port % 2:
                first.close()
                first = socket.socket(family, socket.SOCK_DGRAM)
                port -= 1
                first.bind((local, port))
            second.bind((local, port + 1))
            for sock in (first, second):
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
        except OSError:
            first.close()
            second.close()
        else:
            return first, second
    raise OSError(errno.EADDRINUSE, "no two consecutive UDP ports are free")

"""Act as a hostile client on a raw socket: malformed ZMTP 3.0 (ZeroMQ RFC 23), too many messages, or silence."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

CONNECT_S = 10.0


def greeting(mechanism: bytes) -> bytes:
    """Build ZMTP's greeting for a security mechanism (NULL, PLAIN, CURVE)."""
    return b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + b"\0" * 32


def frame(body: bytes, flags: int = 0) -> bytes:
    """Build a ZMTP frame. Flags: 1 more frames follow, 4 command."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body


def ready(socket_type: bytes) -> bytes:
    """Build the READY command of the NULL mechanism."""
    return frame(b"\x05READY\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type, flags=4)


def connect(endpoint: str) -> socket.socket:
    """Connect to tcp://HOST:PORT, without a handshake."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)), timeout=CONNECT_S)


def connect_as_peer(endpoint: str, socket_type: bytes) -> socket.socket:
    """Connect and complete the handshake; libzmq refuses a peer that goes on before libzmq has sent its own READY."""
    peer = connect(endpoint)
    try:
        peer.sendall(greeting(b"NULL") + ready(socket_type))
        received = b""
        while b"Socket-Type" not in received:
            data = peer.recv(4096)
            if not data:
                raise ConnectionResetError("closed during the handshake")
            received += data
    except BaseException:
        peer.close()
        raise
    return peer


def receive_until_quiet(peer: socket.socket, quiet_s: float) -> bytes:
    """Receive until the other side closes the connection, or sends nothing for `quiet_s`."""
    peer.settimeout(quiet_s)
    received = b""
    with contextlib.suppress(OSError):
        while data := peer.recv(65536):
            received += data
    return received


def send_malformed_handshakes(endpoint: str, count: int) -> None:
    """Open `count` connections, each with one of several wrong handshakes."""
    kinds = (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(64),
        greeting(b"NULL")[:12] + os.urandom(60),
        greeting(b"CURVE") + frame(b"\x05HELLO" + os.urandom(194), flags=4),
        greeting(b"PLAIN") + frame(b"\x05HELLO\x05admin\x05admin", flags=4),
        greeting(b"NULL") + frame(b"\x05READY\xff" + os.urandom(40), flags=4),
    )
    for number in range(count):
        with contextlib.suppress(ConnectionError), connect(endpoint) as peer:
            peer.send(kinds[number % len(kinds)])


def announce_huge_frames(endpoint: str, count: int) -> None:
    """Announce a frame of 4 exabytes, `count` times during the handshake and `count` times after it."""
    huge = b"\x02" + (1 << 62).to_bytes(8, "big") + b"x" * 1000
    for number in range(count):
        with contextlib.suppress(ConnectionError), connect(endpoint) as peer:
            peer.send(greeting(b"NULL"))
            peer.send(b"\x06" + huge[1:])
        with contextlib.suppress(ConnectionError), connect_as_peer(endpoint, (b"SUB", b"DEALER")[number % 2]) as peer:
            peer.send(huge)


def send_subscriptions(endpoint: str, topics: Iterator[bytes], max_connections: int = 10_000) -> int:
    """Subscribe to all topics, with a new connection whenever one is closed; return the number of connections."""
    connections = 0
    left = next(topics, None)
    while left is not None and connections < max_connections:
        connections += 1
        with contextlib.suppress(OSError), connect_as_peer(endpoint, b"SUB") as peer:
            while left is not None:
                batch = [left]
                batch += [topic for topic, _ in zip(topics, range(499), strict=False)]
                left = next(topics, None)
                peer.sendall(b"".join(frame(b"\1" + topic) for topic in batch))
    return connections


class RecordingRelay:
    """A TCP relay in front of a service that records the bytes which the service sends."""

    def __init__(self, endpoint: str) -> None:
        self._target = endpoint
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.from_service = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> RecordingRelay:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(CONNECT_S)

    def _run(self) -> None:
        other: dict[socket.socket, socket.socket] = {}
        services: set[socket.socket] = set()
        while not self._stop.is_set():
            readable, _, _ = select.select([self._server, *other], [], [], 0.05)
            for ready_socket in readable:
                if ready_socket is self._server:
                    client, service = self._server.accept()[0], connect(self._target)
                    other[client], other[service] = service, client
                    services.add(service)
                elif ready_socket in other:
                    self._relay(ready_socket, other, ready_socket in services)
        for each in [self._server, *other]:
            each.close()

    def _relay(self, source: socket.socket, other: dict[socket.socket, socket.socket], is_service: bool) -> None:
        target = other[source]
        try:
            data = source.recv(65536)
            if is_service:
                self.from_service += data
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (source, target):
                other.pop(each)
                each.close()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def peak_resident_mb(pid: int) -> float:
    """Return the highest resident memory that a process ever had, in MB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6

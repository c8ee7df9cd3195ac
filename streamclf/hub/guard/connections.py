"""Find the TCP connections of libzmq's sockets, and read from the kernel how many bytes they carry. Linux only.

libzmq reports neither its connections nor the bytes that wait in them. The kernel knows both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket as sockets
import stat
import struct
import sys
import termios
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

INTERNET: Final = (sockets.AF_INET, sockets.AF_INET6)
HANDSHAKE_BYTES: Final = 90
"""Greeting and READY of the shortest kind: a connection that has sent fewer bytes is not a peer yet."""
NEW_S: Final = 3.0
"""A connection counts as new for this long: it may not have received anything yet."""
_STALLED_S: Final = 0.25
"""A peer that has confirmed none of the waiting bytes for this long does not read."""
_MIN_READ_PER_S: Final = 16
"""A peer that reads less than this gets nothing from the service; heartbeats alone are 200 bytes per second."""
_HEARTBEATS_PER_S: Final = 64
"""Bytes of one heartbeat per second with CURVE, and some more."""
_BYTES: Final = struct.Struct("@QQ")
_BYTES_AT: Final = 120
"""The offset of `tcpi_bytes_acked` and `tcpi_bytes_received` in `struct tcp_info` (linux/tcp.h)."""
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that does not wait until the data is sent."""
_DISCARDED_BYTES: Final = 16 * 1024
_MAX_DESCRIPTORS: Final = 65_536
"""Descriptors to try if the system does not list those that are open."""


@dataclass(slots=True)
class Connection:
    """One connection; the inode distinguishes it from a later connection with the same descriptor."""

    fd: int
    inode: int
    port: int = 0
    address: str = ""
    since_s: float = field(default_factory=time.monotonic)
    received: int = 0
    """Bytes received from the peer so far."""
    acknowledged: int = 0
    """Bytes that the peer's machine has confirmed so far."""
    queued: int = 0
    """Bytes in the kernel that the peer's machine has not confirmed yet."""
    read: int = 0
    """Bytes of the peer's messages that the service has read."""
    _progress_s: float = field(default_factory=time.monotonic)
    """When the peer last confirmed bytes, or nothing waited for it."""
    _read_upto: int = 0
    _marked_s: float = field(default_factory=time.monotonic)

    def mark_read(self, read: int, now_s: float) -> None:
        """Set how many bytes of the peer's messages were read so far, at least.

        Add the heartbeats that a client may send (ZMQ_HEARTBEAT_IVL), which libzmq reads itself.
        """
        more = read - self.read + int(_HEARTBEATS_PER_S * (now_s - self._marked_s))
        if more:
            self.read, self._marked_s = read, now_s
            self._read_upto = min(self.received, self._read_upto + more)

    @property
    def unread(self) -> int:
        """The bytes that may wait in libzmq's memory."""
        return self.received - self._read_upto

    def update(self) -> bool:
        """Read the counters again; return False if the connection is gone."""
        counters = read_counters(self.fd)
        if counters is None:
            return False
        before = self.acknowledged
        self.acknowledged, self.received = counters
        self.queued = queued_bytes(self.fd)
        if self.acknowledged != before or not self.queued:
            self._progress_s = time.monotonic()
        return True

    def usefulness(self, now_s: float) -> tuple[int, float, int]:
        """Return a key that sorts the connections which the service disconnects first to the front.

        First those that do not read, the newest first; then new ones; then the others, by what they read per second. So
        a subscriber that reads its events stays, and one that has just connected gets a chance.

        Of connections that one scan has found, the inode only suggests which is newer: each processor numbers its
        sockets from a range of its own (get_next_ino in Linux).
        """
        age_s = now_s - self.since_s
        per_s = self.acknowledged / max(age_s, NEW_S)
        if now_s - self._progress_s > _STALLED_S or (age_s > NEW_S and per_s < _MIN_READ_PER_S):
            return 0, -self.since_s, -self.inode
        return (2, per_s, 0) if age_s > NEW_S else (1, -self.since_s, -self.inode)


class ConnectionTable:
    """The connections to given local ports. `scan` finds new ones, and updates the counters of all."""

    def __init__(self, ports: Collection[int]) -> None:
        self._ports = frozenset(ports)
        self._known: dict[int, Connection | None] = {}
        """By inode; None for a socket of another kind. Without it, most of a scan would ask this again."""
        self._closing: set[int] = set()

    def scan(self) -> list[Connection]:
        """Return the connections, without those that are closing."""
        known: dict[int, Connection | None] = {}
        still_closing = set()
        for fd, inode in _open_sockets():
            if inode in self._closing:
                still_closing.add(inode)
                continue
            connection = self._known[inode] if inode in self._known else self._identify(fd, inode)
            if connection is not None:
                connection.fd = fd
                if not connection.update():
                    continue
            known[inode] = connection
        self._known, self._closing = known, still_closing
        return [connection for connection in known.values() if connection is not None]

    @property
    def closing(self) -> int:
        """The number of connections that were shut down and that libzmq has not closed yet."""
        return len(self._closing)

    def start_closing(self, connection: Connection) -> bool:
        """Leave a connection out of later scans; return False if it is gone already. The caller shuts it down."""
        if connection.inode in self._closing or inode_of(connection.fd) != connection.inode:
            return False
        self._closing.add(connection.inode)
        return True

    def find_listeners(self) -> list[int]:
        """Return the descriptors of the listening sockets."""
        found = []
        for fd, _ in _open_sockets():
            with contextlib.suppress(OSError), borrow_socket(fd) as listener:
                if self._is_local(listener) and listener.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN):
                    found.append(fd)
        return found

    def _identify(self, fd: int, inode: int) -> Connection | None:
        with contextlib.suppress(OSError), borrow_socket(fd) as connection:
            if self._is_local(connection):
                # getpeername raises for a listening socket.
                return Connection(fd, inode, connection.getsockname()[1], connection.getpeername()[0])
        return None

    def _is_local(self, socket: sockets.socket) -> bool:
        return socket.family in INTERNET and socket.getsockname()[1] in self._ports


@contextlib.contextmanager
def borrow_socket(fd: int) -> Iterator[sockets.socket]:
    """Wrap libzmq's descriptor `fd` in a Python socket for a moment. Raises `OSError` if it is not a socket."""
    # Do not duplicate the descriptor: there may be none left when this is needed most.
    connection = sockets.socket(fileno=fd)
    try:
        yield connection
    finally:
        connection.detach()


def shut_down(fd: int) -> None:
    """Shut down libzmq's connection `fd`, and discard the data that libzmq or its peer has not read yet."""
    try:
        # libzmq closes `fd` at once, and then the system gives the number to another connection.
        connection = sockets.socket(fileno=os.dup(fd))
    except OSError:  # no descriptor is left
        with contextlib.suppress(OSError), borrow_socket(fd) as borrowed:
            borrowed.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _LINGER_NONE)
            borrowed.shutdown(sockets.SHUT_RDWR)
        return
    with contextlib.suppress(OSError), connection:
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _LINGER_NONE)
        connection.shutdown(sockets.SHUT_RDWR)
        while connection.recv(_DISCARDED_BYTES, sockets.MSG_DONTWAIT | sockets.MSG_TRUNC):
            pass


def read_counters(fd: int) -> tuple[int, int] | None:
    """Return the bytes that the peer has confirmed, and those received from it; None if the system does not say."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError), borrow_socket(fd) as connection:
        info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        if len(info) >= _BYTES_AT + _BYTES.size:
            acknowledged, received = _BYTES.unpack_from(info, _BYTES_AT)
            return int(acknowledged), int(received)
    return None


def queued_bytes(fd: int) -> int:
    """Return the bytes in the kernel that the peer's machine has not confirmed yet; 0 if the connection is gone."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


def inode_of(fd: int) -> int | None:
    """Return the inode of a socket, or None if `fd` is not a socket."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None


def _open_sockets() -> Iterator[tuple[int, int]]:
    """Yield (descriptor, inode) of each socket of this process, in the order of descriptors."""
    for fd in _open_descriptors():
        inode = inode_of(fd)
        if inode is not None:
            yield fd, inode


def _open_descriptors() -> Iterable[int]:
    """Return the descriptors of this process in ascending order; some of them may be closed.

    A search that stops after many unused descriptors in a row would miss connections. libzmq goes on accepting while
    the guard disconnects others, so the new connections may lie above a gap of hundreds of descriptors.
    """
    try:
        return sorted(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - called often
    except OSError:
        # The list takes a descriptor. If none is left, all below the limit are open.
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MAX_DESCRIPTORS))

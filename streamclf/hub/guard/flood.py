"""Disconnect clients that flood the hub with subscriptions or open too many connections; runs in a thread. Linux only.

libzmq itself has no limit for either. It reads a connection's subscriptions for as long as more arrive, inside whatever
call the hub has made, and keeps 3 kB for each topic. So peers that never pause would fill the memory before the hub
could apply its own limits. And libzmq accepts connections until no descriptor is left. Then it aborts the process when
a producer connects over ipc:// (errno_assert in ipc_listener.cpp, version 4.3.5). So a thread checks how busy
the loop is, how many bytes each connection has sent lately (TCP_INFO of the kernel), and how many descriptors are free.

A hostile client cannot do harm without costing this process processor time. So the thread sleeps until the process has
used some (`streamclf.hub.guard.cpu_timer`). From then on it checks again and again until there is no flood.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import select
import socket as sockets
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from streamclf.hub.guard.cpu_timer import CpuTimer
from streamclf.hub.guard.peers import borrow_socket, shut_down

log = logging.getLogger(__name__)

INTERNET: Final = (sockets.AF_INET, sockets.AF_INET6)
TIMER_S: Final = 0.005
"""Processor time after which the thread checks: within it, a flood can bring 10 kB."""
MAX_SLEEP_S: Final = 5.0
"""Longest sleep, in case the timer does not expire."""
CHECK_S: Final = 0.01
"""Time to the next check while no flood is found."""
RECHECK_S: Final = 0.002
"""Time to the next check while a flood keeps the loop busy."""
BUSY_SHARE: Final = 0.3
"""Share of a processor, between two checks. Topics without a common prefix keep libzmq busier than this at 2 MB/s."""
WINDOW_S: Final = 0.2
MAX_WINDOW_BYTES: Final = 128 * 1024
"""Bytes that all connections together may send within `WINDOW_S`: 1,500 topics of the longest kind. After a restart of
the service, all its subscribers reconnect at once; a subscriber that is then disconnected is back within a second."""
MIN_FLOOD_BYTES: Final = MAX_WINDOW_BYTES // 16
"""With fewer bytes than this, the service's own producers keep the loop busy, and not its clients."""
SCAN_PAUSE: Final = 4
"""A scan of all connections, thousands at worst, is followed by a pause of this many times its duration."""
RESERVED_DESCRIPTORS: Final = (16, 1024)
"""Bounds for the number of descriptors to keep free; between them it is a quarter of the limit.

This is more than clients can take between two checks. They are for producers that reconnect, journal files and so on.
"""
REOPEN_FACTOR: Final = 1.25
"""New connections are accepted again when this many times the reserved descriptors are free."""
_HANDSHAKE_BYTES: Final = 90
"""Greeting and READY of the shortest kind: a connection that has sent fewer bytes is not a peer yet."""
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER (asm-generic/socket.h)."""
_DROP_ALL: Final = struct.pack("@HBBI", 6, 0, 0, 0)
"""The socket filter that lets nothing through: BPF_RET of 0 bytes."""
_UNUSED_AT_END: Final = 64
"""The system assigns the lowest free descriptor: after this many unused ones in a row, there are no more."""
_BYTES_RECEIVED: Final = struct.Struct("@Q")
_BYTES_RECEIVED_AT: Final = 128
"""The offset of `tcpi_bytes_received` in Linux's `struct tcp_info` (linux/tcp.h)."""


@dataclass(slots=True)
class _GuardedConnection:
    fd: int
    received_bytes: int


class FloodGuard:
    """A thread that guards the sockets bound to `ports`; the thread that makes it must be the one that drives them."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = frozenset(ports)
        self._stopped, self._stop = os.pipe()
        self._disconnected: dict[str, int] = {}
        """The number of connections that were shut down, by reason."""
        self._closing: set[int] = set()
        """The inodes of connections that were shut down and that libzmq has not closed yet."""
        self._known: dict[int, bool] = {}
        """By inode, whether a socket is a connection to a guarded port; without it, most of a scan asks this again."""
        self._listeners = self._find_listeners()
        self._is_accepting = True
        self._next_scan_s = 0.0
        self._start_window(self._scan())
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.Thread(target=self._run, name="flood-guard", daemon=True)
        self._thread.start()

    @classmethod
    def for_endpoints(cls, *endpoints: str) -> FloodGuard | None:
        """Guard the endpoints that are tcp://; return None if there are none, or if the system is not Linux."""
        ports = [endpoint.rpartition(":")[2] for endpoint in endpoints if endpoint.startswith("tcp://")]
        return cls(int(port) for port in ports) if sys.platform == "linux" and ports else None

    def close(self) -> None:
        """End the thread."""
        os.close(self._stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            os.close(self._stopped)

    def _run(self) -> None:
        stopped = select.poll()
        stopped.register(self._stopped, select.POLLIN)
        try:
            timer = CpuTimer(TIMER_S)
        except OSError as error:
            log.info("publish: checks for floods every %.0f ms (%s)", 1000 * CHECK_S, error)
            while not stopped.poll(1000 * CHECK_S):
                self._check_until_calm(stopped)
            return
        either = select.poll()
        either.register(self._stopped, select.POLLIN)
        either.register(timer, select.POLLIN)
        with contextlib.closing(timer):
            while not stopped.poll(0):
                either.poll(1000 * MAX_SLEEP_S)
                timer.clear()
                self._check_until_calm(stopped)

    def _check_until_calm(self, stopped: select.poll) -> None:
        """Check again and again until no flood keeps the loop busy and enough descriptors are left."""
        self._keep_descriptors_free()
        pause_s, is_flooded = CHECK_S, False
        while True:
            at_s, used_s = time.monotonic(), self._used_s()
            if stopped.poll(1000 * pause_s):
                return
            self._keep_descriptors_free()
            now_s = time.monotonic()
            is_busy = self._used_s() - used_s >= BUSY_SHARE * (now_s - at_s)
            may_scan = now_s >= self._next_scan_s
            if may_scan:
                is_flooded = is_busy and self._end_flood()
                if now_s - self._window_start_s >= WINDOW_S:
                    self._start_window(self._scan())
            pause_s = RECHECK_S if is_flooded else CHECK_S
            if not is_flooded and self._is_accepting and (may_scan or not is_busy):
                return

    def _used_s(self) -> float:
        return time.clock_gettime(self._clock)

    def _start_window(self, connections: dict[int, _GuardedConnection]) -> None:
        """Count the bytes that connections send from now on."""
        self._window_start, self._window_start_s = connections, time.monotonic()

    def _end_flood(self) -> bool:
        """Disconnect the connections that sent most, if all together have sent more than allowed in this window.

        Return whether clients, and not the service's own producers, keep the loop busy.
        """
        connections = self._scan()
        none = _GuardedConnection(-1, 0)
        sent = {
            inode: each.received_bytes - self._window_start.get(inode, none).received_bytes
            for inode, each in connections.items()
        }
        total = sum(sent.values())
        if total <= MAX_WINDOW_BYTES:
            return total > MIN_FLOOD_BYTES
        for inode in sorted(sent, key=lambda inode: -sent[inode]):
            if total <= MAX_WINDOW_BYTES:
                break
            total -= sent[inode]
            self._disconnect(
                connections[inode].fd, inode, f"more than {MAX_WINDOW_BYTES} bytes of subscriptions at once"
            )
        self._start_window(connections)
        return True

    def _keep_descriptors_free(self) -> None:
        free, reserved = _descriptors()
        if free < reserved:
            self._stop_accepting()
            self._disconnect_newest(reserved - free)
        elif not self._is_accepting and free >= REOPEN_FACTOR * reserved:
            self._resume_accepting()

    def _disconnect_newest(self, count: int) -> None:
        """Disconnect `count` connections: first those without a handshake, then the newest."""
        connections = self._scan()
        newest = sorted(connections, key=lambda inode: (connections[inode].received_bytes >= _HANDSHAKE_BYTES, -inode))
        for inode in newest[: max(0, count - len(self._closing))]:
            self._disconnect(connections[inode].fd, inode, "too few descriptors were left (ulimit -n)")

    def _stop_accepting(self) -> None:
        """Drop the SYN packets of new connections; their TCP repeats them until connections are accepted again.

        Disconnecting alone is not enough, because libzmq accepts connections faster than it closes them.
        """
        if not self._is_accepting:
            return
        self._is_accepting = False
        program = ctypes.create_string_buffer(_DROP_ALL)
        filter_ = struct.pack("@HP", 1, ctypes.addressof(program))
        for fd in self._listeners:
            with contextlib.suppress(OSError), borrow_socket(fd) as listener:
                listener.setsockopt(sockets.SOL_SOCKET, _ATTACH_FILTER, filter_)

    def _resume_accepting(self) -> None:
        self._is_accepting = True
        for fd in self._listeners:
            with contextlib.suppress(OSError), borrow_socket(fd) as listener:
                listener.setsockopt(sockets.SOL_SOCKET, _DETACH_FILTER, 0)

    def _find_listeners(self) -> list[int]:
        """Find the listening descriptors in advance: there is no time for it when descriptors run out."""
        found = []
        for fd, _ in _open_sockets():
            with contextlib.suppress(OSError), borrow_socket(fd) as listener:
                if self._is_guarded(listener) and listener.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN):
                    found.append(fd)
        return found

    def _scan(self) -> dict[int, _GuardedConnection]:
        """Return the connections to the guarded ports by inode, without connections that are closing."""
        began_s = time.monotonic()
        found: dict[int, _GuardedConnection] = {}
        still_closing = set()
        known: dict[int, bool] = {}
        for fd, inode in _open_sockets():
            if inode in self._closing:
                still_closing.add(inode)
                continue
            known[inode] = self._known[inode] if inode in self._known else self._is_guarded_connection(fd)
            if known[inode] and (received := _received_bytes(fd)) is not None:
                found[inode] = _GuardedConnection(fd, received)
        self._closing, self._known = still_closing, known
        now_s = time.monotonic()
        self._next_scan_s = now_s + SCAN_PAUSE * (now_s - began_s)
        return found

    def _is_guarded(self, socket: sockets.socket) -> bool:
        return socket.family in INTERNET and socket.getsockname()[1] in self._ports

    def _is_guarded_connection(self, fd: int) -> bool:
        with contextlib.suppress(OSError), borrow_socket(fd) as connection:
            if self._is_guarded(connection):
                connection.getpeername()  # raises for a listening socket
                return True
        return False

    def _disconnect(self, fd: int, inode: int, why: str) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_ino != inode:
                return
            shut_down(fd)
            self._closing.add(inode)
            count = self._disconnected[why] = self._disconnected.get(why, 0) + 1
            if count <= 10 or count % 1000 == 0:
                log.warning("publish: disconnected a peer (%d so far): %s", count, why)


def _received_bytes(fd: int) -> int | None:
    """Return the bytes received so far over a TCP connection; None if the system does not report it."""
    with contextlib.suppress(OSError), borrow_socket(fd) as connection:
        info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        if len(info) >= _BYTES_RECEIVED_AT + _BYTES_RECEIVED.size:
            return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0])
    return None


def _open_sockets() -> Iterator[tuple[int, int]]:
    """Yield (descriptor, inode) of each socket of this process."""
    fd = unused = 0
    while unused < _UNUSED_AT_END:
        try:
            status = os.fstat(fd)
        except OSError:
            unused += 1
        else:
            unused = 0
            if stat.S_ISSOCK(status.st_mode):
                yield fd, status.st_ino
        fd += 1


def _descriptors() -> tuple[int, int]:
    """Return how many descriptors are free, at least, and how many should be free.

    The system assigns the lowest free descriptor, so at least those above a new one are free.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least, most = RESERVED_DESCRIPTORS
    reserved = max(least, min(limit // 4, most))
    try:
        newest = os.dup(0)
    except OSError:
        return 0, reserved
    os.close(newest)
    return limit - newest, reserved

"""Shows the door to connections that pour or crowd, from beside: libzmq has no limit of its own for either.

libzmq takes in what a connection subscribes to for as long as more comes, inside whatever call happens to be under way,
and keeps 3 kB for a topic: peers that never pause would fill the memory before the hub's own limits are asked. And it
accepts connections until no descriptor is left; then it aborts the process when a producer comes over ipc://
(errno_assert in ipc_listener.cpp, version 4.3.5). So a thread looks how busy the loop is and which connections have
brought how much lately, which the kernel knows (TCP_INFO), and how many descriptors are left. Linux only.

No stranger can do harm without costing this process processor time. So the thread sleeps until some of that was used
(`streamclf.hub.guard.cpu_timer`), and looks again and again from then until all is calm.
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

from streamclf.hub.guard.cpu_timer import CpuAlarm
from streamclf.hub.guard.peers import borrowed, hang_up

log = logging.getLogger(__name__)

INTERNET: Final = (sockets.AF_INET, sockets.AF_INET6)
ALARM_S: Final = 0.005
"""Of processor time, after which there is a look: who pours can bring 10 kB with that."""
SLEEP_S: Final = 5.0
"""At most, should an alarm not come."""
LOOK_S: Final = 0.01
AGAIN_S: Final = 0.002
"""To the next look at a loop that strangers keep busy."""
BUSY: Final = 0.3
"""Of a processor, from look to look: topics that share no beginning keep libzmq busier than that at 2 MB/s."""
WINDOW_S: Final = 0.2
ALLOWED_BYTES: Final = 128 * 1024
"""From all connections together within `WINDOW_S`: 1,500 topics of the longest kind. When a service comes back, so do
all its subscribers at once; those who are cut then are in within a second."""
TRICKLE_BYTES: Final = ALLOWED_BYTES // 16
LEISURE: Final = 4
"""Times as long as it took to look at all connections, which are thousands at worst, nobody is looked at."""
SPARE: Final = (16, 1024)
"""Descriptors that are kept free, a quarter of all between these: more than can be taken from one look to the next, for
producers that come back, journal files and the like."""
_HANDSHAKE_BYTES: Final = 90
"""Greeting and READY of the shortest kind: who has brought less is not a peer yet."""
REOPEN: Final = 1.25
"""Times as many free ones let newcomers in again."""
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER (asm-generic/socket.h)."""
_NOTHING: Final = struct.pack("@HBBI", 6, 0, 0, 0)
"""The socket filter that lets nothing through: BPF_RET of 0 bytes."""
_GAP: Final = 64
"""Descriptors are given out from below: after so many unused ones in a row there are no more."""
_RECEIVED: Final = struct.Struct("@Q")
_RECEIVED_AT: Final = 128
"""Where Linux's `struct tcp_info` has `tcpi_bytes_received` (linux/tcp.h)."""


@dataclass(slots=True)
class _Heard:
    fd: int
    total: int


class FloodGuard:
    """A thread beside the one that makes it, which is to drive the sockets bound to `ports` for as long."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = frozenset(ports)
        self._stopped, self._stop = os.pipe()
        self._shown: dict[str, int] = {}
        """Connections that were shut down, by what for."""
        self._leaving: set[int] = set()
        """Of these, whose descriptors libzmq has still to close."""
        self._ours: dict[int, bool] = {}
        """By inode, which sockets are connections to one of our ports: most of a look went into asking again."""
        self._doors = self._find_doors()
        self._closed = False
        self._rested_s = 0.0
        self._remember(self._connections())
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.Thread(target=self._run, name="bouncer", daemon=True)
        self._thread.start()

    @classmethod
    def at(cls, *endpoints: str) -> FloodGuard | None:
        """For those endpoints that are tcp://, where this system can tell what a connection has brought."""
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
            alarm = CpuAlarm(ALARM_S)
        except OSError as error:
            log.info("publish: looks for floods every %.0f ms (%s)", 1000 * LOOK_S, error)
            while not stopped.poll(1000 * LOOK_S):
                self._attend(stopped)
            return
        either = select.poll()
        either.register(self._stopped, select.POLLIN)
        either.register(alarm, select.POLLIN)
        with contextlib.closing(alarm):
            while not stopped.poll(0):
                either.poll(1000 * SLEEP_S)
                alarm.take()
                self._attend(stopped)

    def _attend(self, stopped: select.poll) -> None:
        """Look again and again until nobody keeps the loop busy with topics and enough descriptors are left."""
        self._keep_room()
        pause_s, is_pouring = LOOK_S, False
        while True:
            at_s, used_s = time.monotonic(), self._used_s()
            if stopped.poll(1000 * pause_s):
                return
            self._keep_room()
            now_s = time.monotonic()
            is_busy = self._used_s() - used_s >= BUSY * (now_s - at_s)
            may_look = now_s >= self._rested_s
            if may_look:
                is_pouring = is_busy and self._end_pouring()
                if now_s - self._before_s >= WINDOW_S:
                    self._remember(self._connections())
            pause_s = AGAIN_S if is_pouring else LOOK_S
            if not is_pouring and not self._closed and (may_look or not is_busy):
                return

    def _remember(self, now: dict[int, _Heard]) -> None:
        """What to compare with from now on."""
        self._before, self._before_s = now, time.monotonic()

    def _keep_room(self) -> None:
        left, spare = _descriptors()
        if left < spare:
            self._close_doors()
            self._make_room(spare - left)
        elif self._closed and left >= REOPEN * spare:
            self._open_doors()

    def _used_s(self) -> float:
        return time.clock_gettime(self._clock)

    def _end_pouring(self) -> bool:
        """If more came than is allowed, disconnect those who brought most until what the others brought is little.

        Whether so much came that it is they who keep the loop busy, and not our own producers.
        """
        now = self._connections()
        none = _Heard(-1, 0)
        brought = {inode: heard.total - self._before.get(inode, none).total for inode, heard in now.items()}
        left = sum(brought.values())
        if left <= ALLOWED_BYTES:
            return left > TRICKLE_BYTES
        for inode in sorted(brought, key=lambda inode: -brought[inode]):
            if left <= ALLOWED_BYTES:
                break
            left -= brought[inode]
            self._show_out(now[inode].fd, inode, f"more than {ALLOWED_BYTES} bytes of subscriptions at once")
        self._remember(now)
        return True

    def _close_doors(self) -> None:
        """Newcomers wait from now on, without a word from us: their SYN is dropped, and TCP repeats it.

        To hang up alone is not enough, because libzmq accepts faster than it closes.
        """
        if self._closed:
            return
        self._closed = True
        program = ctypes.create_string_buffer(_NOTHING)
        how = struct.pack("@HP", 1, ctypes.addressof(program))
        for fd in self._doors:
            with contextlib.suppress(OSError), borrowed(fd) as door:
                door.setsockopt(sockets.SOL_SOCKET, _ATTACH_FILTER, how)

    def _open_doors(self) -> None:
        self._closed = False
        for fd in self._doors:
            with contextlib.suppress(OSError), borrowed(fd) as door:
                door.setsockopt(sockets.SOL_SOCKET, _DETACH_FILTER, 0)

    def _find_doors(self) -> list[int]:
        """Beforehand: when they have to be closed, there is no time to look for them."""
        found = []
        for fd, _ in _open_sockets():
            with contextlib.suppress(OSError), borrowed(fd) as door:
                if self._is_ours(door) and door.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN):
                    found.append(fd)
        return found

    def _make_room(self, wanted: int) -> None:
        """Disconnect so many: first who has not said who he is, then who came last."""
        now = self._connections()
        newest = sorted(now, key=lambda inode: (now[inode].total >= _HANDSHAKE_BYTES, -inode))
        for inode in newest[: max(0, wanted - len(self._leaving))]:
            self._show_out(now[inode].fd, inode, "too few descriptors were left (ulimit -n)")

    def _connections(self) -> dict[int, _Heard]:
        """Those that are not leaving."""
        began_s = time.monotonic()
        found: dict[int, _Heard] = {}
        still_leaving = set()
        ours: dict[int, bool] = {}
        for fd, inode in _open_sockets():
            if inode in self._leaving:
                still_leaving.add(inode)
                continue
            ours[inode] = self._ours[inode] if inode in self._ours else self._is_connection(fd)
            if ours[inode] and (total := _received(fd)) is not None:
                found[inode] = _Heard(fd, total)
        self._leaving, self._ours = still_leaving, ours
        now_s = time.monotonic()
        self._rested_s = now_s + LEISURE * (now_s - began_s)
        return found

    def _is_ours(self, socket: sockets.socket) -> bool:
        return socket.family in INTERNET and socket.getsockname()[1] in self._ports

    def _is_connection(self, fd: int) -> bool:
        """Whether it leads to one of our ports."""
        with contextlib.suppress(OSError), borrowed(fd) as connection:
            if self._is_ours(connection):
                connection.getpeername()  # raises for one that listens
                return True
        return False

    def _show_out(self, fd: int, inode: int, why: str) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_ino != inode:
                return
            hang_up(fd)
            self._leaving.add(inode)
            count = self._shown[why] = self._shown.get(why, 0) + 1
            if count <= 10 or count % 1000 == 0:
                log.warning("publish: disconnected a peer (%d so far): %s", count, why)


def _received(fd: int) -> int | None:
    """Bytes so far over a TCP connection; None where this is not known."""
    with contextlib.suppress(OSError), borrowed(fd) as connection:
        info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        if len(info) >= _RECEIVED_AT + _RECEIVED.size:
            return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0])
    return None


def _open_sockets() -> Iterator[tuple[int, int]]:
    """(descriptor, inode)"""
    fd = unused = 0
    while unused < _GAP:
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
    """How many are left at least, since they are given out from below, and how many should be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least, enough = SPARE
    spare = max(least, min(most // 4, enough))
    try:
        newest = os.dup(0)
    except OSError:
        return 0, spare
    os.close(newest)
    return most - newest, spare

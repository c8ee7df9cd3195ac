"""Who pours subscriptions into libzmq faster than we can look at them is disconnected from beside.

libzmq takes in what one connection subscribes to for as long as more comes, inside whatever call happens to be under
way, and keeps 3 kB for a topic: a peer that never pauses would fill the memory before our own limits are asked. So a
thread looks whether the loop that drives the socket has been computing inside one turn for too long, and if so, which
connections have brought how much meanwhile; the kernel knows (TCP_INFO, Linux).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import stat
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from streamclf.peers import borrowed, hang_up

log = logging.getLogger(__name__)

INTERNET: Final = (sockets.AF_INET, sockets.AF_INET6)
LOOK_S: Final = 0.01
STUCK_S: Final = 0.004
"""Of processor time in one turn: a turn without such peers takes less than a millisecond."""
ALLOWED_BYTES: Final = 16 * 1024
"""From all connections together between two looks: some 200 topics of the longest kind."""
_GAP: Final = 64
"""Descriptors are given out from below: after so many unused ones in a row there are no more."""
_RECEIVED: Final = struct.Struct("@Q")
_RECEIVED_AT: Final = 128
"""Where Linux's `struct tcp_info` has `tcpi_bytes_received` (linux/tcp.h)."""


@dataclass(slots=True)
class _Heard:
    fd: int
    total: int


class DelugeWatch:
    """A thread beside the loop that drives a socket bound to `port`; `turn` is to be called by that loop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._turns = 0
        self._stop = threading.Event()
        self.cuts = 0
        """Connections that were shut down."""
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.Thread(target=self._run, name="deluge", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, endpoint: str) -> DelugeWatch | None:
        """For a bound tcp:// endpoint, where this system can tell what a connection has brought."""
        port = endpoint.rpartition(":")[2]
        works = sys.platform == "linux" and endpoint.startswith("tcp://") and port.isdigit()
        return cls(int(port)) if works else None

    def turn(self) -> None:
        """The loop has come round: nothing holds it."""
        self._turns += 1

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        before: dict[int, _Heard] = {}
        turns, used_s = self._turns, self._used_s()
        while not self._stop.wait(LOOK_S):
            now_s = self._used_s()
            if self._turns == turns and now_s - used_s >= STUCK_S:
                before = self._look(before)
            elif before and self._turns != turns:
                before = {}
            if self._turns != turns or now_s - used_s >= STUCK_S:
                turns, used_s = self._turns, now_s

    def _used_s(self) -> float:
        return time.clock_gettime(self._clock)

    def _look(self, before: dict[int, _Heard]) -> dict[int, _Heard]:
        """Disconnect those who bring most until what the others brought since the last look is little."""
        now = self._connections()
        if not before:
            return now
        none = _Heard(-1, 0)
        brought = {inode: heard.total - before.get(inode, none).total for inode, heard in now.items()}
        left = sum(brought.values())
        for inode in sorted(brought, key=lambda inode: -brought[inode]):
            if left <= ALLOWED_BYTES:
                break
            left -= brought[inode]
            self._cut(now[inode].fd, inode, brought[inode])
        return now

    def _connections(self) -> dict[int, _Heard]:
        found: dict[int, _Heard] = {}
        fd = unused = 0
        while unused < _GAP:
            try:
                status = os.fstat(fd)
            except OSError:
                unused += 1
            else:
                unused = 0
                if stat.S_ISSOCK(status.st_mode) and (total := self._received(fd)) is not None:
                    found[status.st_ino] = _Heard(fd, total)
            fd += 1
        return found

    def _received(self, fd: int) -> int | None:
        """Bytes so far over a connection to our port; None for any other socket."""
        with contextlib.suppress(OSError), borrowed(fd) as connection:
            if connection.family in INTERNET and connection.getsockname()[1] == self._port:
                info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
                if len(info) >= _RECEIVED_AT + _RECEIVED.size:
                    return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0])
        return None

    def _cut(self, fd: int, inode: int, brought: int) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_ino != inode:
                return
            hang_up(fd)
            self.cuts += 1
            if self.cuts <= 10 or self.cuts % 1000 == 0:
                log.warning(
                    "publish.events: disconnected a peer (%d so far): %d bytes of subscriptions without a pause",
                    self.cuts,
                    brought,
                )

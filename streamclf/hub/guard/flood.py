"""Disconnect clients that make the hub hold too many bytes, topics or connections; runs in a thread. Linux only.

libzmq limits messages, and not bytes. It collects the frames of one message without a limit until the last frame
arrives. It reads a connection's subscriptions for as long as more arrive, inside whatever call the hub has made, and
keeps 3 kB for each topic. And it accepts connections until no descriptor is left. Then it aborts the process when a
producer connects over ipc:// (errno_assert in ipc_listener.cpp, version 4.3.5). So a thread limits, in bytes and for
all connections together:

- the bytes that a peer has sent and the service has not read;
- the subscriptions that keep the hub's loop busy;
- the bytes that wait in the kernel for peers to read them;
- the number of connections, also per address, and the descriptors that they use;
- the memory of the process, whatever else fills it.

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
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from streamclf.hub.guard.connections import HANDSHAKE_BYTES, Connection, ConnectionTable, borrow_socket, shut_down
from streamclf.hub.guard.cpu_timer import CpuTimer
from streamclf.hub.guard.memory import resident_bytes

log = logging.getLogger(__name__)

TIMER_S: Final = 0.005
"""Processor time after which the thread checks."""
MAX_SLEEP_S: Final = 5.0
"""Longest sleep, in case the timer does not expire."""
CHECK_S: Final = 0.01
"""Time to the next check while no flood is found."""
RECHECK_S: Final = 0.002
"""Time to the next check while there is a flood."""
MAX_UNREAD_BYTES: Final = 128 * 1024
"""Bytes that one peer may have sent and the service has not read: two requests of the longest kind, or
all subscriptions that it may send. An empty frame of 2 bytes takes 64 bytes in libzmq."""
MAX_UNREAD_BYTES_IN_ALL: Final = 512 * 1024
BUSY_SHARE: Final = 0.3
"""Share of a processor, between two checks. Topics without a common prefix keep libzmq busier than this at 2 MB/s."""
WINDOW_S: Final = 0.2
MAX_WINDOW_BYTES: Final = 128 * 1024
"""Bytes that all subscribers together may send within `WINDOW_S` if they keep the hub's loop busy: 1,500 topics of the
longest kind. After a restart of the service, all its subscribers reconnect at once; a subscriber that is then
disconnected is back within a second."""
MIN_FLOOD_BYTES: Final = MAX_WINDOW_BYTES // 16
"""With fewer bytes than this, the service's own producers keep the loop busy, and not its clients."""
MAX_QUEUED_BYTES_IN_ALL: Final = 16 * 1024 * 1024
"""Bytes that may wait in the kernel for all peers; `streamclf.hub.publisher` limits them for one peer."""
MAX_CONNECTIONS: Final = 512
MAX_CONNECTIONS_PER_ADDRESS: Final = 256
MAX_GROWTH_BYTES: Final = 128 * 1024 * 1024
"""Memory that the process may use above its memory at the start. Only a slow attack below all other limits uses it."""
GROWTH_PAUSE_S: Final = 0.5
"""Time for libzmq to release the memory of disconnected peers, before more of them are disconnected."""
_MIN_HELD_BYTES: Final = 4096
SCAN_PAUSE: Final = 4
"""A scan of all connections, hundreds at worst, is followed by a pause of this many times its duration."""
RESERVED_DESCRIPTORS: Final = (16, 1024)
"""Bounds for the number of descriptors to keep free; between them it is a quarter of the limit.

This is more than clients can take between two checks. They are for producers that reconnect, journal files and so on.
"""
REOPEN_FACTOR: Final = 1.25
"""New connections are accepted again when this many times the reserved descriptors are free."""
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER (asm-generic/socket.h)."""
_DROP_ALL: Final = struct.pack("@HBBI", 6, 0, 0, 0)
"""The socket filter that lets nothing through: BPF_RET of 0 bytes."""


class FloodGuard:
    """A thread that guards the sockets bound to `ports`; the thread that makes it must be the one that drives them."""

    def __init__(
        self,
        ports: Iterable[int],
        *,
        events_port: int | None = None,
        bytes_read: Callable[[int], int] = lambda inode: 0,
    ) -> None:
        """Start the thread.

        Subscriptions arrive at `events_port`. `bytes_read` returns how many bytes of a connection's messages the
        service has read; the connection is given by its inode.
        """
        self._table = ConnectionTable(tuple(ports))
        self._table.scan()  # connections that exist already are older than those of the next scan
        self._events_port, self._bytes_read = events_port, bytes_read
        self._stopped, self._stop = os.pipe()
        self._disconnected: dict[str, int] = {}
        """The number of connections that were shut down, by reason."""
        self._listeners = self._table.find_listeners()
        self._is_accepting, self._is_too_large = True, False
        self._next_scan_s = self._may_grow_s = 0.0
        self._marks: tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]] = ({}, {})
        """Bytes received from and confirmed by each connection, at the start of the last window and of this one."""
        self._marked_s = 0.0
        self._start_bytes = resident_bytes()
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.Thread(target=self._run, name="flood-guard", daemon=True)
        self._thread.start()

    @classmethod
    def for_endpoints(
        cls, events: str, *others: str, bytes_read: Callable[[int], int] = lambda inode: 0
    ) -> FloodGuard | None:
        """Guard the endpoints that are tcp://; return None if there are none, or if the system is not Linux."""
        ports = [_port(endpoint) for endpoint in (events, *others)]
        guarded = [port for port in ports if port is not None]
        if sys.platform != "linux" or not guarded:
            return None
        return cls(guarded, events_port=ports[0], bytes_read=bytes_read)

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
        """Check again and again until there is no flood and enough descriptors are left."""
        pause_s, is_busy = 0.0, False
        at_s, used_s = time.monotonic(), self._used_s()
        is_calm = False
        while not stopped.poll(1000 * pause_s):
            self._keep_descriptors_free()
            now_s = time.monotonic()
            if pause_s:
                is_busy = self._used_s() - used_s >= BUSY_SHARE * (now_s - at_s)
                if is_calm and not is_busy and self._is_accepting:
                    return
            at_s, used_s = now_s, self._used_s()
            if now_s >= self._next_scan_s:
                is_calm = not self._end_flood(is_busy)
                if pause_s and is_calm and self._is_accepting:
                    return
            pause_s = CHECK_S if is_calm else RECHECK_S

    def _used_s(self) -> float:
        return time.clock_gettime(self._clock)

    def _end_flood(self, is_busy: bool) -> bool:
        """Disconnect the connections that hold too much; return whether there is a flood."""
        began_s = time.monotonic()
        connections = self._table.scan()
        now_s = time.monotonic()
        self._next_scan_s = now_s + SCAN_PAUSE * (now_s - began_s)
        for each in connections:
            each.mark_read(self._bytes_read(each.inode), now_s)
        unread = {each.inode: each.unread for each in connections}
        is_flooded = self._limit(
            connections, MAX_UNREAD_BYTES_IN_ALL, MAX_UNREAD_BYTES, unread,
            sorted(connections, key=lambda each: -unread[each.inode]),
            "it sent too many bytes that are no complete message",
        )  # fmt: skip
        is_flooded |= is_busy and self._limit_subscriptions(connections)
        self._limit_queues(connections)
        self._limit_number(connections, now_s)
        self._limit_memory(connections, unread, now_s)
        if now_s - self._marked_s >= WINDOW_S:
            self._marks = self._marks[1], {each.inode: (each.received, each.acknowledged) for each in connections}
            self._marked_s = now_s
        return is_flooded

    def _limit(
        self, connections: Sequence[Connection], most: int, most_each: int, held: dict[int, int],
        order: Sequence[Connection], why: str,
    ) -> bool:  # fmt: skip
        """Disconnect who holds more than `most_each`, and then in `order` until the rest hold `most` in all.

        Return whether they held more than a quarter of that.
        """
        total = sum(held[each.inode] for each in connections)
        is_flooded = total > most // 4
        for each in order:
            if total > most or held[each.inode] > most_each:
                total -= held[each.inode]
                self._disconnect(each, why)
        return is_flooded

    def _limit_subscriptions(self, connections: Sequence[Connection]) -> bool:
        subscribers = [each for each in connections if each.port == self._events_port]
        sent = {each.inode: each.received - self._marks[1].get(each.inode, (0, 0))[0] for each in subscribers}
        total = sum(sent.values())
        if total > MAX_WINDOW_BYTES:
            order = sorted(subscribers, key=lambda each: -sent[each.inode])
            why = f"more than {MAX_WINDOW_BYTES} bytes of subscriptions at once"
            self._limit(subscribers, MAX_WINDOW_BYTES, MAX_WINDOW_BYTES, sent, order, why)
            self._marked_s = 0.0
        return total > MIN_FLOOD_BYTES

    def _limit_queues(self, connections: Sequence[Connection]) -> None:
        held = {each.inode: each.queued for each in connections}
        read = {each.inode: each.acknowledged - self._marks[0].get(each.inode, (0, 0))[1] for each in connections}
        order = sorted(connections, key=lambda each: (read[each.inode], -each.queued))
        self._limit(connections, MAX_QUEUED_BYTES_IN_ALL, MAX_QUEUED_BYTES_IN_ALL, held, order, "it does not read")

    def _limit_number(self, connections: Sequence[Connection], now_s: float) -> None:
        excess = len(connections) - MAX_CONNECTIONS
        per_address = Counter(each.address for each in connections)
        if excess <= 0 and max(per_address.values(), default=0) <= MAX_CONNECTIONS_PER_ADDRESS:
            return
        for each in _least_useful(connections, now_s):
            if excess > 0 or per_address[each.address] > MAX_CONNECTIONS_PER_ADDRESS:
                excess -= 1
                per_address[each.address] -= 1
                self._disconnect(
                    each, f"more than {MAX_CONNECTIONS} connections, or {MAX_CONNECTIONS_PER_ADDRESS} of one address"
                )

    def _limit_memory(self, connections: Sequence[Connection], unread: dict[int, int], now_s: float) -> None:
        growth = resident_bytes() - self._start_bytes
        self._is_too_large = growth > MAX_GROWTH_BYTES * (3 / 4 if self._is_too_large else 1)
        if self._is_too_large:
            # Complete messages of a peer stay in memory until they are read, even if the peer is gone.
            self._stop_accepting()
        if now_s < self._may_grow_s or growth <= MAX_GROWTH_BYTES:
            return
        self._may_grow_s = now_s + GROWTH_PAUSE_S
        held = {each.inode: (each.queued + unread[each.inode]) // _MIN_HELD_BYTES for each in connections}
        order = sorted(connections, key=lambda each: (-held[each.inode], each.usefulness(now_s)))
        is_urgent = growth > 2 * MAX_GROWTH_BYTES
        for each in order[: 1 + len(order) // 10]:
            # The peers that have filled the memory may be gone, so spare those that hold nothing.
            if is_urgent or held[each.inode]:
                self._disconnect(each, f"the hub uses {MAX_GROWTH_BYTES >> 20} MiB more than at its start")

    def _keep_descriptors_free(self) -> None:
        free, reserved = _descriptors()
        if free < reserved:
            self._stop_accepting()
            connections = self._table.scan()
            count = max(0, reserved - free - self._table.closing)
            for each in _least_useful(connections, time.monotonic())[:count]:
                self._disconnect(each, "too few descriptors were left (ulimit -n)")
        elif not self._is_accepting and not self._is_too_large and free >= REOPEN_FACTOR * reserved:
            self._resume_accepting()

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

    def _disconnect(self, connection: Connection, why: str) -> None:
        if self._table.start_closing(connection):
            shut_down(connection.fd)
            count = self._disconnected[why] = self._disconnected.get(why, 0) + 1
            if count <= 10 or count % 1000 == 0:
                log.warning("publish: disconnected a peer (%d so far): %s", count, why)


def _least_useful(connections: Iterable[Connection], now_s: float) -> list[Connection]:
    """Sort connections: without a handshake, without a message, then by usefulness."""
    return sorted(
        connections,
        key=lambda each: (each.received >= HANDSHAKE_BYTES, each.read > 0, each.usefulness(now_s)),
    )


def _port(endpoint: str) -> int | None:
    return int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp://") else None


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

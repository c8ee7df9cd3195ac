"""Restore the order in which packets were sent, and count lost packets. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import NamedTuple

from streamclf.sources.rtsp.rtp import PacketRun, distance

MAX_WAITING = 1024
"""Packets that wait behind a missing one: 1.5 MB, more than a key frame."""
MAX_DROPOUT = 3000
MAX_MISORDER = 100
"""A sequence number further ahead, or behind, means that the sender has restarted (RFC 3550, appendix A.1)."""


class OrderedRun(NamedTuple):
    """Packets in the order of sending; `lost`: the number of missing packets before them."""

    run: PacketRun
    lost: int


class ReorderBuffer:
    """Hold packets back while one before them is missing, for up to `wait_s`; 0 if the transport keeps the order."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._next: int | None = None  # extended beyond 16 bits
        self._waiting: dict[int, tuple[PacketRun, float]] = {}  # each run is one packet
        self._first = 0  # the lowest number in `_waiting`
        self.late = 0
        """Number of packets that came twice, or after the wait for them had ended."""

    @property
    def deadline(self) -> float | None:
        """When the wait for a missing packet ends, in monotonic seconds; None if no packet is held back."""
        return self._waiting[self._first][1] + self._wait_s if self._waiting else None

    def push(self, run: PacketRun, now: float) -> list[OrderedRun]:
        """Add packets. Returns the packets that are next in order."""
        if self._next is None:
            self._next = run.sequence
        if run.sequence == self._next & 0xFFFF and not self._waiting:
            self._next += len(run.payloads)
            return [OrderedRun(run, 0)]
        released = []
        for packet in run.singles():
            released += self._push(packet, now)
        return released

    def _push(self, packet: PacketRun, now: float) -> list[OrderedRun]:
        assert self._next is not None  # `push` has set it
        ahead = distance(packet.sequence, self._next & 0xFFFF, 16)
        if ahead == 0 and not self._waiting:
            self._next += 1
            return [OrderedRun(packet, 0)]
        number = self._next + ahead
        if -MAX_MISORDER <= ahead < 0 or number in self._waiting:
            self.late += 1
            return []
        if not -MAX_MISORDER <= ahead <= MAX_DROPOUT:
            return self._restart(packet)
        self._first = min(self._first, number) if self._waiting else number
        self._waiting[number] = (packet, now)
        released = self._run()
        while len(self._waiting) > (MAX_WAITING if self._wait_s else 0):
            released += self._skip()
        return released

    def expire(self, now: float) -> list[OrderedRun]:
        """Return the packets for which the wait for a missing one has ended."""
        released = []
        while self._waiting and now >= self._waiting[self._first][1] + self._wait_s:
            released += self._skip()
        return released

    def drain(self) -> list[OrderedRun]:
        """Return all packets held back, after a change of the sender. The next packet may have any number."""
        released = []
        while self._waiting:
            released += self._skip()
        self._next = None
        return released

    def _restart(self, packet: PacketRun) -> list[OrderedRun]:
        released = self.drain()
        self._next = packet.sequence + 1
        return [*released, OrderedRun(packet, 1)]  # how many were lost is unknown

    def _skip(self) -> list[OrderedRun]:
        assert self._next is not None  # a packet waits
        lost, self._next = self._first - self._next, self._first
        first, *others = self._run()
        return [OrderedRun(first.run, lost), *others]

    def _run(self) -> list[OrderedRun]:
        assert self._next is not None  # a packet waits
        released = []
        while self._next in self._waiting:
            released.append(OrderedRun(self._waiting.pop(self._next)[0], 0))
            self._next += 1
        if released and self._waiting:
            self._first = min(self._waiting)
        return released

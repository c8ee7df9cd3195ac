"""Packets in the order in which they were sent, and how many of them never came. Pure."""

from __future__ import annotations

from typing import NamedTuple

from streamclf.sources.rtsp.rtp import PacketRun, distance

MAX_WAITING = 1024
"""Packets behind a hole: 1.5 MB, more than a key frame."""
MAX_DROPOUT = 3000
MAX_MISORDER = 100
"""A number further ahead, or behind, than this is a sender that counts anew (RFC 3550, appendix A.1)."""


class OrderedRun(NamedTuple):
    """Packets in their turn; `lost`: how many before them never came."""

    run: PacketRun
    lost: int


class ReorderBuffer:
    """Holds packets behind a hole back until it is filled, or for `wait_s`; 0 where the transport keeps the order."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._next: int | None = None  # extended beyond 16 bits
        self._waiting: dict[int, tuple[PacketRun, float]] = {}  # each of one packet
        self._first = 0  # the lowest number that waits
        self.late = 0
        """Packets that came twice, or after they had been given up."""

    @property
    def deadline(self) -> float | None:
        """When the hole that packets wait behind is given up; monotonic seconds. None: nothing waits."""
        return self._waiting[self._first][1] + self._wait_s if self._waiting else None

    def push(self, run: PacketRun, now: float) -> list[OrderedRun]:
        """Take packets; those whose turn it is."""
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
        assert self._next is not None  # set before
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
        """Those whose turn it is because nobody waits any longer for what is missing before them."""
        released = []
        while self._waiting and now >= self._waiting[self._first][1] + self._wait_s:
            released += self._skip()
        return released

    def drain(self) -> list[OrderedRun]:
        """All that waits: its sender has been replaced. The next packet may have any number."""
        released = []
        while self._waiting:
            released += self._skip()
        self._next = None
        return released

    def _restart(self, packet: PacketRun) -> list[OrderedRun]:
        released = self.drain()
        self._next = packet.sequence + 1
        return [*released, OrderedRun(packet, 1)]  # nobody knows how many

    def _skip(self) -> list[OrderedRun]:
        assert self._next is not None  # something waits
        lost, self._next = self._first - self._next, self._first
        first, *others = self._run()
        return [OrderedRun(first.run, lost), *others]

    def _run(self) -> list[OrderedRun]:
        assert self._next is not None  # something waits
        released = []
        while self._next in self._waiting:
            released.append(OrderedRun(self._waiting.pop(self._next)[0], 0))
            self._next += 1
        if released and self._waiting:
            self._first = min(self._waiting)
        return released

"""Parse RTP packets (RFC 3550, section 5.1), group them into runs, and unwrap their counters."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

HEADER = struct.Struct(">BBHII")
VERSION = 2
HEADER_PARTS = struct.Struct(">HHQ")
"""The parts of a header that are compared between packets: version, marker and type; the sequence number; the rest."""
HEADER_PARTS_BYTES = HEADER_PARTS.size
MARKER = 0x80
PLAIN = VERSION << 14
"""The first word, without marker and type, of a header without padding, extension and contributing sources."""


class RtpPacket(NamedTuple):
    """One packet, without padding and extensions."""

    sequence: int
    timestamp: int
    ssrc: int
    payload_type: int
    marker: bool
    payload: bytes


def parse_rtp(data: bytes) -> RtpPacket | None:
    """Parse the packet `data`; returns None if it is not RTP."""
    if len(data) < HEADER.size:
        return None
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    if first >> 6 != VERSION:
        return None
    begin, end = HEADER.size + 4 * (first & 15), len(data)
    if first & 0x10:  # a header extension; its length is in words of 4 bytes
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    if first & 0x20:  # padding; its last byte is its length
        end -= data[-1]
    if begin > end or (first & 0x20 and not data[-1]):
        return None
    return RtpPacket(sequence, timestamp, ssrc, second & 127, second > 127, data[begin:end])


@dataclass(slots=True)
class PacketRun:
    """Consecutive packets: one sender, one time stamp, sequence numbers in a row, a marker at most on the last.

    Without losses, a frame is one run or a few; a packet that continues no other is a run of one. The next stages work
    on runs, because thousands of packets arrive per second.
    """

    sequence: int  # of the first packet
    timestamp: int
    ssrc: int
    marker: bool
    payloads: list[bytes]

    def singles(self) -> list[PacketRun]:
        """Return the same packets as runs of one packet each."""
        if len(self.payloads) == 1:
            return [self]
        last = len(self.payloads) - 1
        return [
            PacketRun((self.sequence + i) & 0xFFFF, self.timestamp, self.ssrc, self.marker and i == last, [payload])
            for i, payload in enumerate(self.payloads)
        ]

    def split(self, count: int) -> tuple[PacketRun, PacketRun]:
        """Return the first `count` packets and the others; the run must have more than `count`."""
        sequence = (self.sequence + count) & 0xFFFF
        first = PacketRun(self.sequence, self.timestamp, self.ssrc, False, self.payloads[:count])
        return first, PacketRun(sequence, self.timestamp, self.ssrc, self.marker, self.payloads[count:])


def runs_of(packets: Iterable[bytes], payload_types: frozenset[int]) -> tuple[list[PacketRun], int]:
    """Group `packets` into runs. Returns the runs and the number of packets that are not RTP or of other types."""
    runs: list[PacketRun] = []
    foreign = 0
    payloads: list[bytes] = []
    unpack = HEADER_PARTS.unpack_from
    plain = marked = number = rest = -1  # the header that would continue the last run
    for data in packets:
        if len(data) >= HEADER_PARTS_BYTES:
            first, sequence, others = unpack(data)
            if sequence == number and others == rest:
                if first == plain:
                    payloads.append(data[HEADER_PARTS_BYTES:])
                    number += 1  # 65536 matches no packet: a run ends at 65535
                    continue
                if first == marked:
                    payloads.append(data[HEADER_PARTS_BYTES:])
                    runs[-1].marker, number = True, -1
                    continue
        packet = parse_rtp(data)
        if packet is None or packet.payload_type not in payload_types:
            foreign += 1
            continue
        payloads = [packet.payload]
        runs.append(PacketRun(packet.sequence, packet.timestamp, packet.ssrc, packet.marker, payloads))
        # A marker ends the run. Packets with padding or an extension are always parsed in full.
        plain = PLAIN | packet.payload_type
        marked = plain | MARKER
        number, rest = sequence + 1 if first == plain else -1, others
    return runs, foreign


def distance(later: int, earlier: int, bits: int) -> int:
    """Return how far `later` is ahead of `earlier` on a counter of `bits` bits: at most half its range, either way."""
    half = 1 << (bits - 1)
    return ((later - earlier + half) & ((1 << bits) - 1)) - half


class RtpTimeline:
    """The media time of one track in ticks of its clock, from 0 at the first packet, without wrap-around.

    Jumps are passed on, up to half the counter's range (6.6 h at 90 kHz). A new sender (SSRC) begins at any value: its
    first packet gets the last packet's time, plus the time that has passed since.
    """

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._raw: int | None = None
        self._ticks = 0
        self._at = 0.0
        self._restarted = False
        self.jumped = False
        """Whether the last packet's time stamp differs by over a second from the time passed since the one before."""

    def push(self, raw: int, now: float) -> int:
        """Return the ticks of the next packet: time stamp `raw` (32 bits), arrived at `now` (monotonic seconds)."""
        if self._raw is None:
            self._raw, self._at, self.jumped = raw, now, True
            return 0
        expected = (now - self._at) * self._clock_hz
        step = round(expected) if self._restarted else distance(raw, self._raw, 32)
        self.jumped = self._restarted or not -self._clock_hz <= step - expected <= self._clock_hz
        self._raw, self._at, self._restarted = raw, now, False
        self._ticks += step
        return self._ticks

    def restart(self) -> None:
        """Record that the next packet comes from another sender."""
        self._restarted = True

    def ticks_of(self, raw: int) -> int | None:
        """Convert another time stamp of the clock, as in sender reports, to ticks; None before the first packet."""
        return None if self._raw is None else self._ticks + distance(raw, self._raw, 32)

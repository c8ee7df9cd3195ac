"""RTP packets (RFC 3550, section 5.1), and counters that wrap around."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

HEADER = struct.Struct(">BBHII")
VERSION = 2
LINK = struct.Struct(">HHQ")
"""A header as one packet's is compared with the next one's: version, marker and type; the number; all the rest."""
LINK_BYTES = LINK.size
MARKER = 0x80
PLAIN = VERSION << 14
"""The first word of a header without padding, extension and contributing sources, but for marker and type."""


class RtpPacket(NamedTuple):
    """One packet, without padding and extensions."""

    sequence: int
    timestamp: int
    ssrc: int
    payload_type: int
    marker: bool
    payload: bytes


def parse_rtp(data: bytes) -> RtpPacket | None:
    """The packet in `data`, None if it is none."""
    if len(data) < HEADER.size:
        return None
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    if first >> 6 != VERSION:
        return None
    begin, end = HEADER.size + 4 * (first & 15), len(data)
    if first & 0x10:  # a header extension, its length in words of 4 bytes
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    if first & 0x20:  # padding, whose last byte counts it
        end -= data[-1]
    if begin > end or (first & 0x20 and not data[-1]):
        return None
    return RtpPacket(sequence, timestamp, ssrc, second & 127, second > 127, data[begin:end])


@dataclass(slots=True)
class PacketRun:
    """Packets that continue each other: one sender, one time stamp, numbers in a row, and no marker but the last one's.

    Where nothing is lost a picture is one run or a few; a packet that continues nothing is a run of one. All that
    follows packets takes them by the run, because there are thousands of packets a second.
    """

    sequence: int  # of the first
    timestamp: int
    ssrc: int
    marker: bool
    payloads: list[bytes]

    def singles(self) -> list[PacketRun]:
        """The same packets as runs of one."""
        if len(self.payloads) == 1:
            return [self]
        last = len(self.payloads) - 1
        return [
            PacketRun((self.sequence + i) & 0xFFFF, self.timestamp, self.ssrc, self.marker and i == last, [payload])
            for i, payload in enumerate(self.payloads)
        ]

    def divided(self, count: int) -> tuple[PacketRun, PacketRun]:
        """The first `count` packets, of at least one more, and the others."""
        sequence = (self.sequence + count) & 0xFFFF
        first = PacketRun(self.sequence, self.timestamp, self.ssrc, False, self.payloads[:count])
        return first, PacketRun(sequence, self.timestamp, self.ssrc, self.marker, self.payloads[count:])


def runs_of(packets: Iterable[bytes], payload_types: frozenset[int]) -> tuple[list[PacketRun], int]:
    """`packets` as runs, and how many of them are none, or of other types."""
    runs: list[PacketRun] = []
    foreign = 0
    payloads: list[bytes] = []
    unpack = LINK.unpack_from
    plain = marked = number = rest = -1  # of the header that continues the last run, without and with a marker
    for data in packets:
        if len(data) >= LINK_BYTES:
            first, sequence, others = unpack(data)
            if sequence == number and others == rest:
                if first == plain:
                    payloads.append(data[LINK_BYTES:])
                    number += 1  # never the one after 65535: a run ends there
                    continue
                if first == marked:
                    payloads.append(data[LINK_BYTES:])
                    runs[-1].marker, number = True, -1
                    continue
        packet = parse_rtp(data)
        if packet is None or packet.payload_type not in payload_types:
            foreign += 1
            continue
        payloads = [packet.payload]
        runs.append(PacketRun(packet.sequence, packet.timestamp, packet.ssrc, packet.marker, payloads))
        # After a marker nothing goes on; and what has padding or an extension is not compared, but read as a whole.
        plain = PLAIN | packet.payload_type
        marked = plain | MARKER
        number, rest = sequence + 1 if first == plain else -1, others
    return runs, foreign


def distance(later: int, earlier: int, bits: int) -> int:
    """How far `later` is ahead of `earlier` on a counter of so many bits: less than half its range, either way."""
    half = 1 << (bits - 1)
    return ((later - earlier + half) & ((1 << bits) - 1)) - half


class RtpTimeline:
    """The media time of one track in ticks of its clock, from 0 at the first packet, without wrap-around.

    Jumps are passed on, up to half the counter's range (6.6 h at 90 kHz). A new sender (SSRC) counts from anywhere: its
    first packet gets the time that has gone by since the last one.
    """

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._raw: int | None = None
        self._ticks = 0
        self._at = 0.0
        self._restarted = False
        self.jumped = False
        """Whether the last packet's time does not continue the one before it within a second."""

    def at(self, raw: int, now: float) -> int:
        """Ticks of the packet stamped `raw` (32 bits) that came at `now` (monotonic seconds)."""
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
        """The next packet is another sender's."""
        self._restarted = True

    def of(self, raw: int) -> int | None:
        """Ticks of another time stamp of the same clock, as sender reports hold; None before the first packet."""
        return None if self._raw is None else self._ticks + distance(raw, self._raw, 32)

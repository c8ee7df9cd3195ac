"""Packetize access units into RTP packets (RFC 3550): single NAL units, fragments and, optionally, aggregates.

H.264 uses FU-A and STAP-A (RFC 6184), H.265 uses FU and AP (RFC 7798).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Literal

CLOCK_HZ = 90_000
PAYLOAD_TYPE = 96
MAX_PAYLOAD = 1400
HEADER_BYTES = 12
FU_A, STAP_A = 28, 24
FU, AP = 49, 48
NTP_EPOCH = 2_208_988_800


Marker = Literal["last", "never", "every"]


class Packetizer:
    """Packetize one RTP session. `marker`: the packets that have the bit; `every`: the last of each NAL unit."""

    def __init__(
        self,
        *,
        ssrc: int,
        sequence: int,
        hevc: bool = False,
        marker: Marker = "last",
        aggregate: bool = False,
    ) -> None:
        self.hevc = hevc
        self._marker = marker
        self._aggregate = aggregate
        self._ssrc = ssrc
        self._sequence = sequence
        self._packets = 0
        self._octets = 0

    def packets(self, unit: Sequence[bytes], timestamp: int) -> Iterator[bytes]:
        """Packetize one access unit; the last packet has the marker bit."""
        groups = self._grouped(unit) if self._aggregate else [[nal] for nal in unit]
        for i, group in enumerate(groups):
            marks = self._marker == "every" or (self._marker == "last" and i == len(groups) - 1)
            if len(group) > 1:
                yield self._packet(self._aggregated(group), timestamp, marker=marks)
            elif len(group[0]) <= MAX_PAYLOAD:
                yield self._packet(group[0], timestamp, marker=marks)
            else:
                yield from self._fragments(group[0], timestamp, marks)

    def bye(self) -> bytes:
        """Make an RTCP BYE packet."""
        return struct.pack(">BBHI", 0x81, 203, 1, self._ssrc)

    def _grouped(self, unit: Sequence[bytes]) -> list[list[bytes]]:
        """Group consecutive small NAL units."""
        groups: list[list[bytes]] = []
        for nal in unit:
            if groups and sum(len(part) + 2 for part in [*groups[-1], nal]) < MAX_PAYLOAD:
                groups[-1].append(nal)
            else:
                groups.append([nal])
        return groups

    def _aggregated(self, group: Sequence[bytes]) -> bytes:
        head = bytes([AP << 1, 1]) if self.hevc else bytes([group[0][0] & 0xE0 | STAP_A])
        return head + b"".join(struct.pack(">H", len(nal)) + nal for nal in group)

    def sender_report(self, wall_s: float, timestamp: int) -> bytes:
        """Make an RTCP sender report: the wall clock's time at `timestamp`."""
        seconds = int(wall_s) + NTP_EPOCH
        fraction = int(wall_s % 1 * 2**32)
        words = (self._ssrc, seconds, fraction, timestamp & 0xFFFFFFFF, self._packets, self._octets)
        return struct.pack(">BBH6I", 0x80, 200, 6, *words)

    def _fragments(self, nal: bytes, timestamp: int, is_last: bool) -> Iterator[bytes]:
        if self.hevc:
            indicator, kind, body = bytes([nal[0] & 0x81 | FU << 1, nal[1]]), nal[0] >> 1 & 63, nal[2:]
        else:
            indicator, kind, body = bytes([nal[0] & 0xE0 | FU_A]), nal[0] & 31, nal[1:]
        step = MAX_PAYLOAD - 3
        for start in range(0, len(body), step):
            begins, ends = start == 0, start + step >= len(body)
            header = indicator + bytes([begins << 7 | ends << 6 | kind])
            yield self._packet(header + body[start : start + step], timestamp, marker=is_last and ends)

    def _packet(self, payload: bytes, timestamp: int, *, marker: bool) -> bytes:
        second = PAYLOAD_TYPE | marker << 7
        header = struct.pack(">BBHII", 0x80, second, self._sequence & 0xFFFF, timestamp & 0xFFFFFFFF, self._ssrc)
        self._sequence += 1
        self._packets += 1
        self._octets += len(payload)
        return header + payload

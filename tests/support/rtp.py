"""H.264 access units -> RTP packets (RFC 3550, RFC 6184: single NAL units and FU-A)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

CLOCK_HZ = 90_000
PAYLOAD_TYPE = 96
MAX_PAYLOAD = 1400
HEADER_BYTES = 12
FU_A = 28
NTP_EPOCH = 2_208_988_800


class Packetizer:
    """One RTP session's numbering."""

    def __init__(self, *, ssrc: int, sequence: int) -> None:
        self._ssrc = ssrc
        self._sequence = sequence
        self._packets = 0
        self._octets = 0

    def packets(self, unit: Sequence[bytes], timestamp: int) -> Iterator[bytes]:
        """The packets of one access unit; the last one carries the marker bit."""
        for i, nal in enumerate(unit):
            is_last = i == len(unit) - 1
            if len(nal) <= MAX_PAYLOAD:
                yield self._packet(nal, timestamp, marker=is_last)
            else:
                yield from self._fragments(nal, timestamp, is_last)

    def sender_report(self, wall_s: float, timestamp: int) -> bytes:
        """RTCP: what the wall clock said at `timestamp`."""
        seconds = int(wall_s) + NTP_EPOCH
        fraction = int(wall_s % 1 * 2**32)
        words = (self._ssrc, seconds, fraction, timestamp & 0xFFFFFFFF, self._packets, self._octets)
        return struct.pack(">BBH6I", 0x80, 200, 6, *words)

    def _fragments(self, nal: bytes, timestamp: int, is_last: bool) -> Iterator[bytes]:
        indicator, kind, body = nal[0] & 0xE0 | FU_A, nal[0] & 31, nal[1:]
        step = MAX_PAYLOAD - 2
        for start in range(0, len(body), step):
            begins, ends = start == 0, start + step >= len(body)
            header = bytes([indicator, begins << 7 | ends << 6 | kind])
            yield self._packet(header + body[start : start + step], timestamp, marker=is_last and ends)

    def _packet(self, payload: bytes, timestamp: int, *, marker: bool) -> bytes:
        second = PAYLOAD_TYPE | marker << 7
        header = struct.pack(">BBHII", 0x80, second, self._sequence & 0xFFFF, timestamp & 0xFFFFFFFF, self._ssrc)
        self._sequence += 1
        self._packets += 1
        self._octets += len(payload)
        return header + payload

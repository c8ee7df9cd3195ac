"""Parse RTCP sender reports and write receiver reports (RFC 3550, section 6)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from streamclf.sources.rtsp.rtp import VERSION, PacketRun, distance
from streamclf.units import NS

SENDER_REPORT, RECEIVER_REPORT, DESCRIPTION, BYE = 200, 201, 202, 203
NTP_EPOCH_S = 2_208_988_800
"""Seconds from 1900, where NTP begins to count, to 1970, where Unix time does."""
NTP_HALF_ERA_S = 1 << 31
"""NTP's 32 bits of seconds wrap around in 2036. A camera whose clock was never set sends 1970."""
MAX_PARTS = 32


class SenderReport(NamedTuple):
    """A pair of clock readings: at `time_ns` (the sender's Unix time) its media clock was `timestamp` (32 bits)."""

    ssrc: int
    time_ns: int
    timestamp: int
    ntp_middle: int
    """The 32 bits that a receiver report returns, so that the sender can measure the round trip."""


def parse_rtcp(data: bytes) -> tuple[list[SenderReport], list[int]]:
    """Return the sender reports, and the SSRCs that leave (BYE); all other parts are ignored."""
    reports: list[SenderReport] = []
    leaving: list[int] = []
    begin = 0
    for _ in range(MAX_PARTS):
        if len(data) - begin < 4:
            break
        first, kind, words = struct.unpack_from(">BBH", data, begin)
        end = begin + 4 + 4 * words
        if first >> 6 != VERSION or end > len(data):
            break
        if kind == SENDER_REPORT and words >= 6:
            reports += _sender_report(data, begin)
        elif kind == BYE:
            count = min(first & 31, words)
            leaving += struct.unpack_from(f">{count}I", data, begin + 4)
        begin = end
    return reports, leaving


def _sender_report(data: bytes, begin: int) -> list[SenderReport]:
    ssrc, seconds, fraction, timestamp = struct.unpack_from(">4I", data, begin + 4)
    if seconds == 0:
        return []  # a sender without a clock
    if seconds < NTP_HALF_ERA_S:
        seconds += 1 << 32
    time_ns = (seconds - NTP_EPOCH_S) * NS + (fraction * NS >> 32)
    return [SenderReport(ssrc, time_ns, timestamp, (seconds & 0xFFFF) << 16 | fraction >> 16)]


class ReceptionStats:
    """Count the packets of one sender, for receiver reports (RFC 3550, appendices A.3 and A.8)."""

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._begin(None, 0)

    def _begin(self, ssrc: int | None, sequence: int) -> None:
        self.ssrc = ssrc
        self._base = self._highest = sequence
        self._received = 0
        self._before = (0, 0)  # expected, received
        self._transit: float | None = None
        self._jitter = 0.0
        self._report: SenderReport | None = None
        self._reported_at = 0.0

    def add_run(self, run: PacketRun, now: float) -> None:
        """Count packets that arrived, in any order."""
        if run.ssrc != self.ssrc:
            self._begin(run.ssrc, run.sequence)
        count = len(run.payloads)
        self._received += count
        ahead = distance(run.sequence, self._highest & 0xFFFF, 16) + count - 1
        if ahead > 0:
            self._highest += ahead
        transit = now * self._clock_hz - run.timestamp
        if self._transit is not None:
            step = abs(transit - self._transit)
            if step < self._clock_hz:  # more is a jump or a wrap, not jitter
                self._jitter += (step - self._jitter) / 16
        self._transit = transit
        for _ in range(count - 1):  # the others arrived together and have the same time stamp
            self._jitter -= self._jitter / 16

    def add_sender_report(self, report: SenderReport, now: float) -> None:
        """Remember the latest sender report."""
        if report.ssrc == self.ssrc:
            self._report, self._reported_at = report, now

    def report(self, own_ssrc: int, now: float) -> bytes:
        """Write a receiver report and our name, the minimum content of a compound packet."""
        return self._receiver_report(own_ssrc, now) + _description(own_ssrc)

    def _receiver_report(self, own_ssrc: int, now: float) -> bytes:
        if self.ssrc is None:
            return struct.pack(">BBHI", VERSION << 6, RECEIVER_REPORT, 1, own_ssrc)
        expected = self._highest - self._base + 1
        lost = max(-(1 << 23), min(expected - self._received, (1 << 23) - 1))
        new_expected, new_received = expected - self._before[0], self._received - self._before[1]
        self._before = (expected, self._received)
        new_lost = max(0, new_expected - new_received)
        fraction = min(255, (new_lost << 8) // new_expected) if new_expected > 0 else 0
        middle = delay = 0
        if self._report is not None:
            middle = self._report.ntp_middle
            delay = min(int((now - self._reported_at) * 65536), 0xFFFFFFFF)
        head = struct.pack(">BBHI", VERSION << 6 | 1, RECEIVER_REPORT, 7, own_ssrc)
        loss = struct.pack(">II", self.ssrc, fraction << 24 | lost & 0xFFFFFF)
        rest = struct.pack(">4I", self._highest & 0xFFFFFFFF, min(int(self._jitter), 0xFFFFFFFF), middle, delay)
        return head + loss + rest


def _description(own_ssrc: int) -> bytes:
    name = b"streamclf"  # not the host or user name, which are private
    item = bytes([1, len(name)]) + name
    padded = item + bytes(4 - len(item) % 4)  # ends with at least one zero
    return struct.pack(">BBHI", VERSION << 6 | 1, DESCRIPTION, 1 + len(padded) // 4, own_ssrc) + padded

"""RTCP sender reports and receiver reports."""

from __future__ import annotations

import struct
from typing import Any

from support.rtp import NTP_EPOCH, Packetizer

from streamclf.sources.rtsp.rtcp import ReceptionStats, parse_rtcp
from streamclf.sources.rtsp.rtp import PacketRun

STEP = 3600


def packetizer(**keys: Any) -> Packetizer:
    return Packetizer(**{"ssrc": 7, "sequence": 65_530, **keys})


def test_sender_reports_of_the_next_ntp_era_and_without_a_clock() -> None:
    words = (7, 100, 0, 0, 0, 0)
    (report,), _ = parse_rtcp(struct.pack(">BBH6I", 0x80, 200, 6, *words))
    assert report.time_ns == (2**32 + 100 - NTP_EPOCH) * 10**9
    assert parse_rtcp(struct.pack(">BBH6I", 0x80, 200, 6, 7, 0, 0, 0, 0, 0)) == ([], [])
    _, leaving = parse_rtcp(packetizer().sender_report(1e9, 0) + packetizer().bye())
    assert leaving == [7]


def test_a_receiver_report_counts_received_and_lost_packets() -> None:
    """RFC 3550, section 6.4.2: loss since the last report, as a fraction of 256, and in total."""
    reception = ReceptionStats(90_000)
    for i in (0, 1, 2, 4, 5, 6, 8, 9):
        reception.add_run(PacketRun((65_530 + i) & 0xFFFF, i * STEP, 7, False, [b""]), i * 0.04)
    (sent,), _ = parse_rtcp(packetizer().sender_report(1.5, 0))
    reception.add_sender_report(sent, 0.36)
    report = reception.report(42, 1.36)
    first, kind, words, own, ssrc, loss, highest, jitter, middle, delay = struct.unpack_from(">BBH7I", report)
    assert (first, kind, words, own, ssrc) == (0x81, 201, 7, 42, 7)
    assert (loss >> 24, loss & 0xFFFFFF) == (256 * 2 // 10, 2)
    assert (highest, jitter) == (65_530 + 9, 0)
    assert (middle, delay) == (((NTP_EPOCH + 1) & 0xFFFF) << 16 | 0x8000, 65_536)
    assert report[32:34] == b"\x81\xca"
    assert len(report) % 4 == 0
    assert struct.unpack_from(">I", reception.report(42, 2.0), 12)[0] >> 24 == 0, "no packet lost since"

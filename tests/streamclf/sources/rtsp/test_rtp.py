"""RTP packets, their counters and their time stamps."""

from __future__ import annotations

import struct

import pytest

from streamclf.sources.rtsp.rtp import RtpPacket, RtpTimeline, distance, parse_rtp

STEP = 3600


def test_a_packet_is_parsed_without_padding_and_extension() -> None:
    head = struct.pack(">BBHII", 0xB1, 0xE0, 5, 6, 7)
    packet = parse_rtp(head + b"csrc" + b"\0\0\0\1" + b"abcd" + b"payload" + b"\0\0\3")
    assert packet == RtpPacket(5, 6, 7, 96, True, b"payload")
    assert parse_rtp(struct.pack(">BBHII", 0x80, 96, 5, 6, 7)) == RtpPacket(5, 6, 7, 96, False, b"")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80" * 11, b"\x40" + bytes(20), b"\x8f" + bytes(11), b"\x90" + bytes(11), b"\x90" + b"\xff" * 20,
     b"\xa0" + bytes(12), b"\xa0" + bytes(11) + b"\xff"],
)  # fmt: skip
def test_invalid_packets_are_rejected(data: bytes) -> None:
    assert parse_rtp(data) is None


def test_the_distance_between_counters_is_right_across_a_wrap() -> None:
    assert [distance(a, b, 16) for a, b in ((1, 65_535), (65_535, 1), (5, 5), (32_768, 0))] == [2, -2, 0, -32_768]


def test_the_timeline_unwraps_counters_and_passes_jumps_on() -> None:
    timeline = RtpTimeline(90_000)
    assert timeline.push(2**32 - 1800, 0.0) == 0
    assert timeline.push(1800, 0.04) == 3600
    assert not timeline.jumped
    assert timeline.push(1800 - 900_000, 0.08) == 3600 - 900_000
    assert timeline.jumped
    assert timeline.ticks_of(1800) == 3600
    timeline.restart()
    assert timeline.push(12_345, 0.12) == 3600 - 900_000 + 3600

"""RTP payloads of the wrong codec and of unsupported types."""

from __future__ import annotations

import pytest

from streamclf.sources.rtsp import nal


@pytest.mark.parametrize(
    "payload",
    [b"\x78\0", b"\x78\0\x09abc", b"\x78\0\0", b"\x7c", b"\x7c\x85", b"\x60abc", b"\x7fabc"],
    ids=["cut", "short", "empty", "FU", "FU of nothing", "type 0", "type 31"],
)
def test_payloads_that_are_not_h264_are_counted_or_ignored(payload: bytes) -> None:
    depacketizer = nal.H264Depacketizer()
    assert depacketizer.push(payload, after_loss=False) == []
    assert depacketizer.push(b"\x65\x88abc", after_loss=False) == [b"\x65\x88abc"]
    assert depacketizer.malformed == (payload != b"\x78\0")


def test_unsupported_packet_types_are_counted() -> None:
    old, new = nal.H264Depacketizer(), nal.H265Depacketizer()
    assert old.push(b"\x79\0\0\0\x01a", after_loss=False) == []
    assert new.push(b"\x64\x01abc", after_loss=False) == []
    assert (old.unsupported, new.unsupported) == ({25: 1}, {50: 1})

"""RTP and RTCP packets into access units, without sockets and with a clock of the test."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from support.rtp import Packetizer

from streamclf.sources.rtsp.access_units import MAX_NALS, AccessUnit
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.sdp import VideoTrack

SPS, PPS, SEI = b"\x67sps", b"\x68pps", b"\x06sei"


STEP = 3600


H264 = VideoTrack(codec="H264", payload_types=frozenset({96}))


H265 = VideoTrack(codec="H265", payload_types=frozenset({96}))


def key(number: int, size: int = 50) -> bytes:
    """Make the first slice of a key frame."""
    return b"\x65\x88" + struct.pack(">I", number) + bytes([number % 256 | 1]) * size


def slice_(number: int, size: int = 50) -> bytes:
    """Make another slice of a key frame."""
    return b"\x65\x40" + struct.pack(">I", number) + bytes([number % 256 | 1]) * size


def packetizer(**keys: Any) -> Packetizer:
    return Packetizer(**{"ssrc": 7, "sequence": 65_530, **keys})


def push_all(
    media: TrackReceiver, packets: Iterable[bytes], *, begin: float = 100.0, step: float = 0.001
) -> list[AccessUnit]:
    units = []
    for i, packet in enumerate(packets):
        units += media.push_rtp([packet], begin + i * step)
    return units


def annex_b(*nals: bytes) -> bytes:
    return b"".join(b"\0\0\0\1" + each for each in nals)


@pytest.mark.parametrize(("codec", "track"), [(False, H264), (True, H265)], ids=["H264", "H265"])
@pytest.mark.parametrize("aggregate", [False, True])
def test_access_units_are_complete_with_their_last_packet(codec: bool, track: VideoTrack, aggregate: bool) -> None:
    sets = [b"\x40\x01vps", b"\x42\x01sps", b"\x44\x01pps"] if codec else [SPS, PPS]
    big = (b"\x26\x01\x80" if codec else b"\x65\x88") + bytes(range(1, 256)) * 20
    small = (b"\x02\x01\x80" if codec else b"\x41\x9a") + b"small"
    sender, media = packetizer(hevc=codec, aggregate=aggregate), TrackReceiver(track, reorder_s=0.0)
    packets = list(sender.packets([*sets, big], 0))
    assert push_all(media, packets[:-1]) == []
    assert [unit.data for unit in push_all(media, packets[-1:])] == [annex_b(*sets, big)]
    (unit,) = push_all(media, sender.packets([small], STEP))
    assert (unit.data, unit.timestamp, unit.damaged, unit.waited_s) == (annex_b(small), STEP, False, 0.0)
    assert (media.lost, media.malformed, media.unsupported) == (0, 0, 0)


def test_without_markers_a_frame_ends_with_the_next_one() -> None:
    sender, media = packetizer(marker="never"), TrackReceiver(H264, reorder_s=0.0)
    packets = [packet for i in range(3) for packet in sender.packets([SPS, PPS, key(i)], i * STEP)]
    units = push_all(media, packets)
    assert [unit.data for unit in units] == [annex_b(SPS, PPS, key(0)), annex_b(SPS, PPS, key(1))]
    assert [unit.timestamp for unit in units] == [0, STEP]
    assert units[0].waited_s == pytest.approx(0.001)


def test_a_marker_on_parameter_sets_ends_no_frame() -> None:
    sender, media = packetizer(), TrackReceiver(H264, reorder_s=0.0)
    units = push_all(media, sender.packets([SPS, PPS], 0))  # with the marker, as some cameras do
    units += push_all(media, sender.packets([key(1)], STEP))
    assert [unit.data for unit in units] == [annex_b(SPS, PPS, key(1))]
    assert media.trusts_marker


def test_markers_on_every_slice_are_trusted_only_once() -> None:
    sender, media = packetizer(marker="every"), TrackReceiver(H264, reorder_s=0.0)
    packets = [packet for i in range(4) for packet in sender.packets([key(i), slice_(i), slice_(i)], i * STEP)]
    units = push_all(media, packets)
    assert not media.trusts_marker
    assert [unit.data for unit in units[-2:]] == [annex_b(key(i), slice_(i), slice_(i)) for i in (1, 2)]


def test_frames_with_equal_time_stamps_are_separated_by_their_first_slice() -> None:
    """A camera whose time stamps do not advance, with and without marker bits."""
    for marker in ("last", "never"):
        sender, media = packetizer(marker=marker), TrackReceiver(H264, reorder_s=0.0)
        units = push_all(media, [packet for i in range(3) for packet in sender.packets([SEI, key(i), slice_(i)], 0)])
        assert [unit.data for unit in units][:2] == [annex_b(SEI, key(i), slice_(i)) for i in (0, 1)]
        assert media.trusts_marker


def test_a_lost_packet_damages_only_its_own_frame() -> None:
    sender, media = packetizer(), TrackReceiver(H264, reorder_s=0.0)
    frames = [list(sender.packets([key(i, 5000)], i * STEP)) for i in range(4)]
    assert len(frames[0]) == 4
    lost = [frames[1][2]]
    units = push_all(media, [packet for frame in frames for packet in frame if packet not in lost])
    assert [unit.damaged for unit in units] == [False, True, False, False]
    assert annex_b(key(1, 5000)).startswith(units[1].data), "the data before the lost packet, and none after it"
    assert len(units[1].data) > 2000
    assert media.lost == 1


def test_a_lost_packet_between_frames_damages_both_only_if_it_may_be_an_end() -> None:
    sender, media = packetizer(), TrackReceiver(H264, reorder_s=0.0)
    frames = [list(sender.packets([key(i, 2000)], i * STEP)) for i in range(4)]
    units = push_all(media, [*frames[0], *frames[1][:-1], *frames[2], *frames[3]])
    assert [unit.damaged for unit in units] == [False, True, True, False]
    media = TrackReceiver(H264, reorder_s=0.0)
    units = push_all(media, [*frames[0], *frames[2], *frames[3]])
    assert [unit.damaged for unit in units] == [False, True, False], "a frame is missing before the second"
    assert media.lost == 2


def test_an_incomplete_parameter_set_is_dropped() -> None:
    sender, media = packetizer(), TrackReceiver(H264, reorder_s=0.0)
    packets = list(sender.packets([b"\x67" + b"s" * 3000, key(1)], 0))
    (unit,) = push_all(media, [packets[0], *packets[2:]])
    assert unit.data == annex_b(key(1))
    assert unit.damaged


def test_nal_units_and_frames_have_size_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.sources.rtsp.nal.MAX_NAL_BYTES", 10_000)
    monkeypatch.setattr("streamclf.sources.rtsp.access_units.MAX_NAL_BYTES", 10_000)
    sender, media = packetizer(), TrackReceiver(H264, reorder_s=0.0)
    assert push_all(media, sender.packets([key(1, 20_000)], 0)) == []
    assert push_all(media, sender.packets([SEI] * (MAX_NALS + 10), STEP)) == []
    assert push_all(media, sender.packets([key(1, 4000), slice_(1, 4000), slice_(1, 4000)], 2 * STEP)) == []
    assert media.malformed == 3
    (unit,) = push_all(media, sender.packets([key(2)], 3 * STEP))
    assert unit.data.endswith(annex_b(key(2)))


def test_a_stray_packet_is_dropped_and_two_in_a_row_are_a_new_sender() -> None:
    ours, other = packetizer(), packetizer(ssrc=8, sequence=99)
    media = TrackReceiver(H264, reorder_s=0.0)
    units = push_all(media, ours.packets([key(0)], 0))
    stray, first, second = (next(other.packets([key(100 + i)], 10**6 + i * STEP)) for i in range(3))
    units += push_all(media, [stray, *ours.packets([key(1)], STEP)], begin=100.04)
    assert [unit.data for unit in units] == [annex_b(key(0)), annex_b(key(1))]
    units = push_all(media, [first, second], begin=100.08, step=0.04)
    assert [unit.data for unit in units] == [annex_b(key(101)), annex_b(key(102))]
    assert units[0].damaged
    assert 0 < units[0].timestamp - STEP < 2 * STEP * 2, "by our own clock, not by the other sender's"
    foreign = media.foreign
    assert media.push_rtp([next(packetizer(ssrc=8).packets([key(1)], 0)).replace(b"\xe0", b"\xe1", 1)], 101.0) == []
    assert media.foreign == foreign + 1, "another payload type"
    others = [next(packetizer(ssrc=ssrc).packets([key(1)], 0)) for ssrc in (20, 21, 22)]
    assert media.push_rtp(others, 101.0) == []
    assert media.foreign == foreign + 3, "all but the last, which may be the first of a new sender"
    assert media.received_at == 101.0, "the first of them might have been a new sender"


def test_a_sender_report_sets_the_wall_clock_and_a_jump_clears_it() -> None:
    sender, media = packetizer(), TrackReceiver(H264, reorder_s=0.0)
    media.push_rtcp([sender.sender_report(1_700_000_000.25, 0)], 100.0)
    (unit,) = push_all(media, sender.packets([key(0)], 0))
    assert media.wall_ns(unit.timestamp) == 1_700_000_000_250_000_000
    (unit,) = push_all(media, sender.packets([key(1)], STEP), begin=100.04)
    assert media.wall_ns(unit.timestamp) == 1_700_000_000_290_000_000
    assert media.wall_ns(unit.timestamp + 61 * 90_000) is None, "too long after the report"
    (unit,) = push_all(media, sender.packets([key(2)], 10**9), begin=100.08)
    assert media.wall_ns(unit.timestamp) is None

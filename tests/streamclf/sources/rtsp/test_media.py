"""Made packets: what becomes of them on the way to access units, without sockets and without a clock of its own."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from support.rtp import NTP_EPOCH, Packetizer

from streamclf.sources.rtsp import nal
from streamclf.sources.rtsp.access_units import MAX_NALS, AccessUnit
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.reorder import MAX_WAITING, ReorderBuffer
from streamclf.sources.rtsp.rtcp import ReceptionStats, parse_rtcp
from streamclf.sources.rtsp.rtp import PacketRun, RtpPacket, RtpTimeline, distance, parse_rtp
from streamclf.sources.rtsp.sdp import VideoTrack

SPS, PPS, SEI = b"\x67sps", b"\x68pps", b"\x06sei"
STEP = 3600
H264 = VideoTrack(codec="H264", payload_types=frozenset({96}))
H265 = VideoTrack(codec="H265", payload_types=frozenset({96}))


def key(number: int, size: int = 50) -> bytes:
    """The first slice of a key frame."""
    return b"\x65\x88" + struct.pack(">I", number) + bytes([number % 256 | 1]) * size


def rest(number: int, size: int = 50) -> bytes:
    """Another slice of it."""
    return b"\x65\x40" + struct.pack(">I", number) + bytes([number % 256 | 1]) * size


def packer(**keys: Any) -> Packetizer:
    return Packetizer(**{"ssrc": 7, "sequence": 65_530, **keys})


def fed(
    media: TrackReceiver, packets: Iterable[bytes], *, begin: float = 100.0, step: float = 0.001
) -> list[AccessUnit]:
    units = []
    for i, packet in enumerate(packets):
        units += media.push_rtp([packet], begin + i * step)
    return units


def annex_b(*nals: bytes) -> bytes:
    return b"".join(b"\0\0\0\1" + each for each in nals)


def test_a_packet_without_its_padding_and_extension() -> None:
    head = struct.pack(">BBHII", 0xB1, 0xE0, 5, 6, 7)
    packet = parse_rtp(head + b"csrc" + b"\0\0\0\1" + b"abcd" + b"payload" + b"\0\0\3")
    assert packet == RtpPacket(5, 6, 7, 96, True, b"payload")
    assert parse_rtp(struct.pack(">BBHII", 0x80, 96, 5, 6, 7)) == RtpPacket(5, 6, 7, 96, False, b"")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80" * 11, b"\x40" + bytes(20), b"\x8f" + bytes(11), b"\x90" + bytes(11), b"\x90" + b"\xff" * 20,
     b"\xa0" + bytes(12), b"\xa0" + bytes(11) + b"\xff"],
)  # fmt: skip
def test_what_is_no_packet(data: bytes) -> None:
    assert parse_rtp(data) is None


@pytest.mark.parametrize(("codec", "track"), [(False, H264), (True, H265)], ids=["H264", "H265"])
@pytest.mark.parametrize("aggregate", [False, True])
def test_units_come_whole_with_their_last_packet(codec: bool, track: VideoTrack, aggregate: bool) -> None:
    sets = [b"\x40\x01vps", b"\x42\x01sps", b"\x44\x01pps"] if codec else [SPS, PPS]
    big = (b"\x26\x01\x80" if codec else b"\x65\x88") + bytes(range(1, 256)) * 20
    small = (b"\x02\x01\x80" if codec else b"\x41\x9a") + b"small"
    sender, media = packer(hevc=codec, aggregate=aggregate), TrackReceiver(track, reorder_s=0.0)
    packets = list(sender.packets([*sets, big], 0))
    assert fed(media, packets[:-1]) == []
    assert [unit.data for unit in fed(media, packets[-1:])] == [annex_b(*sets, big)]
    (unit,) = fed(media, sender.packets([small], STEP))
    assert (unit.data, unit.timestamp, unit.damaged, unit.waited_s) == (annex_b(small), STEP, False, 0.0)
    assert (media.lost, media.malformed, media.unsupported) == (0, 0, 0)


def test_markers_that_are_lost_or_never_set_end_pictures_with_the_next_one() -> None:
    sender, media = packer(marker="never"), TrackReceiver(H264, reorder_s=0.0)
    packets = [packet for i in range(3) for packet in sender.packets([SPS, PPS, key(i)], i * STEP)]
    units = fed(media, packets)
    assert [unit.data for unit in units] == [annex_b(SPS, PPS, key(0)), annex_b(SPS, PPS, key(1))]
    assert [unit.timestamp for unit in units] == [0, STEP]
    assert units[0].waited_s == pytest.approx(0.001)


def test_a_marker_on_parameter_sets_ends_no_picture() -> None:
    sender, media = packer(), TrackReceiver(H264, reorder_s=0.0)
    units = fed(media, sender.packets([SPS, PPS], 0))  # marked, as some cameras do
    units += fed(media, sender.packets([key(1)], STEP))
    assert [unit.data for unit in units] == [annex_b(SPS, PPS, key(1))]
    assert media.trusts_marker


def test_markers_on_every_slice_are_believed_once() -> None:
    sender, media = packer(marker="every"), TrackReceiver(H264, reorder_s=0.0)
    packets = [packet for i in range(4) for packet in sender.packets([key(i), rest(i), rest(i)], i * STEP)]
    units = fed(media, packets)
    assert not media.trusts_marker
    assert [unit.data for unit in units[-2:]] == [annex_b(key(i), rest(i), rest(i)) for i in (1, 2)]


def test_pictures_of_one_time_stamp_are_told_apart_by_their_first_slice() -> None:
    """A camera whose clock stands still, with and without marker bits."""
    for marker in ("last", "never"):
        sender, media = packer(marker=marker), TrackReceiver(H264, reorder_s=0.0)
        units = fed(media, [packet for i in range(3) for packet in sender.packets([SEI, key(i), rest(i)], 0)])
        assert [unit.data for unit in units][:2] == [annex_b(SEI, key(i), rest(i)) for i in (0, 1)]
        assert media.trusts_marker


def test_a_hole_spoils_the_pictures_around_it_and_no_others() -> None:
    sender, media = packer(), TrackReceiver(H264, reorder_s=0.0)
    pictures = [list(sender.packets([key(i, 5000)], i * STEP)) for i in range(4)]
    assert len(pictures[0]) == 4
    lost = [pictures[1][2]]
    units = fed(media, [packet for picture in pictures for packet in picture if packet not in lost])
    assert [unit.damaged for unit in units] == [False, True, False, False]
    assert annex_b(key(1, 5000)).startswith(units[1].data), "what came before the hole, and nothing behind it"
    assert len(units[1].data) > 2000
    assert media.lost == 1


def test_a_hole_between_pictures_spoils_both_only_where_it_may_hold_an_end() -> None:
    sender, media = packer(), TrackReceiver(H264, reorder_s=0.0)
    pictures = [list(sender.packets([key(i, 2000)], i * STEP)) for i in range(4)]
    units = fed(media, [*pictures[0], *pictures[1][:-1], *pictures[2], *pictures[3]])
    assert [unit.damaged for unit in units] == [False, True, True, False]
    media = TrackReceiver(H264, reorder_s=0.0)
    units = fed(media, [*pictures[0], *pictures[2], *pictures[3]])
    assert [unit.damaged for unit in units] == [False, True, False], "a picture is missing before the second"
    assert media.lost == 2


def test_half_a_parameter_set_is_thrown_away() -> None:
    sender, media = packer(), TrackReceiver(H264, reorder_s=0.0)
    packets = list(sender.packets([b"\x67" + b"s" * 3000, key(1)], 0))
    (unit,) = fed(media, [packets[0], *packets[2:]])
    assert unit.data == annex_b(key(1))
    assert unit.damaged


@pytest.mark.parametrize(
    "payload",
    [b"\x78\0", b"\x78\0\x09abc", b"\x78\0\0", b"\x7c", b"\x7c\x85", b"\x60abc", b"\x7fabc"],
    ids=["cut", "short", "empty", "FU", "FU of nothing", "type 0", "type 31"],
)
def test_packets_that_are_no_h264_are_counted_or_ignored(payload: bytes) -> None:
    depacketizer = nal.H264Depacketizer()
    assert depacketizer.push(payload, after_loss=False) == []
    assert depacketizer.push(b"\x65\x88abc", after_loss=False) == [b"\x65\x88abc"]
    assert depacketizer.malformed == (payload != b"\x78\0")


def test_kinds_that_cameras_do_not_send_are_counted() -> None:
    old, new = nal.H264Depacketizer(), nal.H265Depacketizer()
    assert old.push(b"\x79\0\0\0\x01a", after_loss=False) == []
    assert new.push(b"\x64\x01abc", after_loss=False) == []
    assert (old.unsupported, new.unsupported) == ({25: 1}, {50: 1})


def test_nothing_grows_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.sources.rtsp.nal.MAX_NAL_BYTES", 10_000)
    monkeypatch.setattr("streamclf.sources.rtsp.access_units.MAX_NAL_BYTES", 10_000)
    sender, media = packer(), TrackReceiver(H264, reorder_s=0.0)
    assert fed(media, sender.packets([key(1, 20_000)], 0)) == []
    assert fed(media, sender.packets([SEI] * (MAX_NALS + 10), STEP)) == []
    assert fed(media, sender.packets([key(1, 4000), rest(1, 4000), rest(1, 4000)], 2 * STEP)) == []
    assert media.malformed == 3
    (unit,) = fed(media, sender.packets([key(2)], 3 * STEP))
    assert unit.data.endswith(annex_b(key(2)))


def numbers(reorder: ReorderBuffer, arrivals: Sequence[int], now: float = 0.0) -> list[tuple[int, int]]:
    return [
        (arrival.run.sequence, arrival.lost)
        for number in arrivals
        for arrival in reorder.push(PacketRun(number & 0xFFFF, 0, 7, False, [b""]), now)
    ]


def test_packets_wait_for_those_before_them_and_not_for_ever() -> None:
    reorder = ReorderBuffer(0.1)
    assert numbers(reorder, [65_534, 65_535]) == [(65_534, 0), (65_535, 0)]
    assert numbers(reorder, [1, 3], 1.0) == []
    assert reorder.deadline == pytest.approx(1.1)
    assert numbers(reorder, [0], 1.05) == [(0, 0), (1, 0)]
    assert reorder.expire(1.09) == []
    assert [(arrival.run.sequence, arrival.lost) for arrival in reorder.expire(1.1)] == [(3, 1)]
    assert numbers(reorder, [2, 3], 1.2) == [], "too late, and twice"
    assert reorder.late == 2
    assert reorder.deadline is None


def test_no_more_wait_than_there_is_room_for() -> None:
    reorder = ReorderBuffer(1e9)
    numbers(reorder, [10])
    told = numbers(reorder, range(12, 12 + MAX_WAITING + 1))
    assert told[0] == (12, 1)
    assert len(told) == MAX_WAITING + 1


def test_any_order_within_the_wait_comes_out_in_order() -> None:
    rng = random.Random(3)
    for _ in range(50):
        first = rng.randrange(1 << 16)
        order = sorted(range(200), key=lambda i: i + rng.uniform(0, 20))
        reorder = ReorderBuffer(10.0)
        begun = numbers(reorder, [first - 1])
        told = begun + numbers(reorder, [first + i for i in order])
        assert [number for number, _ in told] == [(first - 1 + i) & 0xFFFF for i in range(201)]
        assert not any(lost for _, lost in told)


def test_a_sender_that_counts_anew_is_followed() -> None:
    reorder = ReorderBuffer(0.1)
    numbers(reorder, [10, 11, 13])
    assert numbers(reorder, [30_000, 30_001]) == [(13, 1), (30_000, 1), (30_001, 0)]
    assert numbers(ReorderBuffer(0.0), [10, 12, 11]) == [(10, 0), (12, 1)], "a transport in order waits for nothing"


def test_distances_on_a_circle() -> None:
    assert [distance(a, b, 16) for a, b in ((1, 65_535), (65_535, 1), (5, 5), (32_768, 0))] == [2, -2, 0, -32_768]


def test_time_goes_on_over_a_wrap_and_passes_jumps_on() -> None:
    timeline = RtpTimeline(90_000)
    assert timeline.push(2**32 - 1800, 0.0) == 0
    assert timeline.push(1800, 0.04) == 3600
    assert not timeline.jumped
    assert timeline.push(1800 - 900_000, 0.08) == 3600 - 900_000
    assert timeline.jumped
    assert timeline.ticks_of(1800) == 3600
    timeline.restart()
    assert timeline.push(12_345, 0.12) == 3600 - 900_000 + 3600


def test_one_packet_of_a_stranger_is_left_out_and_two_are_a_new_sender() -> None:
    ours, other = packer(), packer(ssrc=8, sequence=99)
    media = TrackReceiver(H264, reorder_s=0.0)
    units = fed(media, ours.packets([key(0)], 0))
    stray, first, second = (next(other.packets([key(100 + i)], 10**6 + i * STEP)) for i in range(3))
    units += fed(media, [stray, *ours.packets([key(1)], STEP)], begin=100.04)
    assert [unit.data for unit in units] == [annex_b(key(0)), annex_b(key(1))]
    units = fed(media, [first, second], begin=100.08, step=0.04)
    assert [unit.data for unit in units] == [annex_b(key(101)), annex_b(key(102))]
    assert units[0].damaged
    assert 0 < units[0].timestamp - STEP < 2 * STEP * 2, "by the clock on the wall, not by the stranger's"
    foreign = media.foreign
    assert media.push_rtp([next(packer(ssrc=8).packets([key(1)], 0)).replace(b"\xe0", b"\xe1", 1)], 101.0) == []
    assert media.foreign == foreign + 1, "another payload type"
    strangers = [next(packer(ssrc=ssrc).packets([key(1)], 0)) for ssrc in (20, 21, 22)]
    assert media.push_rtp(strangers, 101.0) == []
    assert media.foreign == foreign + 3, "all but the last, which may be a new sender's first"
    assert media.received_at == 101.0, "the first of them might have been one"


def test_a_sender_report_gives_the_time_of_day_and_a_jump_takes_it_away() -> None:
    sender, media = packer(), TrackReceiver(H264, reorder_s=0.0)
    media.push_rtcp([sender.sender_report(1_700_000_000.25, 0)], 100.0)
    (unit,) = fed(media, sender.packets([key(0)], 0))
    assert media.wall_ns(unit.timestamp) == 1_700_000_000_250_000_000
    (unit,) = fed(media, sender.packets([key(1)], STEP), begin=100.04)
    assert media.wall_ns(unit.timestamp) == 1_700_000_000_290_000_000
    assert media.wall_ns(unit.timestamp + 61 * 90_000) is None, "too long ago"
    (unit,) = fed(media, sender.packets([key(2)], 10**9), begin=100.08)
    assert media.wall_ns(unit.timestamp) is None


def test_reports_of_ntp_s_next_era_and_of_nobody() -> None:
    words = (7, 100, 0, 0, 0, 0)
    (report,), _ = parse_rtcp(struct.pack(">BBH6I", 0x80, 200, 6, *words))
    assert report.time_ns == (2**32 + 100 - NTP_EPOCH) * 10**9
    assert parse_rtcp(struct.pack(">BBH6I", 0x80, 200, 6, 7, 0, 0, 0, 0, 0)) == ([], [])
    _, leaving = parse_rtcp(packer().sender_report(1e9, 0) + packer().goodbye())
    assert leaving == [7]


def test_what_we_report_is_what_came() -> None:
    """RFC 3550, section 6.4.2: loss as a fraction of 256 since the last report, and in all."""
    reception = ReceptionStats(90_000)
    for i in (0, 1, 2, 4, 5, 6, 8, 9):
        reception.add_run(PacketRun((65_530 + i) & 0xFFFF, i * STEP, 7, False, [b""]), i * 0.04)
    (sent,), _ = parse_rtcp(packer().sender_report(1.5, 0))
    reception.add_sender_report(sent, 0.36)
    report = reception.report(42, 1.36)
    first, kind, words, own, ssrc, loss, highest, jitter, middle, delay = struct.unpack_from(">BBH7I", report)
    assert (first, kind, words, own, ssrc) == (0x81, 201, 7, 42, 7)
    assert (loss >> 24, loss & 0xFFFFFF) == (256 * 2 // 10, 2)
    assert (highest, jitter) == (65_530 + 9, 0)
    assert (middle, delay) == (((NTP_EPOCH + 1) & 0xFFFF) << 16 | 0x8000, 65_536)
    assert report[32:34] == b"\x81\xca"
    assert len(report) % 4 == 0
    assert struct.unpack_from(">I", reception.report(42, 2.0), 12)[0] >> 24 == 0, "nothing lost since"

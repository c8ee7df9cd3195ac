"""Consecutive packets are processed together, as runs: the result must be the same as one packet after another."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.rtp import MAX_PAYLOAD, PAYLOAD_TYPE, Packetizer

from streamclf.sources.rtsp.framing import InterleavedParser, ReceivedPackets
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.rtp import parse_rtp, runs_of
from streamclf.sources.rtsp.sdp import VideoTrack

PROFILE = settings(max_examples=250, deadline=None)
TYPES = frozenset({PAYLOAD_TYPE})
STEP = 3600
HEAD = 12

Packet = tuple[int, bytes]
"""(0 for RTP or 1 for RTCP, packet)."""

sizes = st.one_of(st.integers(1, 60), st.sampled_from([MAX_PAYLOAD - 1, 3 * MAX_PAYLOAD, 6 * MAX_PAYLOAD]))
frames = st.lists(st.lists(sizes, min_size=1, max_size=4), min_size=1, max_size=6)
"""The sizes of the NAL units of each frame."""


@st.composite
def streams(draw: st.DrawFn, *, hevc: bool) -> list[Packet]:
    """Draw the packets of a camera, changed by networks, other senders and faulty cameras."""
    number = draw(st.sampled_from([1000, 65_530, 65_535]))
    stamp = draw(st.sampled_from([0, 2**32 - STEP]))
    marker = draw(st.sampled_from(["last", "last", "last", "never", "every"]))
    aggregate, is_clock_frozen = draw(st.booleans()), draw(st.integers(0, 4)) == 0
    senders = [
        Packetizer(ssrc=7, sequence=number, hevc=hevc, marker=marker, aggregate=aggregate),
        Packetizer(ssrc=8, sequence=50, hevc=hevc),
    ]
    sent: list[Packet] = []
    for i, nals in enumerate(draw(frames)):
        sender = senders[draw(st.sampled_from([0, 0, 0, 0, 1]))]
        begins, follows, sets = (
            (b"\x26\x01\x80", b"\x26\x01\x00", b"\x42\x01") if hevc else (b"\x65\x88", b"\x65\x40", b"\x67")
        )
        heads = [sets, begins, follows, follows] if len(nals) > 1 and draw(st.booleans()) else [begins, *[follows] * 3]
        unit = [head + bytes([i + 1]) * size for head, size in zip(heads, nals, strict=False)]
        jump = -i * STEP if is_clock_frozen else draw(st.sampled_from([0, 0, 0, 0, 10**9]))
        sent += [(0, packet) for packet in sender.packets(unit, stamp + i * STEP + jump)]
        if draw(st.integers(0, 5)) == 0:
            sent.append((1, sender.bye() if draw(st.booleans()) else sender.sender_report(1.7e9 + i, stamp + i * STEP)))
    for kind in draw(st.lists(st.sampled_from(sorted(FAULTS)), max_size=5)):
        at = draw(st.integers(0, max(0, len(sent) - 1)))
        if sent:
            FAULTS[kind](sent, at, draw(st.integers(0, 255)))
    return sent


def _lose(sent: list[Packet], at: int, value: int) -> None:
    del sent[at : at + 1 + value % 3]


def _repeat(sent: list[Packet], at: int, value: int) -> None:
    sent[at:at] = sent[max(0, at - value % 20) : at + 1]


def _delay(sent: list[Packet], at: int, value: int) -> None:
    sent.insert(min(len(sent), at + value % 9), sent.pop(at))


def _flip(sent: list[Packet], at: int, value: int) -> None:
    """Change a byte: mostly of the header, else the first of the payload."""
    channel, data = sent[at]
    place = value % 17 % len(data)
    sent[at] = (channel, data[:place] + bytes([data[place] ^ 1 << value % 8]) + data[place + 1 :])


def _mark(sent: list[Packet], at: int, value: int) -> None:
    channel, data = sent[at]
    sent[at] = (channel, data[:1] + bytes([data[1] ^ 0x80]) + data[2:])


def _empty(sent: list[Packet], at: int, value: int) -> None:
    sent[at] = (sent[at][0], sent[at][1][: HEAD + value % 4])


def _pad(sent: list[Packet], at: int, value: int) -> None:
    """Add padding or an extension to a few packets."""
    for i in range(at, min(len(sent), at + 1 + value % 4)):
        channel, data = sent[i]
        if channel == 0 and len(data) >= HEAD:
            padded = bytes([data[0] | 0x20]) + data[1:] + b"\0\0\3"
            extended = bytes([data[0] | 0x10]) + data[1:HEAD] + b"\0\0\0\1abcd" + data[HEAD:]
            sent[i] = (channel, padded if value & 8 else extended)


def _replace(sent: list[Packet], at: int, value: int) -> None:
    """Replace the payload by a payload of another type, perhaps in the middle of a NAL unit."""
    channel, data = sent[at]
    sent[at] = (
        channel,
        data[:HEAD] + bytes([(0x41, 0x06, 0x02, 0x7C, 0x62, 0x78)[value % 6], value & 0xBF, 1]) + b"abc",
    )


def _insert_other_sender(sent: list[Packet], at: int, value: int) -> None:
    body = struct.pack(">BBHII", 0x80, PAYLOAD_TYPE + (value & 1), value, 0, 9 + (value >> 1 & 1)) + b"\x65\x88abc"
    sent[at:at] = [(0, body)] * (1 + value % 3)


FAULTS = {f.__name__: f for f in (_lose, _repeat, _delay, _flip, _mark, _empty, _pad, _replace, _insert_other_sender)}


def state_of(media: TrackReceiver, now: float) -> dict[str, Any]:
    """Return all public properties of a receiver."""
    names = ("lost", "foreign", "malformed", "unsupported", "trusts_marker", "received_at", "left_at", "deadline")
    found = {name: getattr(media, name) for name in names}
    return found | {"report": media.receiver_report(now), "wall_ns": [media.wall_ns(i * STEP) for i in range(8)]}


def split_into_reads(sent: Sequence[Packet], ends: Sequence[int]) -> list[list[ReceivedPackets]]:
    """Split the packets into reads that end at these bytes, and parse each read."""
    stream = b"".join(struct.pack(">cBH", b"$", 6 + channel, len(data)) + data for channel, data in sent)
    framing = InterleavedParser()
    framing.set_channels((6, 7), TYPES)
    at, reads = 0, []
    for end in sorted({min(end, len(stream)) for end in ends} | {len(stream)}):
        reads.append([item for item in framing.feed(stream[at:end]) if isinstance(item, ReceivedPackets)])
        at = end
    assert framing.junk == 0
    return reads


def push_no_middle(payloads: Sequence[bytes], begin: int) -> int:
    """Replace `Depacketizer.push_middle`: add no payload."""
    return begin


@given(data=st.data(), hevc=st.booleans(), wait_s=st.sampled_from([0.0, 0.0, 0.05]))
@PROFILE
def test_runs_give_the_same_result_as_single_packets(data: st.DataObject, hevc: bool, wait_s: float) -> None:
    sent = data.draw(streams(hevc=hevc))
    sent = [(channel, packet) for channel, packet in sent if len(packet) >= 8 and packet[0] >> 6 == 2]
    reads = split_into_reads(sent, data.draw(st.lists(st.integers(0, 40_000), max_size=6)))
    assert [(item.channel, packet) for items in reads for item in items for packet in item.packets] == sent
    track = VideoTrack(codec="H265" if hevc else "H264", payload_types=TYPES)
    together, alone = TrackReceiver(track, reorder_s=wait_s), TrackReceiver(track, reorder_s=wait_s)
    together._own_ssrc = alone._own_ssrc  # random in each
    alone._depacketizer.push_middle = push_no_middle  # type: ignore[method-assign] # each packet is pushed
    now = 100.0
    for items in reads:
        now += data.draw(st.sampled_from([0.0, 0.01, 0.04, 1.5]))
        if data.draw(st.integers(0, 9)) == 0:
            together.add_damage()
            alone.add_damage()
        units, expected = [], []
        for channel, packets in items:
            if channel:
                together.push_rtcp(packets, now)
            else:
                units += together.push_rtp(packets, now)
            for packet in packets:
                if channel:
                    alone.push_rtcp([packet], now)
                else:
                    expected += alone.push_rtp([packet], now)
        units += together.expire(now)
        expected += alone.expire(now)
        assert units == expected
        assert state_of(together, now) == state_of(alone, now)
    event(f"lost {together.lost > 0}, markers {together.trusts_marker}, malformed {together.malformed > 0}")


@given(st.data(), st.booleans())
@PROFILE
def test_runs_contain_the_packets_in_their_order(data: st.DataObject, hevc: bool) -> None:
    packets = [packet for _, packet in data.draw(streams(hevc=hevc))]
    runs, foreign = runs_of(packets, TYPES)
    alone = [packet for packet in map(parse_rtp, packets) if packet is not None and packet.payload_type in TYPES]
    assert foreign == len(packets) - len(alone)
    singles = [single for run in runs for single in run.singles()]
    assert [(one.sequence, one.timestamp, one.ssrc, one.marker, one.payloads) for one in singles] == [
        (one.sequence, one.timestamp, one.ssrc, one.marker, [one.payload]) for one in alone
    ]


def test_a_frame_without_losses_is_one_run() -> None:
    sender = Packetizer(ssrc=7, sequence=65_530)
    first, second = (list(sender.packets([b"\x65\x88" + bytes(5000)], i * STEP)) for i in range(2))
    runs, _ = runs_of([*first, *second], TYPES)
    assert [(run.sequence, run.marker, len(run.payloads)) for run in runs] == [
        (65_530, True, 4), (65_534, False, 2), (0, True, 2)
    ], "another run where the sequence numbers wrap around"  # fmt: skip


def test_a_frame_that_ends_inside_a_run_has_not_waited() -> None:
    """With equal time stamps and without markers, only the first slice of the next frame ends a frame."""
    sender = Packetizer(ssrc=7, sequence=1, marker="never")
    first, *others = (list(sender.packets([b"\x65\x88" + bytes([i]) * 9], 0)) for i in range(3))
    media = TrackReceiver(VideoTrack(codec="H264", payload_types=TYPES), reorder_s=0.0)
    assert media.push_rtp(first, 100.0) == []
    units = media.push_rtp([packet for packets in others for packet in packets], 105.0)
    assert [unit.waited_s for unit in units] == [5.0, 0.0]

"""Any bytes from a server cause only the errors that callers expect, and stay within the limits."""

from __future__ import annotations

import struct
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.rtp import Packetizer

from streamclf.errors import SourceError
from streamclf.sources.rtsp.access_units import START_CODE
from streamclf.sources.rtsp.address import parse_url
from streamclf.sources.rtsp.auth import Authenticator, Credentials, choose_challenge
from streamclf.sources.rtsp.framing import InterleavedParser, ReceivedPackets
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.message import (
    MAX_BODY_BYTES,
    MAX_HEADERS,
    MalformedMessageError,
    parse_head,
    request_bytes,
)
from streamclf.sources.rtsp.rtcp import parse_rtcp
from streamclf.sources.rtsp.rtp import parse_rtp
from streamclf.sources.rtsp.sdp import MAX_PARAMETER_SETS, VideoTrack, parse_sdp
from streamclf.sources.rtsp.session import _pair

PROFILE = settings(max_examples=150, deadline=None)
WORDS = st.sampled_from(
    ["m=video", "m=audio", "a=rtpmap:96", "a=fmtp:96", "a=control:", "H264/90000", "H265/90000", "RTP/AVP", "RTP/SAVP",
     "96", "26", "0", "sprop-parameter-sets=", "sprop-sps=", "packetization-mode=", "1", "Z0IAHg==", ";", ",", "*", " ",
     "=", ":", "/", "\r\n", "\n", "rtsp://c/", "Digest", "Basic", "realm=", '"', "\\", "nonce=", "qop=", "auth",
     "stale=", "algorithm=", "SHA-256", "MD5-sess", "\x00", "é", "RTSP/1.0 200 OK", "CSeq: 1", "Content-Length:",
     "OPTIONS"]
)  # fmt: skip
TEXTS = st.one_of(st.lists(WORDS, max_size=40).map("".join), st.text(max_size=200))
BYTES = st.one_of(TEXTS.map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=300))


@given(BYTES)
@PROFILE
def test_any_sdp_is_parsed_or_refused(body: bytes) -> None:
    with suppress(SourceError, MalformedMessageError):
        presentation = parse_sdp(body)
        assert len(presentation.track.parameter_sets) <= MAX_PARAMETER_SETS
        # Control URLs become part of a request's first line.
        for control in (presentation.control, presentation.track.control):
            assert request_bytes("SETUP", control, {}).count(b"\r\n") == 2


@given(st.lists(TEXTS, max_size=4), TEXTS, TEXTS)
@PROFILE
def test_any_challenge_is_answered_or_ignored(headers: list[str], user: str, password: str) -> None:
    challenge = choose_challenge(headers)
    if challenge is not None:
        header = Authenticator(Credentials(user=user, password=password), challenge).header("PLAY", "rtsp://c/")
        assert header.startswith(("Digest ", "Basic "))
        if challenge.scheme == "digest" and len(password) > 30 and password not in user + "".join(headers):
            assert password not in header


@given(BYTES)
@PROFILE
def test_any_message_head_is_parsed_or_refused(head: bytes) -> None:
    with suppress(MalformedMessageError):
        message, length = parse_head(head)
        assert bool(message.status) != bool(message.method)
        assert length <= MAX_BODY_BYTES
        assert sum(map(len, message.headers.values())) <= MAX_HEADERS
        assert message.sequence is None or message.sequence >= 0


@given(TEXTS)
@PROFILE
def test_any_url_and_transport_is_parsed_or_refused(text: str) -> None:
    with suppress(SourceError):
        address, _ = parse_url(f"rtsp://{text}", "cam")
        assert request_bytes("OPTIONS", address.url, {})
        assert " " not in address.url
    ports = _pair("server_port", f"x;server_port={text}", 65535)
    assert ports is None or all(0 <= port <= 65535 for port in ports)


PACKET = st.builds(
    lambda body, kind, number, channel: struct.pack(">cBHBBH", b"$", channel, len(body) + 4, 0x80, kind, number) + body,
    st.binary(min_size=4, max_size=60),
    st.sampled_from([96, 224, 200, 203]),
    st.integers(0, 65535),
    st.integers(0, 2),
)


@given(st.lists(st.one_of(PACKET, BYTES), max_size=12), st.integers(1, 400))
@example(
    [b"$\0\0\x08\x80\x60" + bytes(6), b"\0A ", b"$\0\0\x08\x80\x60" + bytes(6)], 1
)  # junk that looks like a request
@PROFILE
def test_a_stream_gives_the_same_packets_with_any_read_sizes(parts: list[bytes], step: int) -> None:
    stream = b"".join(parts)
    results = []
    for size in (step, len(stream) + 1):
        framing, items = InterleavedParser(), []
        framing.set_channels((0, 1), frozenset({96}))
        with suppress(MalformedMessageError):
            for begin in range(0, len(stream), size):
                items += framing.feed(stream[begin : begin + size])
        assert len(framing._buffer) <= 1 << 17
        cut = [item for item in items if isinstance(item, ReceivedPackets)]
        results.append([(data.channel, packet) for data in cut for packet in data.packets])
    assert {channel for items in results for channel, _ in items} <= {0, 1}
    # After junk, the beginning of a packet or response is recognised from the bytes received so far. Only then may the
    # results differ.
    all_packets = all(part[:1] == b"$" and part[1:2] in (b"\0", b"\1") for part in parts)
    if all_packets or not any(b"$" in part[1:] or b"RTSP" in part or part == b"$" for part in parts):
        assert results[0] == results[1]


RTP = st.builds(
    lambda first, kind, number, stamp, ssrc, body: struct.pack(">BBHII", first, kind, number, stamp, ssrc) + body,
    st.sampled_from([0x80, 0x80, 0x80, 0x90, 0xA0, 0x8F, 0x40]),
    st.sampled_from([96, 224, 97]),
    st.one_of(st.integers(0, 12), st.integers(0, 65535)),
    st.one_of(st.sampled_from([0, 3600, 7200]), st.integers(0, 2**32 - 1)),
    st.sampled_from([7, 7, 7, 8]),
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda kind, flags, rest: bytes([kind, flags]) + rest,
            st.sampled_from([0x7C, 0x78, 0x65, 0x41, 0x67, 0x62, 0x60, 0x26, 0x02]),
            st.integers(0, 255),
            st.binary(max_size=40),
        ),
    ),
)


@given(st.lists(RTP, max_size=60), st.sampled_from(["H264", "H265"]), st.sampled_from([0.0, 0.1]), st.booleans())
@PROFILE
def test_any_rtp_packets_give_bounded_units(packets: list[bytes], codec: str, wait_s: float, damage: bool) -> None:
    media = TrackReceiver(VideoTrack(codec=codec, payload_types=frozenset({96})), reorder_s=wait_s)
    units = []
    for i, packet in enumerate(packets):
        now = 100 + i * 0.01
        if damage and i % 7 == 0:
            media.add_damage()
        units += media.push_rtp([packet], now)
        media.push_rtcp([packet], now)
        units += media.expire(now)
        assert media.deadline is None or media.deadline > now
        assert 0 < len(media.receiver_report(now)) < 100
    assert all(unit.data.startswith(START_CODE) and unit.waited_s >= 0 for unit in units)
    # Every byte comes from a packet, and only once.
    assert sum(len(unit.data) for unit in units) <= sum(map(len, packets)) + 8 * 20 * len(packets)
    assert media.lost >= 0


@given(st.binary(max_size=200))
@PROFILE
def test_any_bytes_are_parsed_as_packets_or_rejected(data: bytes) -> None:
    packet = parse_rtp(data)
    assert packet is None or len(packet.payload) <= len(data) - 12
    reports, leaving = parse_rtcp(data)
    assert len(reports) <= 32
    assert len(leaving) <= 32 * 31


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=4000), min_size=1, max_size=4), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
@PROFILE
def test_any_nal_units_survive_packetization(frames: list[list[bytes]], hevc: bool, aggregate: bool) -> None:
    head, follow = (b"\x26\x01\x80", b"\x26\x01\x00") if hevc else (b"\x65\x80", b"\x65\x00")
    sender = Packetizer(ssrc=7, sequence=65_530, hevc=hevc, aggregate=aggregate)
    media = TrackReceiver(VideoTrack(codec="H265" if hevc else "H264", payload_types=frozenset({96})), reorder_s=0.0)
    for i, frame in enumerate(frames):
        nals = [(follow if j else head) + body for j, body in enumerate(frame)]
        units = [unit for packet in sender.packets(nals, i * 3600) for unit in media.push_rtp([packet], i * 0.04)]
        assert [unit.data for unit in units] == [b"".join(START_CODE + nal for nal in nals)]
        assert not units[0].damaged

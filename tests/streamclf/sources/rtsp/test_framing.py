"""Splitting a TCP stream into messages and packets, with reads that end anywhere and junk in between."""

from __future__ import annotations

import random
import struct

import pytest

from streamclf.sources.rtsp.framing import InterleavedParser, ReceivedPackets
from streamclf.sources.rtsp.message import MalformedMessageError, RtspMessage


def packet(number: int, size: int = 200, channel: int = 0) -> bytes:
    """Make an interleaved packet whose payload contains many sequences that look like the beginning of a packet."""
    body = struct.pack(">BBHII", 0x80, 96, number, 0, 7) + b"$\0\0\x10RTSP/" * (size // 9)
    return struct.pack(">cBH", b"$", channel, len(body)) + body


def make_parser() -> InterleavedParser:
    found = InterleavedParser()
    found.set_channels((0, 1), frozenset({96}))
    return found


@pytest.mark.parametrize("step", [1, 7, 1000, 10**6])
def test_packets_and_messages_are_found_with_any_read_sizes(step: int) -> None:
    response_bytes = b"RTSP/1.0 200 OK\r\nCSeq: 5\r\nContent-Length: 4\r\nX: 1\r\nX:2\r\n\r\n$$$$"
    request_bytes = b"OPTIONS rtsp://us RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    stream = (
        packet(1)
        + response_bytes
        + b"\r\n"
        + packet(2, channel=1).replace(b"\x80\x60", b"\x80\xc8")
        + request_bytes
        + packet(3)
    )
    parser, items = make_parser(), []
    for begin in range(0, len(stream), step):
        items += parser.feed(stream[begin : begin + step])
    first, response, second, request, last = items
    assert [item.channel for item in (first, second, last) if isinstance(item, ReceivedPackets)] == [0, 1, 0]
    assert isinstance(response, RtspMessage)
    assert (response.status, response.sequence, response.body, response.headers["x"]) == (200, 5, b"$$$$", ["1", "2"])
    assert isinstance(request, RtspMessage)
    assert (request.method, request.status) == ("OPTIONS", 0)
    assert parser.junk == 0


def test_the_next_packet_after_junk_is_found() -> None:
    rng = random.Random(5)
    incomplete = 0
    for _ in range(200):
        parser = make_parser()
        junk = rng.randbytes(rng.randrange(1, 4000))
        cut = rng.randrange(1, 150)  # the rest of a packet whose beginning is lost
        stream = packet(1) + junk + packet(2)[cut:] + b"".join(packet(i) for i in range(3, 60))
        found = []
        for begin in range(0, len(stream), 777):
            found += parser.feed(stream[begin : begin + 777])
        packets = [each for item in found if isinstance(item, ReceivedPackets) for each in item.packets]
        sequences = {struct.unpack_from(">H", each, 2)[0] for each in packets}
        assert 1 in sequences
        # Junk that looks like a packet's header hides as many bytes as that packet would have: rare.
        incomplete += not {*range(3, 60)} <= sequences
        assert parser.junk > 0 or len(packets) == 1
    assert incomplete <= 4


def test_a_stream_of_junk_is_refused() -> None:
    for piece in (b"\1", b"$", b"$\0", b"RTSP/1.0 20", b"$\0RTSP/", b"A"):
        parser = make_parser()

        def flood(parser: InterleavedParser = parser, piece: bytes = piece) -> None:
            for _ in range(40):
                parser.feed(piece * (65_536 // len(piece)))

        with pytest.raises(MalformedMessageError, match="bytes without a packet"):
            flood()
    with pytest.raises(MalformedMessageError, match="not RTSP"):
        InterleavedParser().feed(b"HTTP/1.1 200 OK\r\n\r\n")

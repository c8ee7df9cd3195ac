"""FFmpeg reads RTSP servers only behind our limits, and never has the password of a stream."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections.abc import Callable

import pytest
from support.hostile_http import HostileServer, hostile

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source
from streamclf.sources.rtsp import relay

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    b"a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)
Answer = Callable[[HostileServer, socket.socket, str], None]


def reply(head: str, status: str = "200 OK", fields: str = "", body: bytes = b"") -> bytes:
    sequence = re.search(r"CSeq: *(\d+)", head)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"RTSP/1.0 {status}\r\nCSeq: {sequence[1] if sequence else 1}\r\n{fields}{length}\r\n".encode() + body


def for_each_request(answer: Answer) -> Answer:
    """Call `answer` for all requests of a connection; OPTIONS is answered here."""

    def run(server: HostileServer, sock: socket.socket, first: str) -> None:
        head: str | None = first
        while head is not None:
            if head.startswith("OPTIONS"):
                server.send(sock, reply(head, fields="Public: OPTIONS, DESCRIBE\r\n"))
            else:
                answer(server, sock, head)
            head = server.read_head(sock)

    return run


def refused(server: HostileServer, message: str, demuxer: str = "ffmpeg") -> None:
    config = {"url": f"rtsp://ann:secret@127.0.0.1:{server.port}/live", "demuxer": demuxer}
    keys = StreamConfig.model_validate({**config, "open_timeout_s": 4, "read_timeout_s": 1})
    with pytest.raises(SourceError, match=message) as caught, open_source(keys) as source:
        list(itertools.islice(source, 1000))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


both = pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg", "auto"])


@both
def test_a_description_of_gigabytes_is_refused(demuxer: str) -> None:
    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        fields = "Content-Type: application/sdp\r\nContent-Length: 1900000000\r\n"
        server.pour(sock, reply(head, fields=fields) + SDP, b"a=x:" + b"y" * 65530 + b"\r\n")

    with hostile(for_each_request(answer)) as server:
        refused(server, "the server sends a body of more than|a response that is not RTSP|a description", demuxer)
        assert server.sent < 16 << 20


@both
def test_headers_without_end_are_refused(demuxer: str) -> None:
    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        server.pour(sock, b"RTSP/1.0 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n")

    with hostile(for_each_request(answer)) as server:
        refused(server, "the server sends a response that is not RTSP", demuxer)
        assert server.sent < 16 << 20


@both
@pytest.mark.parametrize("challenge", ["", "Basic", "Digest"])
def test_redirections_to_other_hosts_are_refused_without_the_password(challenge: str, demuxer: str) -> None:
    with hostile(for_each_request(lambda server, sock, head: server.send(sock, reply(head)))) as other:
        to = f"Location: rtsp://localhost:{other.port}/x\r\n"
        asks = f'WWW-Authenticate: {challenge} realm="x", nonce="abc"\r\n'

        def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
            if challenge and "Authorization" not in head:
                server.send(sock, reply(head, "401 X", asks))
            else:
                server.send(sock, reply(head, "302 X", to))

        with hostile(for_each_request(answer)) as server:
            refused(server, "redirects to another host", demuxer)
            assert any(f"Authorization: {challenge}" in head for head in server.requests) == bool(challenge)
        assert not other.connections


@both
def test_redirections_within_the_host_are_followed_three_times(demuxer: str) -> None:
    moved: Answer = lambda server, sock, head: server.send(  # noqa: E731
        sock, reply(head, "302 X", f"Location: rtsp://127.0.0.1:{server.port}/again\r\n")
    )
    with hostile(for_each_request(moved)) as server:
        refused(server, "redirects more than 3 times", demuxer)
        assert server.connections == 4
        assert f"DESCRIBE rtsp://127.0.0.1:{server.port}/again RTSP/1.0" in "".join(server.requests)


def test_packets_without_a_frame_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_BYTES", 4 << 20)
    transport = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"

    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        if head.startswith("DESCRIBE"):
            server.send(sock, reply(head, fields="Content-Type: application/sdp\r\n", body=SDP))
        elif head.startswith("SETUP"):
            server.send(sock, reply(head, fields=transport))
        else:  # parts of one picture without end
            part = b"$\0\x05\x86" + b"\x80\x60" + bytes(10) + b"\x7c\x05" + b"a" * 1400
            assert len(part) == 4 + 0x586
            server.pour(sock, reply(head), part * 40)

    with hostile(for_each_request(answer)) as server:
        refused(server, "4 MiB without a frame")
        assert server.sent < 24 << 20


def test_the_relay_serves_nobody_who_does_not_know_its_url() -> None:
    with hostile(for_each_request(lambda server, sock, head: None)) as server:
        config = StreamConfig.model_validate({"url": f"rtsp://127.0.0.1:{server.port}/x"})

        relayed = relay.RtspRelay(
            str(config.url),
            shown="cam",
            context=lambda: pytest.fail("no TLS"),
            deadline=time.monotonic() + 5,
            stop=threading.Event(),
        )
        port = int(relayed.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"OPTIONS rtsp://127.0.0.1/x RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            assert sock.recv(100) == b""
        relayed.close()
        assert not server.requests

"""RTSP's texts: URLs, descriptions, proofs of who one is, and the stream that they stand in."""

from __future__ import annotations

import base64
import random
import ssl
import struct
from hashlib import md5
from pathlib import Path

import pytest

from streamclf.errors import SourceError
from streamclf.sources.rtsp.address import Credentials, join_control, parse_url, resolve_redirect
from streamclf.sources.rtsp.auth import Authenticator, choose_challenge
from streamclf.sources.rtsp.connection import tls_context
from streamclf.sources.rtsp.fallback import MAX_AGE_S, FallbackCache, UnsupportedStreamError
from streamclf.sources.rtsp.framing import InterleavedParser, ReceivedPackets
from streamclf.sources.rtsp.message import MalformedMessageError, RtspMessage, request_bytes
from streamclf.sources.rtsp.sdp import parse_sdp

SPS, PPS = b"\x67\x42\x00\x1e\xab", b"\x68\xce\x3c\x80"
SETS = ",".join(base64.b64encode(part).decode() for part in (SPS, PPS))


def test_a_url_without_who_asks() -> None:
    address, credentials = parse_url("RTSP://a%40n:p%3A%2F@cam.example:8554/live?channel=1&x=ü", "cam")
    assert (address.url, address.host, address.port, address.tls) == (
        "rtsp://cam.example:8554/live?channel=1&x=%C3%BC", "cam.example", 8554, False,
    )  # fmt: skip
    assert credentials == Credentials(user="a@n", password="p:/")
    assert "p:/" not in repr(credentials)
    assert [parse_url(f"{scheme}://[::1]/", "x")[0].port for scheme in ("rtsp", "rtsps")] == [554, 322]
    assert parse_url("rtsp://cam/a b\r\nX: y", "x")[0].url == "rtsp://cam/a%20b%0D%0AX:%20y"


@pytest.mark.parametrize(
    "url", ["rtsp://", "http://cam/", "rtsp://cam:port/", "rtsp://[::1/", "rtsp://c/" + "x" * 3000]
)
def test_what_is_no_rtsp_url(url: str) -> None:
    with pytest.raises(SourceError, match="give one like rtsp://HOST:PORT/PATH"):
        parse_url(url, "cam")


def test_a_track_s_url_is_what_servers_expect_not_what_links_are() -> None:
    assert join_control("rtsp://c/live?channel=1", "track1") == "rtsp://c/live?channel=1/track1"
    assert join_control("rtsp://c/live/", "track1") == "rtsp://c/live/track1"
    assert join_control("rtsp://c/live/", "rtsp://10.0.0.1/live/1") == "rtsp://10.0.0.1/live/1"
    assert join_control("rtsp://c/live", "*") == join_control("rtsp://c/live", "") == "rtsp://c/live"


def test_no_server_leads_us_elsewhere_or_out_of_its_encryption() -> None:
    plain, _ = parse_url("rtsp://cam/a", "cam")
    safe, _ = parse_url("rtsps://cam/a", "cam")
    assert resolve_redirect(plain, "rtsps://CAM:555/b", "cam").port == 555
    for address, location, why in (
        (plain, "rtsp://cam.evil/a", "another host"),
        (plain, "rtsp://cam@evil/a", "another host"),
        (safe, "rtsp://cam/a", "without encryption"),
        (plain, "http://cam/a", "an invalid address"),
        (plain, "", "an invalid address"),
    ):
        with pytest.raises(SourceError, match=why):
            resolve_redirect(address, location, "cam")


MUFASA = Credentials(user="Mufasa", password="Circle of Life")
RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_digest_of_rfc_7616_section_3_9_1(algorithm: str, response: str) -> None:
    challenge = choose_challenge([RFC_7616.format(algorithm)])
    assert challenge
    told = Authenticator(MUFASA, challenge).header(
        "GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    )
    assert f'response="{response}"' in told
    assert "qop=auth, nc=00000001" in told
    assert 'opaque="FQhe' in told


def test_the_digest_of_rfc_2617_section_3_5() -> None:
    header = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    challenge = choose_challenge([header])
    assert challenge
    told = Authenticator(Credentials(user="Mufasa", password="Circle Of Life"), challenge)
    assert 'response="6629fae49393a05397450978507c4ef1"' in told.header("GET", "/dir/index.html", "0a4f113b")
    assert "nc=00000002" in told.header("GET", "/dir/index.html")
    assert "algorithm" not in told.header("GET", "/"), "only where the server named one: old ones know none"


def test_the_best_of_several_proofs_is_given() -> None:
    both = 'Basic realm="a, b", Digest realm="x", nonce="1", Digest realm="x", nonce="2", algorithm=SHA-256'
    for headers in ([both], ['Digest realm="x", nonce="2", algorithm=SHA-256', "Basic realm=q", "Digest nonce=1"]):
        challenge = choose_challenge(headers)
        assert challenge
        assert (challenge.scheme, challenge.parameters["nonce"]) == ("digest", "2")
    basic = choose_challenge(["Negotiate abc=", 'Digest realm="x", nonce="n", qop="auth-int"', 'Basic realm="q\\"q"'])
    assert basic
    assert Authenticator(MUFASA, basic).header("X", "y") == "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl"
    assert basic.parameters["realm"] == 'q"q'
    assert choose_challenge(["Negotiate", "Digest algorithm=X", ""]) is None


def test_a_session_digest_has_the_nonces_in_its_secret() -> None:
    challenge = choose_challenge(['Digest realm="r", nonce="n", algorithm=MD5-sess'])
    assert challenge
    told = Authenticator(Credentials(user="u", password="p"), challenge).header("PLAY", "rtsp://c/", "c")
    secret = md5(b"%s:n:c" % md5(b"u:r:p").hexdigest().encode()).hexdigest()
    right = md5(f"{secret}:n:{md5(b'PLAY:rtsp://c/').hexdigest()}".encode()).hexdigest()
    assert f'response="{right}"' in told
    assert 'cnonce="c"' in told


def sdp(*lines: str) -> bytes:
    return "\r\n".join(["v=0", "s=x", *lines, ""]).encode()


def test_the_first_video_that_we_can_read() -> None:
    offer = parse_sdp(
        sdp(
            "a=control:*",
            "m=audio 0 RTP/AVP 0", "a=control:audio",
            "m=video 0 RTP/AVP 26", "a=control:jpeg",
            "m=video 0 RTP/AVP 97 96",
            "a=rtpmap:97 rtx/90000", "a=rtpmap:96 h264/90000", "a=framerate:12.5", "a=control:trackID=2",
            f"a=fmtp:96 packetization-mode=1; sprop-parameter-sets={SETS} ;profile-level-id=42001e",
        )
    )  # fmt: skip
    track = offer.track
    assert (offer.control, track.control, track.codec, track.fps) == ("*", "trackID=2", "H264", 12.5)
    assert (track.payload_types, track.clock_hz, track.parameter_sets) == ({96}, 90_000, (SPS, PPS))


def test_a_description_of_h265_with_nonsense_in_it() -> None:
    vps = base64.b64encode(b"\x40\x01vps").decode().rstrip("=")
    offer = parse_sdp(
        sdp(
            "m=video 0 RTP/AVP 98", "a=rtpmap:98 H265/9e9", "a=framerate:nan", f"a=fmtp:98 sprop-vps={vps};sprop-sps=&&"
        )
    )
    assert (offer.track.codec, offer.track.clock_hz, offer.track.fps) == ("H265", 90_000, None)
    assert offer.track.parameter_sets == (b"\x40\x01vps",)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["m=video 0 RTP/AVP 26"], "JPEG, not H.264 or H.265"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 MP4V-ES/90000"], "MP4V-ES, not"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 \x1b[31mH\u2028/1"], "31mH, not"),
        (["m=video 0 RTP/SAVP 96", "a=rtpmap:96 H264/90000"], "encrypted"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", "a=crypto:1 AES"], "encrypted"),
        (["m=video 0 udp 96", "a=rtpmap:96 H264/90000"], "media over UDP, not RTP"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/9", "a=fmtp:96 packetization-mode=2"], "out of order"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H265/9", "a=fmtp:96 sprop-max-don-diff=2"], "out of order"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/9", "a=control:a b"], "invalid control URL"),
        (["m=video"], "not RTP"),
        ([], "without media"),
        (["x" * 70_000], "at most 65536 are read"),
    ],
)
def test_what_is_beyond_us_is_said_in_plain_words(lines: list[str], why: str) -> None:
    with pytest.raises(UnsupportedStreamError, match=why) as caught:
        parse_sdp(sdp(*lines))
    assert str(caught.value).isprintable()


def packet(number: int, size: int = 200, channel: int = 0) -> bytes:
    """An interleaved packet whose payload looks like many beginnings of one."""
    body = struct.pack(">BBHII", 0x80, 96, number, 0, 7) + b"$\0\0\x10RTSP/" * (size // 9)
    return struct.pack(">cBH", b"$", channel, len(body)) + body


def framing() -> InterleavedParser:
    found = InterleavedParser()
    found.set_channels((0, 1), frozenset({96}))
    return found


@pytest.mark.parametrize("step", [1, 7, 1000, 10**6])
def test_packets_and_messages_are_cut_out_wherever_the_reads_end(step: int) -> None:
    answer = b"RTSP/1.0 200 OK\r\nCSeq: 5\r\nContent-Length: 4\r\nX: 1\r\nX:2\r\n\r\n$$$$"
    asked = b"OPTIONS rtsp://us RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    stream = packet(1) + answer + b"\r\n" + packet(2, channel=1).replace(b"\x80\x60", b"\x80\xc8") + asked + packet(3)
    frames, items = framing(), []
    for begin in range(0, len(stream), step):
        items += frames.feed(stream[begin : begin + step])
    first, told, second, request, last = items
    assert [item.channel for item in (first, second, last) if isinstance(item, ReceivedPackets)] == [0, 1, 0]
    assert isinstance(told, RtspMessage)
    assert (told.status, told.sequence, told.body, told.headers["x"]) == (200, 5, b"$$$$", ["1", "2"])
    assert isinstance(request, RtspMessage)
    assert (request.method, request.status) == ("OPTIONS", 0)
    assert frames.junk == 0


def test_after_junk_the_next_packet_is_found() -> None:
    rng = random.Random(5)
    swallowed = 0
    for _ in range(200):
        frames = framing()
        junk = rng.randbytes(rng.randrange(1, 4000))
        cut = rng.randrange(1, 150)  # the rest of a packet whose beginning is lost
        stream = packet(1) + junk + packet(2)[cut:] + b"".join(packet(i) for i in range(3, 60))
        found = []
        for begin in range(0, len(stream), 777):
            found += frames.feed(stream[begin : begin + 777])
        packets = [each for item in found if isinstance(item, ReceivedPackets) for each in item.packets]
        sequences = {struct.unpack_from(">H", each, 2)[0] for each in packets}
        assert 1 in sequences
        # Junk that looks like the head of a packet swallows as much as that would be long: one in some hundred.
        swallowed += not {*range(3, 60)} <= sequences
        assert frames.junk > 0 or len(packets) == 1
    assert swallowed <= 4


def test_a_stream_of_junk_alone_is_given_up() -> None:
    for piece in (b"\1", b"$", b"$\0", b"RTSP/1.0 20", b"$\0RTSP/", b"A"):
        frames = framing()

        def flood(frames: InterleavedParser = frames, piece: bytes = piece) -> None:
            for _ in range(40):
                frames.feed(piece * (65_536 // len(piece)))

        with pytest.raises(MalformedMessageError, match="bytes without a packet"):
            flood()
    with pytest.raises(MalformedMessageError, match="not RTSP"):
        InterleavedParser().feed(b"HTTP/1.1 200 OK\r\n\r\n")


def test_no_part_of_a_request_ends_its_line() -> None:
    assert request_bytes("PLAY", "rtsp://c/", {"CSeq": "1"}) == b"PLAY rtsp://c/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    for url, value in (("a\nb", "c"), ("a", "b\r\nEvil: 1")):
        with pytest.raises(MalformedMessageError):
            request_bytes("PLAY", url, {"Session": value})


def test_what_is_learnt_is_forgotten_after_an_hour_and_never_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("streamclf.sources.rtsp.fallback.time.monotonic", lambda: clock[0])
    cache = FallbackCache()
    for i in range(1000):
        cache.add(f"rtsp://c/{i}", "JPEG")
    assert cache.reason("rtsp://c/0") is None
    assert cache.reason("rtsp://c/999") == "JPEG"
    clock[0] = MAX_AGE_S + 1
    assert cache.reason("rtsp://c/999") is None


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    for name, why in (("absent.pem", "No such file"), ("none.pem", "no certificate in it")):
        with pytest.raises(SourceError, match=rf"tls_ca .*{name}: cannot be read \({why}"):
            tls_context(str(tmp_path / name), verify=True, shown="cam")
    assert tls_context(None, verify=True, shown="cam").verify_mode is ssl.CERT_REQUIRED
    assert tls_context(None, verify=True, shown="cam").check_hostname
    assert tls_context(None, verify=False, shown="cam").verify_mode is ssl.CERT_NONE

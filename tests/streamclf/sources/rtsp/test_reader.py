"""Our own RTSP client against a server with the traits and faults of cameras, and the fallback to FFmpeg.

Tests of what both have in common are in test_network.py.
"""

from __future__ import annotations

import gc
import itertools
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.clips import film, read_number
from support.rtsp_server import HOST, RtspServer, Traits

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError, SourceRefusedError
from streamclf.sources import Frame, Source, open_source
from streamclf.sources.rtsp import fallback
from streamclf.sources.switching_decoder import SwitchingDecoder

FILM = film(frames=100)
HEVC = film(frames=60, codec="libx265")
X265_GOP = "log-level=none:pools=none:frame-threads=1:repeat-headers=1:bframes=0:keyint=40:min-keyint=40:scenecut=0"
MJPEG = "v=0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track0\r\n"


@pytest.fixture(autouse=True)
def empty_fallback_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fallback.FallbackCache()
    monkeypatch.setattr("streamclf.sources.network.FALLBACK_CACHE", cache)
    monkeypatch.setattr("streamclf.sources.rtsp.reader.FALLBACK_CACHE", cache)


def live(url: str, **keys: Any) -> Source:
    """Open `url`. A machine may stop for seconds, so the time-outs are long where they are not what a test is about."""
    keys = {"open_timeout_s": 30, "read_timeout_s": 20, "demuxer": "rtp", **keys}
    return open_source(StreamConfig.model_validate({"url": url, **keys}))


def served(movie: Any = FILM, **traits: Any) -> RtspServer:
    return RtspServer({"cam": movie}, traits=Traits(**traits))


def take(source: Source, count: int) -> list[Frame]:
    frames = list(itertools.islice(source, count))
    assert len(frames) == count
    return frames


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.to_rgb(180, 320)) for frame in frames]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("aggregate", [False, True], ids=["single", "aggregated"])
@pytest.mark.parametrize("movie", [FILM, HEVC], ids=["H264", "H265"])
def test_all_frames_arrive_in_order_with_their_time_stamps(movie: Any, aggregate: bool, transport: str) -> None:
    with served(movie, aggregate=aggregate) as server, live(server.url("cam"), transport=transport) as source:
        frames = take(source, 12)
        assert source.info.codec == ("h264" if movie is FILM else "hevc")
        assert source.info.fps == 25
        assert source.info.note is None
    assert numbers(frames) == list(range(12))
    assert [round(frame.pts_ns / 4e7) for frame in frames] == list(range(12))
    assert not any(frame.corrupt for frame in frames)


def test_a_frame_is_returned_before_the_next_one_is_sent() -> None:
    """The reason for our own client: FFmpeg's demuxer returns the first frame of a stalled stream at the time-out."""
    with served(film(frames=20, fps=1, gop=5)) as server, live(server.url("cam")) as source:
        for i in range(2):
            assert numbers(take(source, 1)) == [i]
            assert max(server.mounts["cam"].sent_at, default=0) <= i, "the next frame has not been sent yet"


@pytest.mark.parametrize("movie", [FILM, HEVC], ids=["H264", "H265"])
@pytest.mark.parametrize(("sprop", "in_band"), [(True, False), (False, True)], ids=["described", "in the stream"])
def test_parameter_sets_in_the_sdp_or_in_the_stream_are_enough(movie: Any, sprop: bool, in_band: bool) -> None:
    with served(movie, sprop=sprop, in_band=in_band) as server, live(server.url("cam")) as source:
        assert numbers(take(source, 5)) == list(range(5))


@pytest.mark.parametrize("movie", [FILM, HEVC], ids=["H264", "H265"])
def test_without_marker_bits_a_frame_ends_where_the_next_begins(movie: Any) -> None:
    with served(movie, marker="never") as server, live(server.url("cam")) as source:
        assert numbers(take(source, 5)) == list(range(5))


def test_new_codec_parameters_apply_from_the_next_frame() -> None:
    large = film(frames=50, width=640, height=360, first=1000)
    with served() as server, live(server.url("cam")) as source:
        take(source, 3)
        server.fault("cam", film=large)
        frame = next(frame for frame in itertools.islice(source, 200) if frame.width == 640)
        assert read_number(frame.to_rgb(180, 320)) == 1000
        assert not frame.corrupt
        assert server.mounts["cam"].plays == 1


def test_counters_that_wrap_around_cause_no_jump() -> None:
    traits = {"timestamp": 2**32 - 4 * 3600, "sequence": 2**16 - 7}
    with served(**traits) as server, live(server.url("cam")) as source:
        frames = take(source, 12)
        assert source.lost == 0
    assert [round(frame.pts_ns / 4e7) for frame in frames] == list(range(12))


def test_udp_packets_are_put_back_in_order() -> None:
    big = film(frames=40, width=640, height=360)
    with served(big, shuffle=0.3) as server, live(server.url("cam"), transport="udp") as source:
        frames = take(source, 30)
        assert source.lost == 0
    assert [read_number(frame.to_rgb(360, 640)) for frame in frames] == list(range(30))
    assert not any(frame.corrupt for frame in frames)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_lost_packets_are_counted_and_mark_frames_broken(transport: str) -> None:
    with served() as server, live(server.url("cam"), transport=transport) as source:
        take(source, 3)
        server.fault("cam", drop=0.2, rate=4.0)
        frames = take(source, 40)
        assert source.lost > 0
    assert any(frame.broken for frame in frames)


def test_a_new_sender_continues_the_media_time_of_the_old_one() -> None:
    with served(ssrc_every=25) as server, live(server.url("cam")) as source:
        server.fault("cam", rate=4.0)
        frames = take(source, 60)
    steps = [after.pts_ns - before.pts_ns for before, after in itertools.pairwise(frames)]
    assert all(0 <= step < 1e9 for step in steps), "not the 1,000 s by which the time stamps differ"


def test_an_audio_track_is_ignored() -> None:
    with served(audio=True) as server, live(server.url("cam")) as source:
        assert numbers(take(source, 3)) == [0, 1, 2]
    assert [url for method, url in server.requests if method == "SETUP"] == [f"rtsp://{HOST}:{server.port}/cam/track0"]


def test_frames_carry_the_camera_clock_from_sender_reports() -> None:
    began = time.time()
    with served() as server, live(server.url("cam")) as source:
        frames = take(source, 5)
        wall_times = [frame.wall_ns for frame in frames if frame.wall_ns is not None]
    assert len(wall_times) >= 4
    assert all(began - 1 < wall_ns / 1e9 < time.time() + 1 for wall_ns in wall_times)
    assert {round(after - before, -5) for before, after in itertools.pairwise(wall_times)} == {40_000_000}


def test_a_session_gets_keep_alives_receiver_reports_and_a_teardown() -> None:
    traits = {"timeout_s": 2, "enforce_timeout": True}
    with served(**traits) as server:
        with live(server.url("cam")) as source:
            take(source, 80)
            alive = [method for method, _ in server.requests].count("GET_PARAMETER")
            assert alive >= 2
            assert server.reports, "a receiver report at the beginning"
            assert server.reports[0][1] == 201
        # While the server still runs and can receive it.
        deadline = time.monotonic() + 5
        while ("TEARDOWN", f"rtsp://{HOST}:{server.port}/cam/") not in server.requests:
            assert time.monotonic() < deadline, server.requests
            time.sleep(0.01)


def test_a_server_without_get_parameter_gets_options_as_keep_alive() -> None:
    with served(timeout_s=2, enforce_timeout=True, public="DESCRIBE, SETUP, PLAY") as server:
        with live(server.url("cam")) as source:
            take(source, 60)
        assert [method for method, _ in server.requests].count("OPTIONS") >= 2


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
@pytest.mark.parametrize("qop", [False, True], ids=["RFC 2069", "qop"])
def test_digest_authentication_survives_expiring_nonces(algorithm: str, qop: bool) -> None:
    traits = Traits(algorithm=algorithm, qop=qop, nonce_uses=2, timeout_s=2, enforce_timeout=True)
    with RtspServer({"cam": FILM}, auth=('a"nn\\', "gehe:im ü"), traits=traits) as server:
        with live(server.url("cam")) as source:
            take(source, 60)
        with pytest.raises(SourceRefusedError, match=r"authentication refused \(401\)"):
            live(server.url("cam", "wrong"))


def test_a_wrong_password_is_sent_only_once() -> None:
    """Cameras lock an account after a few wrong passwords."""
    with RtspServer({"cam": FILM}, auth=("ann", "right")) as server:
        with pytest.raises(SourceRefusedError):
            live(server.url("cam", "wrong"))
        assert [method for method, _ in server.requests] == ["OPTIONS", "DESCRIBE", "DESCRIBE"]


def test_a_redirect_is_followed_only_within_the_host() -> None:
    end, first = RtspServer({"cam": FILM}), RtspServer({"old": FILM})
    with end, first:
        first.traits = Traits(redirect=end.url("cam"))
        with live(first.url("old")) as source:
            assert numbers(take(source, 1)) == [0]
    elsewhere = Traits(redirect="rtsp://user:secret@localhost:1/cam")
    with RtspServer({"old": FILM}, traits=elsewhere) as server:
        with pytest.raises(SourceError, match="redirects to another host"):
            live(server.url("old"))
        assert "SETUP" not in [method for method, _ in server.requests]
    with RtspServer({"old": FILM}) as server:
        server.traits = Traits(redirect=server.url("old"))
        with pytest.raises(SourceError, match="redirects more than 3 times"):
            live(server.url("old"))


def test_a_bye_ends_the_stream_before_the_read_timeout() -> None:
    with (
        served(bye_after=10) as server,
        live(server.url("cam"), read_timeout_s=30) as source,
        pytest.raises(SourceError, match="the stream ended; a live source does not"),
    ):
        take(source, 100)


def test_markers_on_every_slice_are_detected_and_noted() -> None:
    """The camera sets the marker on the last packet of each slice, not only of the frame."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.gop_size = 320, 180, "yuv420p", 5
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": "slices=4:threads=1"}
    sliced = _encoded(encoder, 60)
    with served(sliced, marker="every") as server, live(server.url("cam")) as source:
        frames = take(source, 20)
        assert source.info.note is not None
        assert "marker" in source.info.note
    whole = [frame for frame in frames if not frame.corrupt]
    assert len(whole) >= 10, "frames are intact from the next key frame on"
    assert numbers(whole[-5:]) == list(range(numbers(whole[-5:])[0], numbers(whole[-1:])[0] + 1))


def _encoded(encoder: Any, count: int) -> Any:
    from fractions import Fraction

    import av
    from support.clips import Film, draw, split_nal_units

    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    units = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(draw(i, 320, 180), "rgb24")
        frame.pts = i
        units += [split_nal_units(bytes(packet)) for packet in encoder.encode(frame)]
    return Film(units=tuple(units), fps=25, width=320, height=180)


@pytest.mark.parametrize("movie", [FILM, HEVC], ids=["H264", "H265"])
def test_ffmpeg_reads_an_unsupported_stream_and_the_note_says_so(movie: Any) -> None:
    """The SDP declares slices out of order: our client refuses that, FFmpeg ignores it."""
    with served(movie, unordered=True) as server:
        with live(server.url("cam"), demuxer="auto") as source:
            assert len(take(source, 5)) == 5
            assert source.info.note is not None
            assert "FFmpeg's demuxer, a frame interval later" in source.info.note
            assert "out of order" in source.info.note
        asked = len(server.requests)
        with live(server.url("cam"), demuxer="auto") as source:
            assert source.info.note is not None
        assert [method for method, _ in server.requests[asked:]].count("DESCRIBE") == 1, "known from the first attempt"
        with pytest.raises(SourceError, match=r"out of order .*; demuxer: ffmpeg may read it"):
            live(server.url("cam"))


@pytest.mark.parametrize(
    ("traits", "reason"),
    [
        (Traits(sdp=MJPEG), "JPEG, not H.264 or H.265"),
        (Traits(sdp=MJPEG.replace("RTP/AVP", "RTP/SAVP")), "encrypted media"),
        (Traits(sdp="v=0\r\n"), "a description without media"),
        (Traits(refuse=461), r"no unicast over TCP \(461\)"),
    ],
    ids=["MJPEG", "SRTP", "empty", "multicast"],
)
def test_an_unsupported_stream_is_reported_with_its_reason(traits: Traits, reason: str) -> None:
    with RtspServer({"cam": FILM}, traits=traits) as server, pytest.raises(SourceError, match=reason):
        live(server.url("cam"))


def test_if_ffmpeg_fails_too_both_reasons_are_reported() -> None:
    with served(refuse=461) as server:
        with pytest.raises(
            SourceError, match=r"\(our own RTSP client: no unicast over TCP \(461\), transport: udp may do\)"
        ):
            live(server.url("cam"), demuxer="auto")
        assert [method for method, _ in server.requests].count("SETUP") == 3, "ours, then FFmpeg's, then for multicast"


@pytest.mark.parametrize("demuxer", ["auto", "ffmpeg"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_connection_in_the_middle_of_a_group_of_pictures_waits_for_its_end(
    codec: str, demuxer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is longer than that for a stream whose frames cannot be decoded, of which FFmpeg reads the next hour."""
    monkeypatch.setattr("streamclf.sources.rtsp.reader.NO_FRAME_S", 0.1)
    monkeypatch.setattr("streamclf.sources.av_container.NO_FRAME_S", 0.1)
    options = (
        (("preset", "ultrafast"), ("tune", "zerolatency"), ("x265-params", X265_GOP)) if codec == "libx265" else ()
    )
    movie = film(frames=80, gop=40, codec=codec, options=options)
    with served(movie, first=5) as server, live(server.url("cam"), demuxer=demuxer, read_timeout_s=1) as source:
        waiting = str(source.info.note)
        frames = take(source, 20)
        found = numbers(frames)
        stale = source.stale  # on a busy machine, FFmpeg may hold back a frame for so long that it is dropped
        assert found[0] in range(40, 41 + stale)
        assert found == sorted(set(found))
        assert found[-1] == 59 + stale
        assert not any(frame.corrupt for frame in frames)
        assert source.undecodable == 0
        assert source.info.note is None, "FFmpeg does not read it"
    if demuxer == "auto":
        assert "waits for a key frame" in waiting


def test_a_stream_without_key_frames_fails_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.sources.rtsp.reader.KEY_FRAME_S", 0.1)
    with (
        served(film(frames=80, gop=80), first=5) as server,
        live(server.url("cam"), read_timeout_s=0.5) as source,
        pytest.raises(SourceError, match=r"no key frame for .* s; set a shorter key frame interval in the camera"),
    ):
        next(source)


def test_a_stream_without_video_is_an_error_without_fallback() -> None:
    sdp = "v=0\r\nm=audio 0 RTP/AVP 0\r\na=control:a\r\n"
    with served(sdp=sdp) as server, pytest.raises(SourceError, match="holds audio, no video"):
        live(server.url("cam"), demuxer="auto")


def test_no_password_appears_in_an_error_or_a_request_url() -> None:
    with RtspServer({"cam": FILM}, auth=("ann", "geh/eim"), traits=Traits(refuse=454)) as server:
        with pytest.raises(SourceError, match=r"refuses the request \(454\)") as caught:
            live(server.url("cam"))
        assert "geh" not in str(caught.value)
        assert not any("geh" in url or "ann" in url for _, url in server.requests)


def test_a_stop_request_ends_the_wait_for_a_silent_server() -> None:
    stop = threading.Event()
    with served() as server:
        config = StreamConfig.model_validate({"url": server.url("cam"), "read_timeout_s": 60})
        with open_source(config, stop=stop) as source:
            take(source, 2)
            server.fault("cam", stalled=True)
            threading.Timer(0.3, stop.set).start()
            # The end of read_timeout_s would be an error.
            assert len(list(source)) < 100, "only frames that were on their way"


@pytest.fixture
def scripted_server() -> Iterator[tuple[str, list[bytes], list[bytes]]]:
    """A server that sends the given responses on each connection, one for each request.

    Yields its URL, the responses, and the first request of each connection.
    """
    responses: list[bytes] = []
    requests: list[bytes] = []
    with socket.create_server((HOST, 0)) as listener:

        def respond() -> None:
            while True:
                peer, _ = listener.accept()
                with peer, suppress(OSError):
                    for i, part in enumerate(responses):
                        request = peer.recv(4096)
                        requests.extend([request] if i == 0 else [])
                        peer.sendall(part)
                    peer.settimeout(5)
                    while peer.recv(4096):
                        pass

        def serve() -> None:
            with suppress(OSError):  # the test has ended
                respond()

        threading.Thread(target=serve, daemon=True).start()
        yield f"rtsp://{HOST}:{listener.getsockname()[1]}/x", responses, requests
        listener.shutdown(socket.SHUT_RDWR)


ODD_CONTROL = b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/9\r\na=control:a b \r\n"
OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"


@pytest.mark.parametrize(
    "answers",
    [
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"\0" * 100],
        [b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n"],
        [b"RTSP/1.0 200 OK\r\n" + b"A: b\r\n" * 100 + b"\r\n"],
        [b"RTSP/1.0 200 " + b"x" * 70_000],
        [OK, b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 1900000000\r\n\r\nv=0"],
        [
            OK,
            b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 58\r\n\r\n" + ODD_CONTROL,
        ],
    ],
    ids=["HTTP", "zeros", "a huge body", "many headers", "an endless line", "a huge description", "an invalid URL"],
)
def test_data_that_our_client_refuses_never_reaches_ffmpeg(
    scripted_server: tuple[str, list[bytes], list[bytes]], answers: list[bytes]
) -> None:
    """FFmpeg would read 1.9 GB into memory, and would send the password to any host that a server redirects to."""
    url, responses, requests = scripted_server
    responses += answers
    with pytest.raises(SourceError, match=r"the server sends .*; check address and server") as caught:
        live(url.replace("//", "//ann:geheim@"), demuxer="auto", open_timeout_s=2)
    assert "geheim" not in str(caught.value)
    assert len(requests) == 1
    assert b"User-Agent: streamclf" in requests[0]


def test_an_incomplete_response_fails_after_the_open_timeout(
    scripted_server: tuple[str, list[bytes], list[bytes]],
) -> None:
    url, responses, _ = scripted_server
    responses.append(OK)
    responses.append(b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 50\r\n\r\nv=0")
    with pytest.raises(SourceError, match=r"no video within 0.5 s \(open_timeout_s\)"):
        live(url, open_timeout_s=0.5)


@pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
def test_a_closed_connection_leaves_no_decoder_for_the_garbage_collector(
    demuxer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a picture for each reference: 5 MB at 1280x720 that would stay after each reconnect."""
    made: list[weakref.ref[SwitchingDecoder]] = []
    initialize = SwitchingDecoder.__init__

    def record(decoder: SwitchingDecoder, *arguments: Any) -> None:
        initialize(decoder, *arguments)
        made.append(weakref.ref(decoder))

    monkeypatch.setattr(SwitchingDecoder, "__init__", record)
    gc.disable()
    try:
        with served() as server, live(server.url("cam"), demuxer=demuxer) as source:
            take(source, 5)
            assert [each() is None for each in made] == [False]
        del source
        assert [each() is None for each in made] == [True]
    finally:
        gc.enable()

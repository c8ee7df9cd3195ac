"""RTSP and HTTP sources against real servers, with every fault of the test server; passwords are never shown."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest
from support.clips import draw, film, read_number
from support.rtsp_server import HOST, RtspServer, Traits

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, Source, open_source
from streamclf.windows.sampling import ChunkSampler

FILM = film(frames=100)
LARGE = film(frames=50, width=640, height=360, first=1000)
PASSWORD = "p@:/%? #w+d"
SLACK_S = 10.0
"""A busy machine may need this much longer than a time-out."""


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer({"cam": FILM}) as server:
        yield server


def live(url: str, **keys: object) -> StreamConfig:
    return StreamConfig.model_validate({"url": url, "open_timeout_s": 3, "read_timeout_s": 1, **keys})


both = pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
"""Run with our own client and with FFmpeg's demuxer. Tests without this use the default, our own client."""


def number(frame: Frame) -> int:
    return read_number(frame.to_rgb(180, 320))


def take(source: Source, count: int) -> list[Frame]:
    return list(itertools.islice(source, count))


@contextmanager
def failing(message: str, *, timeout_s: float = 3.0) -> Iterator[None]:
    """Expect a `SourceError` in one line, without a cause, within twice the time-out (as with FFmpeg)."""
    began = time.monotonic()
    with pytest.raises(SourceError, match=message) as caught:
        yield
    assert time.monotonic() - began < 2 * timeout_s + SLACK_S
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@both
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_arrive_in_order_with_their_time_stamps(server: RtspServer, transport: str, demuxer: str) -> None:
    with open_source(live(server.url("cam"), transport=transport, demuxer=demuxer)) as source:
        assert source.live
        frames = take(source, 20)
        assert source.info.codec == "h264"
    assert [number(frame) for frame in frames] == list(range(20))
    assert [round(frame.pts_ns / 4e7) for frame in frames] == list(range(20))
    captured = [frame.captured_ns for frame in frames]
    assert captured == sorted(captured)
    assert not any(frame.corrupt for frame in frames)


@both
@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_credentials_may_contain_reserved_characters(scheme: str, demuxer: str) -> None:
    server = RtspServer({"cam": FILM}, auth=("ad@min", PASSWORD), scheme=scheme)  # type: ignore[arg-type]
    with server, open_source(live(server.url("cam"), demuxer=demuxer)) as source:
        assert number(next(source)) == 0


@both
@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_a_wrong_password_is_reported_without_showing_it(
    scheme: str, demuxer: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with RtspServer({"cam": FILM}, auth=("admin", "right"), scheme=scheme) as server:  # type: ignore[arg-type]
        with pytest.raises(SourceError, match=r"rtsp://\*\*\*@.*authentication refused \(401\)") as caught:
            open_source(live(server.url("cam", "geheim@7"), demuxer=demuxer))
        shown = [str(caught.value), repr(caught.value), caplog.text, *capfd.readouterr()]
        assert caught.value.__cause__ is None
        for form in ("geheim@7", "geheim%407"):
            assert not any(form in text for text in shown)


@both
@pytest.mark.parametrize(
    ("status", "message"), [(404, "not found"), (503, "error of its own"), (403, "forbidden"), (400, "refuses")]
)
def test_http_like_refusals_name_the_remedy(server: RtspServer, status: int, message: str, demuxer: str) -> None:
    server.fault("cam", status=status)
    with failing(message):
        open_source(live(server.url("cam"), demuxer=demuxer))


@both
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("fault", ["stalled", "frozen"])
def test_a_stream_that_stops_sending_fails_after_the_read_timeout(
    server: RtspServer, fault: str, transport: str, demuxer: str
) -> None:
    with open_source(live(server.url("cam"), transport=transport, demuxer=demuxer)) as source:
        take(source, 5)
        server.fault("cam", **{fault: True})
        with failing(r"no data for 1 s \(read_timeout_s\)", timeout_s=1):
            take(source, 1000)


@both
def test_frames_after_a_stall_shorter_than_the_timeout_are_not_stale(server: RtspServer, demuxer: str) -> None:
    """A regression: all frames after such a stall counted as held back, and the stream stayed offline."""
    with open_source(live(server.url("cam"), read_timeout_s=2, demuxer=demuxer)) as source:
        before = take(source, 5)[-1:]
        server.fault("cam", stalled=True)
        healer = threading.Timer(1.4, server.heal, ["cam"])
        healer.start()
        # FFmpeg holds the last frame before the stall back and returns it afterwards.
        frames = (before if demuxer == "rtp" else []) + take(source, 40)
        healer.join()
        assert source.stale <= 1
    steps = [after.pts_ns - before.pts_ns for before, after in itertools.pairwise(frames)]
    # Shorter than 1.4 s: frames that were on their way when the stall began still arrive, more on a busy machine.
    assert sorted(steps)[-1] > 0.5e9, "the stall"
    assert sorted(steps)[-2] < 0.1e9, "no frame is lost after it"


def test_a_camera_of_1_fps_loses_no_frame_with_a_read_timeout_of_1_5_s() -> None:
    slow = RtspServer({"cam": film(frames=20, fps=1, gop=5)})
    with slow, open_source(live(slow.url("cam"), read_timeout_s=1.5, open_timeout_s=10)) as source:
        assert [number(frame) for frame in take(source, 4)][-3:] == [1, 2, 3]


@both
@pytest.mark.parametrize("fault", ["stalled", "blackhole"])
def test_a_server_that_never_sends_fails_after_the_open_timeout(server: RtspServer, fault: str, demuxer: str) -> None:
    server.fault("cam", **{fault: True})
    with failing(r"no video within 0\.5 s \(open_timeout_s\)", timeout_s=0.5):
        open_source(live(server.url("cam"), open_timeout_s=0.5, demuxer=demuxer))


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_silent_and_a_closed_port_are_reported(scheme: str) -> None:
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        silent.listen()
        with failing(r"no video within 0\.5 s", timeout_s=0.5):
            open_source(live(f"{scheme}://{HOST}:{silent.getsockname()[1]}/x", open_timeout_s=0.5))
        port = silent.getsockname()[1]
    with failing("connection refused; check address and port"):
        open_source(live(f"{scheme}://{HOST}:{port}/x"))


@both
@pytest.mark.parametrize("reset", [False, True])
def test_the_end_of_a_live_stream_is_an_error(server: RtspServer, reset: bool, demuxer: str) -> None:
    with open_source(live(server.url("cam"), demuxer=demuxer)) as source:
        take(source, 5)
        server.disconnect("cam", reset=reset)
        with failing("the stream ended; a live source does not|closed|reset"):
            take(source, 1000)


def test_a_killed_server_is_an_error_and_can_be_opened_again_later(server: RtspServer) -> None:
    with open_source(live(server.url("cam"))) as source:
        take(source, 5)
        server.stop()
        with failing("the stream ended; a live source does not|closed|reset"):
            take(source, 1000)
    with failing("connection refused"):
        open_source(live(server.url("cam")))
    with RtspServer({"cam": FILM}, port=server.port) as again, open_source(live(again.url("cam"))) as source:
        assert number(next(source)) == 0


@both
def test_a_changed_resolution_shows_in_the_next_frame(server: RtspServer, demuxer: str) -> None:
    with open_source(live(server.url("cam"), demuxer=demuxer)) as source:
        assert (next(source).width, source.info.width) == (320, 320)
        server.fault("cam", film=LARGE)
        frame = next(frame for frame in itertools.islice(source, 1000) if frame.width != 320)
        assert (frame.width, frame.height) == (640, 360)
        assert number(frame) == 1000
        assert source.info.width == 640


@both
def test_a_jump_of_time_stamps_is_passed_on_unchanged(server: RtspServer, demuxer: str) -> None:
    with open_source(live(server.url("cam"), demuxer=demuxer)) as source:
        last = take(source, 3)[-1]
        server.fault("cam", jump_s=-10.0)
        frame = next(frame for frame in itertools.islice(source, 100) if frame.pts_ns < last.pts_ns)
        assert frame.pts_ns < -8e9


@both
@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        (lambda ticks: 12345, "stand still"),
        (lambda ticks: ticks // 90, "do not follow real time"),
        (lambda ticks: -ticks, "out of order"),
    ],
    ids=["constant", "milliseconds", "backwards"],
)
def test_frames_get_the_time_of_their_arrival_if_time_stamps_are_unsound(
    stamp: Callable[[int], int], reason: str, demuxer: str
) -> None:
    traits = Traits(stamp=stamp)
    with (
        RtspServer({"cam": FILM}, traits=traits) as server,
        open_source(live(server.url("cam"), demuxer=demuxer)) as source,
    ):
        frames = take(source, 80)
        assert sum(frame.discontinuity for frame in frames) == 1
        steps = [b.pts_ns - a.pts_ns for a, b in itertools.pairwise(frames[30:])]
        arrived = [b.captured_ns - a.captured_ns for a, b in itertools.pairwise(frames[30:])]
        assert steps == pytest.approx(arrived, abs=2)
        assert reason in str(source.info.note)


@both
def test_damaged_packets_mark_frames_corrupt(server: RtspServer, demuxer: str) -> None:
    server.fault("cam", corrupt=0.3)
    with open_source(live(server.url("cam"), demuxer=demuxer)) as source:
        assert any(frame.corrupt for frame in itertools.islice(source, 100))


def test_junk_between_packets_gives_frames_or_an_error(server: RtspServer) -> None:
    with open_source(live(server.url("cam"))) as source:
        take(source, 3)
        server.fault("cam", junk=3000)
        with suppress(SourceError):  # continuing and failing are both allowed; hanging is not
            take(source, 20)


IMAGE_HEADS = {
    "": "--frame|Content-Type: image/jpeg|Content-Length: {size}||",
    "parameter": "--frame|Content-Type: image/jpeg;size={size}|Content-Length: {size}||",
    "jpg": "--frame|Content-Type: image/jpg|Content-Length: {size}||",
    "no-type": "--frame|X-Timestamp: 0|Content-Length: {size}||",
    "no-length": "--frame|Content-Type: image/jpg|X-Timestamp: 0||",
    "no-dashes": "frame|Content-Type: image/jpeg|Content-Length: {size}||",
    "other-parts": "--frame|Content-Type: text/plain|Content-Length: 2||ok|--frame|Content-Type: image/jpeg||",
}
"""The beginnings of the parts of a multipart response, as cameras write them; `|` is the end of a line."""


class WebCamera(BaseHTTPRequestHandler):
    """Serve /film.mp4, of known length, and /mjpeg, without an end, which stops sending after 30 images.

    The images of `/mjpeg?NAME` have unusual headers.
    """

    film: Path

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/page":
            self.wfile.write(b"<html>no camera</html>" * 1000)
            return
        if self.path == "/film.mp4":
            data = self.film.read_bytes()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(30):
            jpeg = cv2.imencode(".jpg", draw(i, 320, 180)[..., ::-1])[1].tobytes()
            head = IMAGE_HEADS[self.path.partition("?")[2]].format(size=len(jpeg), large=len(jpeg) + 99)
            with suppress(OSError):  # FFmpeg closes the connection at a header that it does not accept
                self.wfile.write(head.replace("|", "\r\n").encode() + jpeg + b"\r\n")
            threading.Event().wait(0.02)
        self.server.silence.wait(20)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server has this name
        pass


@pytest.fixture
def web(clip: Path) -> Iterator[str]:
    WebCamera.film = clip
    with ThreadingHTTPServer((HOST, 0), WebCamera) as http:
        http.silence = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://{HOST}:{http.server_port}"
        http.silence.set()  # type: ignore[attr-defined]
        http.shutdown()
        thread.join(60)


def test_a_file_on_a_web_server_is_played_in_real_time_to_its_end(web: str) -> None:
    with open_source(live(f"{web}/film.mp4")) as source:
        assert not source.live
        frames = list(source)
    assert [number(frame) for frame in frames] == list(range(50))
    assert frames[-1].captured_ns - frames[0].captured_ns > 1.9e9


def test_motion_jpeg_without_time_stamps_uses_our_clock_and_times_out(web: str) -> None:
    with open_source(live(f"{web}/mjpeg")) as source:
        assert source.live
        frames = []
        with failing(r"no data for 1 s \(read_timeout_s\)", timeout_s=3):
            frames += [next(source) for _ in range(29)]
            list(source)
    assert [number(frame) for frame in frames] == list(range(29))
    steps = [after.pts_ns - before.pts_ns for before, after in itertools.pairwise(frames)]
    assert all(step > 0 for step in steps)
    assert sum(steps) == pytest.approx(frames[-1].captured_ns - frames[0].captured_ns, abs=5e7)


def test_motion_jpeg_decodes_only_the_images_that_sampling_needs(web: str) -> None:
    sampler = ChunkSampler(5, 1)
    with open_source(live(f"{web}/mjpeg")) as source:
        source.set_frame_selector(sampler)
        frames = []
        for frame in itertools.islice(source, 20):
            frames.append(frame)
            for placement in sampler.push(frame.pts_ns, frame.captured_ns):
                assert not frames[-1 - placement.previous].skipped
    assert [frame.index for frame in frames] == list(range(20))
    assert sum(frame.skipped for frame in frames) >= 10
    assert all(number(frame) == frame.index for frame in frames if not frame.skipped)
    assert all(after.pts_ns > before.pts_ns for before, after in itertools.pairwise(frames))


@pytest.mark.parametrize("head", IMAGE_HEADS)
def test_motion_jpeg_may_have_any_headers(web: str, head: str) -> None:
    with open_source(live(f"{web}/mjpeg?{head}")) as source:
        frames = take(source, 20)
        note = str(source.info.note)
    assert [number(frame) for frame in frames] == list(range(20))
    assert not any(frame.corrupt for frame in frames)
    assert ("unusual headers: each frame is returned only when the next one begins" in note) == (head != "")


def test_a_web_page_is_no_camera(web: str) -> None:
    with pytest.raises(SourceError, match=r"/page: "):
        open_source(live(f"{web}/page"))


def test_a_stop_request_ends_the_stream_without_an_error(server: RtspServer) -> None:
    stop = threading.Event()
    with open_source(live(server.url("cam")), stop=stop) as source:
        take(source, 3)
        stop.set()
        assert take(source, 10) == []

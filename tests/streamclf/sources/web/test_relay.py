"""A web server can make a source take only so much memory, and send it nowhere; passwords stay with their host."""

from __future__ import annotations

import base64
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.clips import read_number
from support.hostile_http import HostileServer, hostile, response

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source
from streamclf.sources.web import relay

M3U8 = "application/vnd.apple.mpegurl"
JPEG_PART = b"--x\r\nContent-Type: image/jpeg\r\n"
MULTIPART = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
PLAYLIST = f"HTTP/1.1 200 OK\r\nContent-Type: {M3U8}\r\n\r\n#EXTM3U\n".encode()
LIMIT = 8 << 20
ROOM = 12 << 20
"""Data that may wait in the sockets of both connections."""

POURED = {
    "jpeg with a length": (MULTIPART + JPEG_PART + b"Content-Length: 2000000000\r\n\r\n\xff\xd8", bytes(65536)),
    "jpeg without a length": (MULTIPART + JPEG_PART + b"\r\n\xff\xd8", b"\1" * 65536),
    "id3": (
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\nID3\4\0\0\x7f\x7f\x7f\x7fAPIC\x7f\x7f\x7f\0\0\0",
        bytes(65536),
    ),
    "zeros": (b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n", bytes(65536)),
    "transport stream": (b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n", (b"\x47\1\0\x10" + bytes(184)) * 300),
    "playlist": (PLAYLIST + b"#EXT-X-TARGETDURATION:2\n", b"#EXTINF:2,\nseg.ts?x=1\n" * 2000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"),
    "line": (b"HTTP/1.1 200 OK\r\n", b"a" * 65536),
}


def live(url: str, **keys: object) -> StreamConfig:
    return StreamConfig.model_validate({"url": url, "open_timeout_s": 5, "read_timeout_s": 2, **keys})


def refused(url: str, message: str, **keys: object) -> str:
    with pytest.raises(SourceError, match=message) as caught, open_source(live(url, **keys)) as source:
        list(itertools.islice(source, 1000))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    return str(caught.value)


def url(server: HostileServer, path: str = "/v.mp4", user: str = "", host: str = "127.0.0.1") -> str:
    return f"http://{user}{host}:{server.port}{path}"


@pytest.mark.parametrize("name", POURED)
def test_data_without_a_frame_is_limited(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_BYTES", LIMIT)
    head, block = POURED[name]
    with hostile(lambda server, sock, _: server.pour(sock, head, block)) as server:
        refused(url(server, "/v.m3u8" if name == "playlist" else "/v"), ".")
        assert server.sent < 2 * (LIMIT + ROOM), "at most two connections: the second one searches for JPEG images"


def test_a_playlist_with_many_variants_causes_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_REQUESTS", 50)
    variants = b"".join(b"#EXT-X-STREAM-INF:BANDWIDTH=1\nv%d.m3u8\n" % i for i in range(2000))
    body = {"/v.m3u8": b"#EXTM3U\n" + variants}
    media = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nseg.ts\n"

    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        path = head.split(" ")[1]
        server.send(sock, response(b"" if path.endswith(".ts") else body.get(path, media), kind=M3U8))

    with hostile(answer) as server:
        refused(url(server, "/v.m3u8"), "50 requests without a frame")
        assert server.connections < 60


def test_a_playlist_that_leads_to_more_playlists_for_ever_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_REQUESTS", 20)

    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        body = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nn%d.m3u8\n" % server.connections
        server.send(sock, response(body, kind=M3U8))

    with hostile(answer) as server:
        refused(url(server, "/v.m3u8"), ".", open_timeout_s=2)
        assert server.connections < 60


def playlist(*targets: str, key: str = "") -> bytes:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", "#EXT-X-MEDIA-SEQUENCE:0"]
    lines += [f'#EXT-X-KEY:METHOD=AES-128,URI="{key}"'] if key else []
    return "\n".join([*lines, *(line for target in targets for line in ("#EXTINF:2,", target)), ""]).encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_to_other_hosts_are_refused(status: int) -> None:
    with hostile(lambda server, sock, _: server.send(sock, response())) as other:
        to = f"Location: http://localhost:{other.port}/admin\r\n"
        with hostile(lambda server, sock, _: server.send(sock, response(status=f"{status} X", head=to))) as server:
            refused(url(server, user="admin:secret@"), "redirects to another host")
        assert not other.requests


@pytest.mark.parametrize("to", ["file:///etc/passwd", "rtsp://127.0.0.1/x", "http://[::1", "http://a:b/"])
def test_redirections_to_other_protocols_are_refused(to: str) -> None:
    moved = response(status="302 X", head=f"Location: {to}\r\n")
    with hostile(lambda server, sock, _: server.send(sock, moved)) as server:
        refused(url(server), "redirects to an invalid address|redirects to another host")


def test_a_server_that_redirects_for_ever_gets_four_requests() -> None:
    moved = response(status="302 X", head="Location: /again\r\n")
    with hostile(lambda server, sock, _: server.send(sock, moved)) as server:
        refused(url(server), "redirects more than 3 times")
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("tag", "target"),
    [
        ("segment", "http://10.0.0.1/x.ts"),
        ("key", "http://169.254.169.254/latest"),
        ("map", "http://[fe80::1]/x.ts"),
        ("variant", "https://0.0.0.0/x.ts"),
        ("audio", "http://100.64.0.1/"),
        ("variant", "http://[::ffff:10.0.0.1]/"),
    ],
)
def test_playlists_do_not_lead_into_other_networks(target: str, tag: str) -> None:
    body = {
        "segment": playlist(target),
        "key": playlist("a.ts", key=target),
        "map": playlist("a.mp4").replace(b"#EXTINF", f'#EXT-X-MAP:URI="{target}"\n#EXTINF'.encode(), 1),
        "variant": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n".encode(),
        "audio": (
            f'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{target}"\n'
            '#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\nb.m3u8\n'
        ).encode(),
    }[tag]

    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        server.send(sock, response(body if head.startswith("GET /v.m3u8") else playlist("a.ts"), kind=M3U8))

    with hostile(answer) as server:
        refused(url(server, "/v.m3u8"), "the server leads to .* address")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "crypto+file:///etc/passwd", "rtsp://127.0.0.1/", "concat:a|b"]
)
def test_playlists_lead_to_web_servers_only(target: str) -> None:
    body = response(playlist(target), kind=M3U8)
    with hostile(lambda server, sock, _: server.send(sock, body)) as server:
        refused(url(server, "/v.m3u8"), "its playlist has a target that is not allowed")


MANIFEST = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT4S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{0}</BaseURL>
<SegmentList><Initialization sourceURL="{0}i.mp4"/><SegmentURL media="{0}s.mp4"/></SegmentList>
</Representation></AdaptationSet></Period></MPD>"""
SCRIPTS = {
    "/v.mpd": MANIFEST,
    "/v.txt": "ffconcat version 1.0\nfile '{0}a.mp4'\n",
    "/v.sdp": "v=0\r\nm=video 9 RTP/AVP 96\r\n",
}


@pytest.mark.parametrize("path", SCRIPTS)
def test_formats_that_lead_to_other_sources_are_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")  # FFmpeg would then contact other servers without the relay
    with hostile(lambda server, sock, _: server.send(sock, response())) as other:
        body = SCRIPTS[path].format(f"http://127.0.0.1:{other.port}/").encode()
        with hostile(lambda server, sock, _: server.send(sock, response(body, kind="text/plain"))) as server:
            refused(url(server, path), ".")
        assert not other.requests


class Camera(BaseHTTPRequestHandler):
    """Serve a film with ranges to those who know the password, after a redirection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web: WebCamera = self.server  # type: ignore[assignment]
        web.heads.append((self.path, dict(self.headers)))
        if self.path == "/moved.mp4":
            self._answer(302, b"", Location="/film.mp4")
        elif web.challenge and not self.headers.get("Authorization", "").startswith(web.challenge.split(" ")[0]):
            self._answer(401, b"no", **{"WWW-Authenticate": web.challenge})
        else:
            data = web.film.read_bytes()
            first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            web.sent += len(data) - first
            self._answer(206, data[first:], **{"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server has this name
        pass


class WebCamera(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, film: Path, challenge: str) -> None:
        super().__init__(("127.0.0.1", 0), Camera)
        self.film, self.challenge = film, challenge
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.sent = 0


@pytest.fixture
def camera(clip: Path) -> Iterator[Callable[[str], WebCamera]]:
    cameras = []

    def start(challenge: str = "") -> WebCamera:
        camera = WebCamera(clip, challenge)
        thread = threading.Thread(target=camera.serve_forever, args=(0.05,))
        thread.start()
        cameras.append((camera, thread))
        return camera

    yield start
    for camera, thread in cameras:
        camera.shutdown()
        camera.server_close()
        thread.join(60)


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Digest realm="x", nonce="abc", qop="auth"'])
def test_a_film_is_read_with_a_password_after_a_redirection(camera: Callable[[str], WebCamera], challenge: str) -> None:
    web = camera(challenge)
    with open_source(live(f"http://ann:s%40x@127.0.0.1:{web.server_port}/moved.mp4")) as source:
        frames = list(itertools.islice(source, 10))
    assert [read_number(frame.to_rgb(180, 320)) for frame in frames] == list(range(10))
    sent = [head.get("Authorization", "") for _, head in web.heads]
    assert sent[0] == ""
    if challenge.startswith("Basic"):
        assert sent[-1] == "Basic " + base64.b64encode(b"ann:s@x").decode()
    else:
        assert 'uri="/film.mp4"' in sent[-1]


def test_a_film_whose_index_is_at_its_end_is_not_read_twice(camera: Callable[[str], WebCamera]) -> None:
    web = camera("")
    with open_source(live(f"http://127.0.0.1:{web.server_port}/film.mp4")) as source:
        next(source)
    assert web.sent <= 3 * web.film.stat().st_size


def test_credentials_stay_with_the_configured_server(camera: Callable[[str], WebCamera]) -> None:
    other = camera('Basic realm="x"')
    body = response(playlist(f"http://127.0.0.1:{other.server_port}/a.ts"), kind=M3U8)

    def answer(server: HostileServer, sock: socket.socket, head: str) -> None:
        challenge = response(status="401 X", head='WWW-Authenticate: Basic realm="x"\r\n')
        server.send(sock, body if "Authorization" in head else challenge)

    with hostile(answer) as server:
        refused(url(server, "/v.m3u8", user="ann:secret@"), ".", open_timeout_s=1, read_timeout_s=1)
        assert any("Authorization: Basic" in head for head in server.requests)
    assert other.heads
    assert not any("Authorization" in head for _, head in other.heads)


def test_only_the_own_process_can_use_the_relay(camera: Callable[[str], WebCamera]) -> None:
    web = camera("")
    with open_source(live(f"http://127.0.0.1:{web.server_port}/film.mp4")) as source:
        port = int(source._relay._base.split("/")[2].split(":")[1])  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"GET /x/http/127.0.0.1:%d/film.mp4 HTTP/1.0\r\n\r\n" % web.server_port)
            assert sock.recv(100).startswith(b"HTTP/1.1 403")


def test_a_stop_request_ends_a_connection_without_data() -> None:
    head = MULTIPART + JPEG_PART + b"\r\n\xff\xd8"
    stop, is_silent = threading.Event(), threading.Event()

    def answer(server: HostileServer, sock: socket.socket, _: str) -> None:
        server.send(sock, head)
        is_silent.set()
        stop.wait(20)
        sock.recv(1)  # until the connection ends

    with hostile(answer) as server:
        threading.Thread(target=lambda: (is_silent.wait(20), stop.set()), daemon=True).start()
        keys = {"open_timeout_s": 60, "read_timeout_s": 60}
        with suppress(SourceError), open_source(live(url(server), **keys), stop=stop) as source:
            list(source)
        assert stop.is_set()


def test_a_response_that_ffmpeg_never_asks_for_is_closed() -> None:
    with hostile(lambda server, sock, _: server.send(sock, response(b"x", head="Connection: close\r\n"))) as server:
        opened = relay.WebRelay(
            url(server), shown="camera", context=ssl.create_default_context(), open_s=5, stop=threading.Event()
        )
        first = opened._first
        assert first is not None
        opened.close()
        assert first.sock.fileno() == -1

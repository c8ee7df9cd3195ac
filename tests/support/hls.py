"""Serve a live HLS stream: segments of MPEG-TS, and a playlist that advances with time or stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
from support.clips import X264, draw

SEGMENT_S = 1.0
FPS = 25
LISTED = 4
DISCONTINUITY = "#EXT-X-DISCONTINUITY"


def write_segment(path: Path, number: int, *, start_ticks: int = 0) -> Path:
    """Write one second of bar codes from `number * 25` on, with time stamps from `start_ticks` (90 kHz, 33 bits)."""
    with av.open(str(path), "w", format="mpegts", options={"mpegts_copyts": "1"}) as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 180, "yuv420p", FPS
        stream.options = {**X264, "tune": "zerolatency"}
        stream.codec_context.time_base = Fraction(1, 90_000)
        for i in range(FPS):
            frame = av.VideoFrame.from_ndarray(draw(number * FPS + i, 320, 180), "rgb24")
            frame.pts, frame.time_base = start_ticks + (number * FPS + i) * 3600, Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class HlsServer:
    """Serve `/live.m3u8`, also as `/stream`, and `/film.m3u8` with an end. While `going` is cleared, it stays.

    `name`: the URL of a segment in the playlist, with its number as `{}`. `tags` precede each segment, `head` the
    first. `extra`: other files by path.
    """

    def __init__(
        self,
        segments: list[Path],
        *,
        name: str = "{}.ts",
        tags: tuple[str, ...] = (),
        head: tuple[str, ...] = (),
        extra: dict[str, bytes] | None = None,
    ) -> None:
        self.segments = segments
        self._tags = tags
        self._head = head
        self._name = name
        self._files = {f"/{name.format(i)}": path for i, path in enumerate(segments)}
        self._extra = extra or {}
        self.going = threading.Event()
        self.going.set()
        self._began = time.monotonic()
        self._position = 0

    def skip(self, seconds: float) -> None:
        """Add the segments of so many seconds at once, as after a pause of the server only."""
        self._began -= seconds

    def playlist(self, *, live: bool) -> str:
        """Return the playlist as of now."""
        if self.going.is_set():
            self._position = int((time.monotonic() - self._began) / SEGMENT_S)
        first = min(self._position, len(self.segments) - LISTED) if live else 0
        listed = range(first, first + LISTED) if live else range(len(self.segments))
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
        lines += self._head
        for i in listed:
            lines += [*self._tags, f"#EXTINF:{SEGMENT_S:.3f},", self._name.format(i)]
        return "\n".join([*lines, *([] if live else ["#EXT-X-ENDLIST"]), ""])

    def body_of(self, path: str) -> bytes | None:
        """Return the response body for `path`; None if there is none."""
        if path in ("/live.m3u8", "/stream", "/film.m3u8"):
            return self.playlist(live=path != "/film.m3u8").encode()
        found = self._files.get(path)
        return found.read_bytes() if found else self._extra.get(path)


@contextmanager
def serving(hls: HlsServer) -> Iterator[str]:
    """Serve `hls`; yields its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = hls.body_of(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            if self.path == "/stream":
                self.send_header("Content-Type", "application/vnd.apple.mpegurl; charset=utf-8")
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server has this name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join(60)

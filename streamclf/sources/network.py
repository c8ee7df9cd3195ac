"""RTSP and HTTP through PyAV, set for the least delay that FFmpeg's own demuxer allows."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

import av

from streamclf.errors import SourceError
from streamclf.redact import redact, register_url
from streamclf.sources.clock import MediaClock
from streamclf.sources.container import NS, Container, Picture, Timeouts
from streamclf.sources.file import Pace
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.resize import FrameRenderer

MAX_STALE_S = 2.0
"""RTSP time stamps are the camera's clock: a picture this much later than the promptest is an old one."""

RTSP_OPTIONS = {
    # With the probes' defaults the first frame takes a second; and fflags=nobuffer would lose the first key frame.
    "probesize": "32",
    "analyzeduration": "0",
    "fpsprobesize": "0",
    "allowed_media_types": "video",
    "max_delay": "200000",  # microseconds that a reordered UDP packet is waited for
    "buffer_size": "2097152",  # a key frame's burst of UDP packets must fit the socket
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto",
}
TRANSPORTS = {
    # A camera drops packets also where TCP does not; FFmpeg looks for holes only where it has a queue, of 2 at least.
    "tcp": {"rtsp_transport": "tcp", "reorder_queue_size": "2"},
    "udp": {"rtsp_transport": "udp"},
}
HTTP_OPTIONS = {
    "analyzeduration": "500000",
    "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto,hls",
}


HELD_INTERVALS = 2
"""Held back for longer than this many of its own intervals, a picture is old."""
CHECKS_RTSPS = av.library_versions["libavformat"][0] >= 62
"""FFmpeg 7 takes the options for certificates, and hands them on for HTTPS only."""
HLS_READ_S = 10.0
"""A playlist grows by a segment every few seconds; nothing can be said of its silence sooner."""


class NetworkSource(Source):
    """Frames of an RTSP or HTTP URL, on its own clock. An end of the stream is a fault.

    A film of known length that a web server holds is none: it is played in real time to its end.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: Literal["tcp", "udp"] = "tcp",
        open_timeout_s: float = 5.0,
        read_timeout_s: float = 2.0,
        tls_ca: str | None = None,
        tls_verify: bool = True,
        stop: threading.Event | None = None,
    ) -> None:
        register_url(url)
        self._shown = redact(url)
        self._stop = stop or threading.Event()
        parts = urlsplit(url)
        rtsp = parts.scheme.lower() in ("rtsp", "rtsps")
        if parts.path.lower().endswith(".m3u8"):
            read_timeout_s = max(read_timeout_s, HLS_READ_S)
        options = {**RTSP_OPTIONS, **TRANSPORTS[transport]} if rtsp else dict(HTTP_OPTIONS)
        if parts.scheme.lower() in ("rtsps", "https"):
            if rtsp and tls_verify and not CHECKS_RTSPS:
                raise SourceError(
                    f"{self._shown}: PyAV {av.__version__} checks no certificate of rtsps; pip install 'av>=16', or "
                    "say tls_verify: false where you trust the network"
                )
            options |= _trust(tls_ca, tls_verify)
        self._container = Container(
            url,
            shown=self._shown,
            options=options,
            timeouts=Timeouts(open_s=open_timeout_s, read_s=read_timeout_s),
            low_delay=True,
        )
        self.live = rtsp or self._container.endless
        # A playlist brings seconds of video at once, then nothing for as long.
        self._pace = Pace(self._stop) if not self.live or self._container.in_pieces else None
        self.max_stale_s = MAX_STALE_S if rtsp else None
        self._render = FrameRenderer()
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate."""
        return self._container.info

    @property
    def undecodable(self) -> int:  # type: ignore[override]
        """Packets of this connection that could not be decoded."""
        return self._container.undecodable

    def close(self) -> None:
        """Hang up."""
        self._container.close()

    def _read(self) -> Iterator[Frame]:
        clock = MediaClock()
        last_ns = interval_ns = 0
        for index, picture in enumerate(self._container.pictures()):
            if self._stop.is_set():
                return
            captured_ns = time.monotonic_ns()
            pts_ns = clock.at(picture.pts_ns, captured_ns)
            last_ns, interval_ns = pts_ns, pts_ns - last_ns
            if picture.held_s * NS > HELD_INTERVALS * max(0, interval_ns):
                self.stale += 1  # an old picture is worse than none; a slow camera's are not old
                continue
            if self._pace is not None:
                self._pace.wait(pts_ns, NS // 25, restart=False)
                captured_ns = time.monotonic_ns()
            yield self._frame(index, picture, pts_ns, captured_ns)
        if self.live and not self._stop.is_set():
            # A camera or server that dies ends the stream as silently as the end of a film.
            raise SourceError(
                f"{self._shown}: the stream ended; a live source does not: it was closed by the other side"
            )

    def _frame(self, index: int, picture: Picture, pts_ns: int, captured_ns: int) -> Frame:
        return Frame(
            index=index,
            pts_ns=pts_ns,
            captured_ns=captured_ns,
            width=picture.oriented.width,
            height=picture.oriented.height,
            corrupt=picture.corrupt,
            broken=picture.broken,
            picture=picture.oriented,
            render=self._render,
        )


def _trust(tls_ca: str | None, tls_verify: bool) -> dict[str, str]:
    """FFmpeg trusts anybody unless it is told otherwise, and knows no system's certificates on most."""
    if not tls_verify:
        return {"tls_verify": "0"}
    ca_file = tls_ca or ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", **({"ca_file": ca_file} if ca_file else {})}

"""RTSP and HTTP: RTSP through our own client where it understands the server, all else through PyAV's demuxers."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol
from urllib.parse import urlsplit

import av

from streamclf.errors import SourceError
from streamclf.redact import redact, register_url
from streamclf.sources.av_container import NS, AvContainer
from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.failure_messages import Timeouts
from streamclf.sources.file import RealtimePacer
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, ShiftedFrameSelector
from streamclf.sources.hw_decode import Decode, choose_device
from streamclf.sources.media_clock import MediaClock
from streamclf.sources.resize import FrameRenderer
from streamclf.sources.rtsp.fallback import FALLBACK_CACHE, UnsupportedStreamError
from streamclf.sources.rtsp.reader import RtspReader

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
MULTICAST = "+udp_multicast"
"""Next to the transport that was asked for, where a server offers nothing else: our own client does not do it."""
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
MIN_OPEN_S = 0.5
"""What is left of the time for opening when FFmpeg's turn comes, at least."""

Demuxer = Literal["auto", "rtp", "ffmpeg"]
Transport = Literal["tcp", "udp"]


class FrameReader(Protocol):
    """A connection that gives pictures: `AvContainer` or `RtspReader`."""

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate."""

    @property
    def endless(self) -> bool:
        """Whether it knows no end of itself."""

    @property
    def in_pieces(self) -> bool:
        """Whether the video comes by the segment."""

    @property
    def undecodable(self) -> int:
        """Packets of this connection that could not be decoded."""

    @property
    def lost(self) -> int:
        """Packets of this connection that never came."""

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """Skip what `interest` will not want."""

    def pictures(self) -> Iterator[DecodedFrame]:
        """All pictures until the end. Raises `SourceError` for a fault or a time-out, `HardwareError` where a device
        decodes none of it."""

    def close(self) -> None:
        """Hang up."""


class NetworkSource(Source):
    """Frames of an RTSP or HTTP URL, on its own clock. An end of the stream is a fault.

    A film of known length that a web server holds is none: it is played in real time to its end.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: Transport = "tcp",
        demuxer: Demuxer = "auto",
        open_timeout_s: float = 5.0,
        read_timeout_s: float = 2.0,
        tls_ca: str | None = None,
        tls_verify: bool = True,
        decode: Decode = "cpu",
        stop: threading.Event | None = None,
    ) -> None:
        """`demuxer`: who takes RTSP apart, our own client, FFmpeg, or whoever understands the server. `decode`: where,
        if that can be had."""
        register_url(url)
        self._shown = redact(url)
        self._stop = stop or threading.Event()
        parts = urlsplit(url)
        rtsp = parts.scheme.lower() in ("rtsp", "rtsps")
        if parts.path.lower().endswith(".m3u8"):
            read_timeout_s = max(read_timeout_s, HLS_READ_S)
        self._url, self._transport, self._tls = url, transport, (tls_ca, tls_verify)
        self._timeouts = Timeouts(open_s=open_timeout_s, read_s=read_timeout_s)
        self._hardware = choose_device(decode)
        self._interest: ShiftedFrameSelector | None = None
        self._note: str | None = None
        self._reader: FrameReader
        if not rtsp:
            self._reader = self._container(dict(HTTP_OPTIONS), over_tls=parts.scheme.lower() == "https")
        elif demuxer == "ffmpeg":
            self._reader = self._ffmpeg_rtsp()
        else:
            self._reader = self._rtsp(alone=demuxer == "rtp")
        self.live = rtsp or self._reader.endless
        # A playlist brings seconds of video at once, then nothing for as long.
        self._pace = RealtimePacer(self._stop) if not self.live or self._reader.in_pieces else None
        self.max_stale_s = MAX_STALE_S if rtsp else None
        self._render = FrameRenderer()
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate; whether somebody else reads it than should."""
        info = self._reader.info
        if self._note is None:
            return info
        return replace(info, note=self._note if info.note is None else f"{self._note}; {info.note}")

    @property
    def undecodable(self) -> int:  # type: ignore[override]
        """Packets of this connection that could not be decoded."""
        return self._reader.undecodable

    @property
    def lost(self) -> int:  # type: ignore[override]
        """Packets of this connection that never came."""
        return self._reader.lost

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """See `Source`."""
        self._interest = ShiftedFrameSelector(interest)
        self._reader.set_frame_selector(self._interest)

    def close(self) -> None:
        """Hang up."""
        self._reader.close()

    def _rtsp(self, *, alone: bool) -> FrameReader:
        """Our own client, or FFmpeg where that does not understand the server, unless it is to be `alone`."""
        began = time.monotonic()
        why = None if alone else FALLBACK_CACHE.recall(self._url)
        if why is None:
            tls_ca, tls_verify = self._tls
            try:
                return RtspReader(
                    self._url,
                    shown=self._shown,
                    transport=self._transport,
                    timeouts=self._timeouts,
                    tls_ca=tls_ca,
                    tls_verify=tls_verify,
                    hardware=self._hardware,
                    stop=self._stop,
                )
            except UnsupportedStreamError as error:
                why = str(error)
                if alone:
                    raise SourceError(f"{self._shown}: {why}; demuxer: ffmpeg may read it") from None
        left_s = max(MIN_OPEN_S, self._timeouts.open_s - (time.monotonic() - began))
        try:
            reader = self._ffmpeg_rtsp(open_s=left_s, multicast="461" in why)
        except SourceError as error:
            raise type(error)(f"{error} (our own RTSP client: {why})") from None
        FALLBACK_CACHE.learn(self._url, why)  # only now: what FFmpeg cannot read either is no lesson
        self._note = f"read through FFmpeg's demuxer, a frame interval later: {why}"
        return reader

    def _ffmpeg_rtsp(self, *, open_s: float | None = None, multicast: bool = False) -> FrameReader:
        over_tls = self._url.lower().startswith("rtsps:")
        if over_tls and self._tls[1] and not CHECKS_RTSPS:
            raise SourceError(
                f"{self._shown}: PyAV {av.__version__} checks no certificate of rtsps; pip install 'av>=16', or "
                "say tls_verify: false where you trust the network"
            )
        options = {**RTSP_OPTIONS, **TRANSPORTS[self._transport]}
        if multicast:
            options["rtsp_transport"] += MULTICAST
        return self._container(options, over_tls=over_tls, open_s=open_s)

    def _container(self, options: dict[str, str], *, over_tls: bool, open_s: float | None = None) -> FrameReader:
        timeouts = self._timeouts if open_s is None else replace(self._timeouts, open_s=open_s)
        trust = _trust(*self._tls) if over_tls else {}
        return AvContainer(
            self._url,
            shown=self._shown,
            options=options | trust,
            timeouts=timeouts,
            low_delay=True,
            hardware=self._hardware,
            stop=self._stop,
        )

    def _read(self) -> Iterator[Frame]:
        clock = MediaClock()
        last_ns = interval_ns = captured_ns = 0
        for index, picture in enumerate(self._reader.pictures()):
            if self._stop.is_set():
                return
            # One that was skipped is told of later than it came, and may be told of after one that came later.
            now_ns = picture.arrived_ns or time.monotonic_ns()
            if now_ns > captured_ns:
                captured_ns = now_ns
            pts_ns = clock.at(picture.pts_ns, captured_ns)
            if self._interest is not None and picture.pts_ns is not None:
                self._interest.shift_ns = pts_ns - picture.pts_ns
            last_ns, interval_ns = pts_ns, pts_ns - last_ns
            if picture.held_s and picture.held_s * NS > HELD_INTERVALS * max(0, interval_ns):
                self.stale += 1  # an old picture is worse than none; a slow camera's are not old
                continue
            if self._pace is not None:
                self._pace.wait(pts_ns, NS // 25, restart=False)
                captured_ns = time.monotonic_ns()
            yield Frame(
                index=index,
                pts_ns=pts_ns,
                captured_ns=captured_ns,
                width=picture.width,
                height=picture.height,
                corrupt=picture.corrupt,
                broken=picture.broken,
                wall_ns=picture.wall_ns,
                image=picture.oriented,
                render=self._render,
            )
        if self.live and not self._stop.is_set():
            # A camera or server that dies ends the stream as silently as the end of a film.
            raise SourceError(
                f"{self._shown}: the stream ended; a live source does not: it was closed by the other side"
            )


def _trust(tls_ca: str | None, tls_verify: bool) -> dict[str, str]:
    """FFmpeg trusts anybody unless it is told otherwise, and knows no system's certificates on most."""
    if not tls_verify:
        return {"tls_verify": "0"}
    ca_file = tls_ca or ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", **({"ca_file": ca_file} if ca_file else {})}

"""Read RTSP and HTTP streams: RTSP through our own client if it supports the server, the rest through PyAV."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit

from streamclf.config.source_settings import DeviceName
from streamclf.errors import SourceError
from streamclf.redact import redact, register_url
from streamclf.sources.av_container import AvContainer
from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.decoding import EXACT, WantedDecoding
from streamclf.sources.failure_messages import Timeouts, UnknownDataError, connection_message, timeout_message
from streamclf.sources.ffmpeg_options import HTTP_OPTIONS, MULTICAST, RTSP_OPTIONS, TRANSPORTS
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, ShiftedFrameSelector
from streamclf.sources.hw_decode import choose_device
from streamclf.sources.live_clock import LiveClock, SegmentClock
from streamclf.sources.long_pictures import with_long_pictures
from streamclf.sources.pacing import RealtimePacer
from streamclf.sources.packet_tap import PacketSink
from streamclf.sources.resize import FrameRenderer
from streamclf.sources.rtsp.connection import StopRequestedError, tls_context
from streamclf.sources.rtsp.fallback import FALLBACK_CACHE, UnsupportedStreamError
from streamclf.sources.rtsp.reader import RtspReader
from streamclf.units import NS

if TYPE_CHECKING:
    from streamclf.sources.rtsp.relay import RtspRelay
    from streamclf.sources.web.relay import WebRelay

MAX_STALE_S = 2.0
"""RTSP time stamps follow the camera's clock: a frame this much later than the one with the least delay is stale."""

MAX_HELD_INTERVALS = 2
"""A frame that was held back for more than this many of its own intervals is stale."""
HLS_READ_S = 10.0
"""The shortest read time-out for HLS: a playlist grows by a segment every few seconds."""
MAX_PACED_NS = NS
"""A live stream in segments is paced within this step of media time. A longer one is a gap."""
RESERVE_NS = NS
"""After a pause of an HLS server, playback keeps this distance from the newest segment."""
MIN_OPEN_S = 0.5
"""The least time for FFmpeg to open a stream after our own client has tried."""

MULTIPART = "multipart/x-mixed-replace"
MULTIPART_NOTE = "its images have unusual headers: each frame is returned only when the next one begins"

Demuxer = Literal["auto", "rtp", "ffmpeg"]
Transport = Literal["tcp", "udp"]


class FrameReader(Protocol):
    """A connection that returns frames: `AvContainer` or `RtspReader`."""

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate."""

    @property
    def is_endless(self) -> bool:
        """Whether the stream declares no duration."""

    @property
    def is_segmented(self) -> bool:
        """Whether the video arrives in segments of seconds."""

    @property
    def undecodable(self) -> int:
        """Number of packets of this connection that could not be decoded."""

    @property
    def lost(self) -> int:
        """Number of packets of this connection that never arrived."""

    @property
    def stale(self) -> int:
        """Number of packets that an earlier connection has already returned."""

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """Skip frames that `selector` does not need."""

    def frames(self) -> Iterator[DecodedFrame]:
        """Iterate over all frames until the end.

        Raises `SourceError` for a fault or a time-out, `HardwareError` if a device decodes no frame.
        """

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says, at once before the first packet, else from the next key frame on."""

    def set_packet_sink(self, sink: PacketSink) -> None:
        """Hand on the encoded video from now on, if it can be copied."""

    def close(self) -> None:
        """Close the connection."""


class NetworkSource(Source):
    """The frames of an RTSP or HTTP URL, at the stream's own rate. The end of a live stream is a fault.

    A video of known length on a web server is not live: it is played in real time to its end.
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
        device: DeviceName = "cpu",
        stop: threading.Event | None = None,
    ) -> None:
        """Open the URL. `demuxer`, for RTSP: `rtp` is our own client; `auto` also tries FFmpeg, if that fails.

        `device`: the device that decodes, if it is available.
        """
        register_url(url)
        self._shown = redact(url)
        self._stop = stop or threading.Event()
        parts = urlsplit(url)
        rtsp = parts.scheme.lower() in ("rtsp", "rtsps")
        self._url, self._transport, self._tls = url, transport, (tls_ca, tls_verify)
        self._timeouts = Timeouts(open_s=open_timeout_s, read_s=read_timeout_s)
        self._hardware = choose_device(device)
        self._selector: ShiftedFrameSelector | None = None
        self._decoding = EXACT
        self._note: str | None = None
        self._stale = 0
        self._relay: WebRelay | RtspRelay | None = None
        self._reader: FrameReader
        if not rtsp:
            self._reader = self._open_http()
        elif demuxer == "ffmpeg":
            self._reader = self._open_ffmpeg_rtsp()
        else:
            self._reader = self._open_rtsp(may_fall_back=demuxer == "auto")
        self.live = rtsp or self._reader.is_endless
        self.may_pause = is_segmented = self.live and self._reader.is_segmented
        self._pacer: RealtimePacer | None = None
        if is_segmented:  # HLS brings seconds of video at once, then no video for as long.
            self._pacer = RealtimePacer(self._stop, reserve_ns=RESERVE_NS)
        elif not self.live:
            self._pacer = RealtimePacer(self._stop)
        self.max_stale_s = MAX_STALE_S if rtsp else None
        self._clock = SegmentClock() if is_segmented else LiveClock(check=self._pacer is None)
        self._render = FrameRenderer()
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate. The note says if FFmpeg reads the stream, and if its stamps are unsound."""
        info = self._reader.info
        note = "; ".join(filter(None, (self._note, self._clock.note, info.note))) or None
        return info if note == info.note else replace(info, note=note)

    @property
    def undecodable(self) -> int:  # type: ignore[override]
        """Number of packets of this connection that could not be decoded."""
        return self._reader.undecodable

    @property
    def lost(self) -> int:  # type: ignore[override]
        """Number of packets of this connection that never arrived."""
        return self._reader.lost

    @property
    def stale(self) -> int:  # type: ignore[override]
        """Number of frames that were dropped because a stall had made them old, or that were returned before."""
        return self._stale + self._reader.stale

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """See `Source`."""
        self._selector = ShiftedFrameSelector(selector)
        self._reader.set_frame_selector(self._selector)

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """See `Source`."""
        self._decoding = wanted
        self._reader.set_decoding(wanted)

    def set_packet_sink(self, sink: PacketSink) -> None:
        """See `Source`."""
        self._reader.set_packet_sink(sink)

    def close(self) -> None:
        """Close the connection."""
        # The generator refers to this object: without an end of it, only the garbage collector would free the decoder.
        with contextlib.suppress(ValueError):  # another thread reads
            self._frames.close()
        self._reader.close()
        if self._relay is not None:
            self._relay.close()

    def _open_rtsp(self, *, may_fall_back: bool) -> FrameReader:
        """Open the stream with our own client, or with FFmpeg if that does not support the server."""
        began = time.monotonic()
        reason = FALLBACK_CACHE.reason(self._url) if may_fall_back else None
        if reason is None:
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
                reason = str(error)
                if not may_fall_back:
                    raise SourceError(f"{self._shown}: {reason}; demuxer: ffmpeg may read it") from None
        left_s = max(MIN_OPEN_S, self._timeouts.open_s - (time.monotonic() - began))
        try:
            reader = self._open_ffmpeg_rtsp(open_s=left_s, multicast="461" in reason)
        except SourceError as error:
            raise type(error)(f"{error} (our own RTSP client: {reason})") from None
        FALLBACK_CACHE.add(self._url, reason)  # only once FFmpeg can read it
        self._note = f"read through FFmpeg's demuxer, a frame interval later: {reason}"
        return reader

    def _open_ffmpeg_rtsp(self, *, open_s: float | None = None, multicast: bool = False) -> FrameReader:
        """Open the stream with FFmpeg, behind a relay that keeps our own client's limits."""
        from streamclf.sources.rtsp.relay import RtspRelay

        options = {**RTSP_OPTIONS, **TRANSPORTS["tcp" if self._url.lower().startswith("rtsps:") else self._transport]}
        if multicast:
            options["rtsp_transport"] += MULTICAST
        limits = self._timeouts if open_s is None else replace(self._timeouts, open_s=open_s)
        tls_ca, verify = self._tls
        opened_at = time.monotonic()
        try:
            relay = self._relay = RtspRelay(
                self._url,
                shown=self._shown,
                context=lambda: tls_context(tls_ca, verify=verify, shown=self._shown),
                deadline=opened_at + limits.open_s,
                stop=self._stop,
            )
        except TimeoutError:
            raise SourceError(f"{self._shown}: {timeout_message(limits, opening=True)}") from None
        except OSError as error:
            raise SourceError(f"{self._shown}: {connection_message(error, opening=True)}") from None
        except StopRequestedError:
            raise SourceError(f"{self._shown}: a stop was requested before it was opened") from None
        left_s = max(MIN_OPEN_S, limits.open_s - (time.monotonic() - opened_at))
        return self._open_relayed(relay, "rtsp", options, left_s)

    def _open_http(self) -> AvContainer:
        """Open an HTTP URL. If FFmpeg detects no format, search for JPEG images in its data."""
        relay = self._connect_relay(self._timeouts.open_s)
        if relay.is_playlist:
            self._timeouts = replace(self._timeouts, read_s=max(self._timeouts.read_s, HLS_READ_S))
        format_name = "mpjpeg" if relay.content_type.startswith(MULTIPART) else None
        try:
            return self._open_http_relay(relay, format_name)
        except UnknownDataError as error:
            try:
                return self._open_images()
            except SourceError:
                raise error from None

    def _open_images(self, *, open_s: float | None = None) -> AvContainer:
        """Open an HTTP URL as JPEG images with anything between them."""
        if self._relay is not None:
            self._relay.close()
        relay = self._connect_relay(self._timeouts.open_s if open_s is None else open_s)
        reader = self._open_http_relay(relay, "mjpeg")
        if not reader.info.width:
            reader.close()
            raise SourceError(f"{self._shown}: no image among the first data; check the URL and the camera")
        self._note = MULTIPART_NOTE
        return reader

    def _connect_relay(self, open_s: float) -> WebRelay:
        from http.client import HTTPException  # 3 MB with the relay, which RTSP does not need

        from streamclf.sources.web.relay import WebRelay

        tls_ca, verify = self._tls
        context = tls_context(tls_ca, verify=verify, shown=self._shown)
        self._opened_at = time.monotonic()
        try:
            relay = self._relay = WebRelay(
                self._url, shown=self._shown, context=context, open_s=open_s, stop=self._stop
            )
        except (OSError, HTTPException) as error:
            if isinstance(error, TimeoutError):
                text = timeout_message(replace(self._timeouts, open_s=open_s), opening=True)
            elif isinstance(error, OSError):
                text = connection_message(error, opening=True)
            else:
                text = "its response is not HTTP; check address and port"
            raise SourceError(f"{self._shown}: {text}") from None
        return relay

    def _open_http_relay(self, relay: WebRelay, format_name: str | None) -> AvContainer:
        left_s = max(MIN_OPEN_S, self._timeouts.open_s - (time.monotonic() - self._opened_at))
        return self._open_relayed(relay, format_name, HTTP_OPTIONS | relay.options, left_s)

    def _open_relayed(
        self, relay: WebRelay | RtspRelay, format_name: str | None, options: dict[str, str], open_s: float
    ) -> AvContainer:
        try:
            return self._open_container(options, url=relay.url, open_s=open_s, format_name=format_name)
        except SourceError:
            relay.close()
            if relay.failure is not None:
                raise relay.failure from None
            raise

    def _open_container(
        self,
        options: dict[str, str],
        *,
        url: str,
        open_s: float | None = None,
        format_name: str | None = None,
    ) -> AvContainer:
        timeouts = self._timeouts if open_s is None else replace(self._timeouts, open_s=open_s)
        return AvContainer(
            url,
            shown=self._shown,
            options=options,
            format_name=format_name,
            timeouts=timeouts,
            low_delay=True,
            hardware=self._hardware,
            stop=self._stop,
        )

    def _decoded(self) -> Iterator[DecodedFrame]:
        """Iterate over the decoded frames.

        FFmpeg ends a multipart response at an image with an unusual header: it accepts `image/jpeg` without parameters
        only, and right lengths.
        """
        try:
            yield from self._counted(self._reader)
        except UnknownDataError:
            if not (isinstance(self._reader, AvContainer) and self._reader.is_multipart):
                raise
        else:
            return
        self._reader.close()
        self._reader = self._open_images(open_s=self._timeouts.read_s)
        self._reader.set_decoding(self._decoding)
        if self._selector is not None:
            self._reader.set_frame_selector(self._selector)
        yield from self._counted(self._reader)

    def _counted(self, reader: FrameReader) -> Iterator[DecodedFrame]:
        """Iterate over the frames of `reader`. The limits of an HTTP source apply anew after each."""
        relay = self._relay
        try:
            for frame in reader.frames():
                if relay is not None:
                    relay.add_frame()
                yield frame
        except SourceError:
            if relay is not None and self._stop.is_set():
                return  # the relay has ended the connection
            if relay is not None and relay.failure is not None:
                raise relay.failure from None
            raise
        if relay is not None and relay.failure is not None:
            raise relay.failure

    def _read(self) -> Generator[Frame, None, None]:
        clock = self._clock
        last_ns = interval_ns = captured_ns = 0
        frames = self._decoded()
        for index, decoded in enumerate(frames if self.live else with_long_pictures(frames)):
            if self._stop.is_set():
                return
            # A skipped frame is returned later than it arrived, possibly after a frame that arrived later.
            now_ns = decoded.arrived_ns or time.monotonic_ns()
            if now_ns > captured_ns:
                captured_ns = now_ns
            pts_ns = clock.media_ns(decoded.pts_ns, captured_ns)
            if self._selector is not None and clock.uses_arrival:
                self._selector.shift_ns = None  # when a frame will arrive is not known in advance
            elif self._selector is not None and decoded.pts_ns is not None:
                self._selector.shift_ns = pts_ns - decoded.pts_ns
            last_ns, interval_ns = pts_ns, pts_ns - last_ns
            if decoded.held_s and decoded.held_s * NS > MAX_HELD_INTERVALS * max(0, interval_ns):
                self._stale += 1  # an old frame is worse than none; the frames of a slow camera are not old
                continue
            if self._pacer is not None:
                # Segments that were skipped are over: to wait for as long would lose the next ones.
                is_gap = self.live and interval_ns > MAX_PACED_NS
                self._pacer.wait(pts_ns, NS // 25, restart=is_gap)
                captured_ns = time.monotonic_ns()
            yield Frame(
                index=index,
                pts_ns=pts_ns,
                captured_ns=captured_ns,
                width=decoded.width,
                height=decoded.height,
                corrupt=decoded.corrupt,
                broken=decoded.broken,
                discontinuity=clock.is_discontinuous,
                wall_ns=None if clock.uses_arrival else decoded.wall_ns,
                continues=index > 0 and not self.live,
                repeated=decoded.repeated,
                stamp_ns=decoded.stamp_ns,
                decoding=decoded.decoding,
                image=decoded.oriented,
                render=self._render,
            )
        if self.live and not self._stop.is_set():
            # A camera or server that dies ends the stream without an error, like the end of a file.
            raise SourceError(
                f"{self._shown}: the stream ended; a live source does not: it was closed by the other side"
            )

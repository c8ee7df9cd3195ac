"""Read files and network streams through PyAV: packets -> frames with time stamps; its errors are translated."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import av.error
import av.stream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.redact import redact
from streamclf.sources.corruption import DamageTracker
from streamclf.sources.decoded_frame import DecodedFrame, oriented, plausible_aspect
from streamclf.sources.failure_messages import (
    NO_FRAME_S,
    REFUSED_ERRORS,
    TLS_FAILURE,
    Timeouts,
    error_message,
    no_frame_message,
    timeout_message,
)
from streamclf.sources.ffmpeg_log import captured_log
from streamclf.sources.frame import SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, PacketSkipper, SkippedPacket
from streamclf.sources.hw_decode import (
    CPU,
    FAILED_DEVICES,
    DecodeDevice,
    HardwareError,
    decoder_options,
    device_note,
    uses_hardware,
)
from streamclf.sources.packet_kind import PacketClassifier
from streamclf.units import NS

TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in another encoding is no reason to refuse a file. From PyAV 19 on the option is not needed."""
TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
"""FFmpeg reads any text file as a film of a terminal, with these codecs."""

PACKETS_MISSED = "RTP: missed"
"""FFmpeg's log line about packets that a network lost. It is the only sign: frames around the gap are not marked."""
SEGMENT_BEGINS = "HLS request for url"
"""FFmpeg's log line when it begins to read the next HLS segment."""
SEGMENT_CUT = "Stream ends prematurely"
"""FFmpeg's log line when a segment ends before its declared length."""
UNCHECKED_PACKETS = 8
"""Segments that were each written alone begin with other continuity counters (MPEG-TS). FFmpeg then marks the packets
around the border as damaged: the last one of a segment, or as many frames as its last PES packet has."""
UNTIMED_FORMATS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v"})
"""Formats without time stamps. FFmpeg assumes 25 frames per second, which a live source may not send."""


class AvContainer:
    """One opened file or connection, and the decoder of its video."""

    def __init__(
        self,
        url: str,
        *,
        shown: str,
        options: dict[str, str],
        timeouts: Timeouts | None = None,
        low_delay: bool = False,
        hardware: DecodeDevice = CPU,
        stop: threading.Event | None = None,
    ) -> None:
        """Open `url`; errors call it `shown`. `low_delay`: return each frame once its data is there, on one thread.

        `stop` is checked after each packet, also after packets that give no frame.
        """
        self._stop = stop or threading.Event()
        self._shown = redact(shown)
        self._timeouts = timeouts
        self._held_s = 0.0
        self._damage = DamageTracker()
        self._reads_log = low_delay
        self.lost = 0
        """Number of gaps in the received packets: FFmpeg logs one line for each."""
        self._hardware = hardware
        self._container = self._open(url, options)
        self.undecodable = 0
        self._failed_key = False
        self._log_level = av.logging.WARNING
        self._unchecked = 0  # packets until FFmpeg's marks of damage are used again
        try:
            self._stream = self._choose_stream()
            self._prepare(low_delay)
        except BaseException:
            self.close()
            raise
        self._timed = timeouts is None or self._container.format.name not in UNTIMED_FORMATS
        self._pixel_aspect = plausible_aspect(self._stream.sample_aspect_ratio)
        if self.is_segmented:
            self._log_level = av.logging.VERBOSE
        context = self._stream.codec_context
        self._size = (context.width, context.height)
        self._note = device_note(hardware, context, context.name)
        self._classifier = PacketClassifier(context.name, context.extradata)
        self._skipper: PacketSkipper[Packet[Any]] = PacketSkipper(low_delay=low_delay)

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate."""
        rate = self._stream.average_rate
        return SourceInfo(
            codec=self._stream.codec_context.name,
            width=self._size[0],
            height=self._size[1],
            fps=float(rate) if rate and rate < 1000 else None,
            note=self._note,
        )

    @property
    def is_endless(self) -> bool:
        """Whether the container declares no duration."""
        return self._container.duration is None

    @property
    def is_segmented(self) -> bool:
        """Whether the video arrives in segments of seconds, as with HLS."""
        return "hls" in self._container.format.name.split(",")

    @property
    def start_ns(self) -> int:
        """Media time at which the video begins, in nanoseconds."""
        start = self._stream.start_time
        return 0 if start is None else _to_ns(start, self._stream.time_base)

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """Skip frames that `selector` does not need."""
        self._skipper.selector = selector

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    def frames(self) -> Iterator[DecodedFrame]:
        """Iterate over all frames until the end.

        Raises `SourceError` for a fault, a time-out, or a video without any frame; `HardwareError` if a device is the
        reason for the latter.
        """
        count = 0
        waiting_since = time.monotonic()
        for packet in self._packets():
            if self._stop.is_set():
                return
            for to_decode in () if packet is None else self._packets_to_decode(packet):
                for frame in self._decoded(to_decode):
                    count += 1
                    waiting_since = time.monotonic()
                    yield frame
            if not count and self._failed_key:
                self._fail_if_hardware("it could not decode a key frame")
            if self._timeouts is not None:
                self._check_waiting(time.monotonic() - waiting_since, packet)
        yield from map(self._skipped_frame, self._skipper.pop_skipped())
        if not count:
            self._fail_if_hardware("it decoded no frame")
            raise SourceError(
                f"{self._shown}: no frame could be decoded ({self.info.codec}, {self.undecodable} broken "
                "packets); the video is damaged or cut off: play it elsewhere or copy it again"
            )

    def _packets_to_decode(self, packet: Packet[Any]) -> Sequence[Packet[Any]]:
        """Return the packets to decode, now that `packet` has arrived."""
        if self._skipper.selector is None:
            return (packet,)
        if not packet.size:  # the last packet, which flushes the decoder
            return [*self._skipper.flush(), packet]
        kind = self._classifier.classify(memoryview(packet))
        # A packet marked for discarding gives no frame; one that a stall held back gives an old one.
        intact = not (packet.is_corrupt or packet.is_discard or self._held_s or self._damage.pending)
        return self._skipper.push(
            packet,
            None if packet.pts is None or not self._timed else _to_ns(packet.pts, packet.time_base),
            arrived_ns=time.monotonic_ns(),
            key=packet.is_keyframe,
            disposable=kind.disposable,
            intact=intact,
        )

    def _decoded(self, packet: Packet[Any]) -> Iterator[DecodedFrame]:
        """Iterate over the frames that `packet` gives, each after the frames skipped before it."""
        if packet.is_corrupt:
            self._damage.add_damage()
        try:
            frames: list[Any] = list(packet.decode())
        except (av.error.FFmpegError, ValueError):
            # One broken packet does not end a stream. If no frame follows, `_check_waiting` does.
            self.undecodable += 1
            self._damage.add_damage()
            self._skipper.pause_until_key()
            self._failed_key |= packet.is_keyframe and not packet.is_corrupt
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                yield from map(self._skipped_frame, self._skipper.pop_skipped_before(self._time_ns(frame)))
                yield self._decoded_frame(frame)

    def _fail_if_hardware(self, reason: str) -> None:
        device = self._hardware.device
        if device is not None and uses_hardware(self._stream.codec_context):
            message = f"{self._shown}: {device} does not decode it: {reason}"
            FAILED_DEVICES.add(device, message)
            raise HardwareError(message)

    def _skipped_frame(self, skipped: SkippedPacket[Packet[Any]]) -> DecodedFrame:
        return DecodedFrame(
            oriented=None,
            width=self._size[0],
            height=self._size[1],
            pts_ns=skipped.at_ns,
            corrupt=self._damage.corrupt,
            arrived_ns=skipped.arrived_ns,
        )

    def _time_ns(self, frame: av.VideoFrame) -> int | None:
        pts = None if not self._timed else frame.pts if frame.pts is not None else frame.dts
        return None if pts is None else _to_ns(pts, frame.time_base or self._stream.time_base)

    def _packets(self) -> Iterator[Packet[Any] | None]:
        """Iterate over packets of the chosen stream; None stands for a packet of another, to check time-outs."""
        demuxed = self._container.demux()
        waited_s = 0.0  # waiting for data, including reads that only returned a packet that was held back
        while True:
            began = time.monotonic()
            self._waiting_since = began - waited_s
            try:
                packet = self._next(demuxed)
            except av.error.ExitError as error:
                waited_s = time.monotonic() - self._waiting_since
                if self._timeouts is None or waited_s >= 0.9 * self._timeouts.read_s:
                    raise self._translated(error, opening=False) from None
                demuxed = self._container.demux()  # no packet was held back: this was the first half of the time-out
                continue
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise self._translated(error, opening=False) from None
            if packet is None:
                return
            # Only this read counts: data that arrives after a packet that was held back is new.
            took_s = time.monotonic() - began
            is_held = self._timeouts is not None and took_s >= self._timeouts.read_s / 2
            self._held_s = took_s if is_held else 0.0
            waited_s = waited_s + took_s if is_held else 0.0
            yield packet if packet.stream.index == self._stream.index else None

    def _next(self, demuxed: Iterator[Packet[Any]]) -> Packet[Any] | None:
        if not self._reads_log:
            return next(demuxed, None)
        with captured_log(self._log_level) as lines:
            packet = next(demuxed, None)
        if self._log_level > av.logging.WARNING:
            self._follow_segments(lines, packet)
        gaps = sum(PACKETS_MISSED in text for _, _, text in lines)
        if gaps:
            self.lost += gaps
            self._damage.add_damage()
        return packet

    def _follow_segments(self, lines: list[tuple[int, str, str]], packet: Packet[Any] | None) -> None:
        """Clear the marks of damage that FFmpeg sets only because another segment begins."""
        for _, _, text in lines:
            if text.startswith(SEGMENT_BEGINS):
                self._unchecked = UNCHECKED_PACKETS
            elif SEGMENT_CUT in text:
                self._damage.add_damage()
        if packet is not None and self._unchecked and packet.stream.index == self._stream.index:
            self._unchecked -= 1
            packet.is_corrupt = False

    def _check_waiting(self, waited_s: float, packet: Packet[Any] | None) -> None:
        assert self._timeouts is not None
        if packet is None and waited_s > self._timeouts.read_s:
            raise SourceError(f"{self._shown}: no video for {waited_s:.1f} s though other data arrives")
        if waited_s > max(NO_FRAME_S, self._timeouts.read_s):
            raise SourceError(f"{self._shown}: {no_frame_message(waited_s, self.undecodable)}")

    def _decoded_frame(self, frame: av.VideoFrame) -> DecodedFrame:
        corrupt, broken = self._damage.add_frame(is_key=bool(frame.key_frame), is_corrupt=frame.is_corrupt)
        turned = oriented(frame, self._pixel_aspect)
        self._size = (turned.width, turned.height)
        if corrupt:
            self._skipper.pause_until_key(self._time_ns(frame))
        if frame.interlaced_frame:
            self._skipper.disable()  # a packet may be one field, half a frame
        return DecodedFrame(
            oriented=turned,
            width=turned.width,
            height=turned.height,
            pts_ns=self._time_ns(frame),
            corrupt=corrupt,
            broken=broken,
            held_s=self._held_s,
        )

    def _open(self, url: str, options: dict[str, str]) -> InputContainer:
        limits = self._timeouts
        # A stalled read expires twice, because the first time it only returns the packet that was held back.
        timeout = None if limits is None else (limits.open_s, limits.read_s / 2)
        began = self._waiting_since = time.monotonic()
        self._over_tls = url.lower().startswith(("rtsps:", "https:"))
        try:
            opened: InputContainer = av.open(
                url, "r", options=options, timeout=timeout, **TOLERANT, **decoder_options(self._hardware.device)
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error, opening=True) from None
        if limits is not None and time.monotonic() - began >= limits.open_s:
            # FFmpeg reports no error when its probing times out: it would now wait for the first packet as well.
            opened.close()
            raise SourceError(f"{self._shown}: {timeout_message(limits, opening=True)}")
        return opened

    def _choose_stream(self) -> VideoStream:
        # FFmpeg counts the cover image of a music file as video.
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams:
            kinds = ", ".join(sorted({f"{stream.type}" for stream in self._container.streams})) or "nothing"
            raise SourceError(f"{self._shown}: holds {kinds}, no video; give a source with a video stream")
        stream = max(streams, key=lambda candidate: candidate.codec_context.width * candidate.codec_context.height)
        if stream.codec_context.name in TEXT_CODECS:
            raise SourceError(f"{self._shown}: a text file, not a video that FFmpeg can read; check the path")
        return stream

    def _prepare(self, low_delay: bool) -> None:
        for other in self._container.streams:
            if other.index != self._stream.index:
                with suppress(AttributeError):  # PyAV before 17 reads and ignores them
                    other.discard = av.stream.Discard.all
        context = self._stream.codec_context
        # Every frame thread of a decoder holds one frame back.
        context.thread_type = "NONE" if low_delay or uses_hardware(context) else "AUTO"
        if low_delay:
            context.thread_count = 1
            context.options = {"flags": "low_delay"}  # by name: the Python spelling differs between PyAV's versions

    def _translated(self, error: Exception, *, opening: bool) -> SourceError:
        """Return our error for PyAV's, without its text, which contains the URL with its password."""
        limits = self._timeouts
        if limits is not None:
            limit_s = limits.open_s if opening else limits.read_s
            # FFmpeg reports an interruption differently depending on where it happened; the clock is reliable.
            if isinstance(error, av.error.ExitError) or time.monotonic() - self._waiting_since >= limit_s:
                return SourceError(f"{self._shown}: {timeout_message(limits, opening=opening)}")
            if opening and isinstance(error, av.error.InvalidDataError):
                return SourceError(f"{self._shown}: there is no video stream there; check address, port and path")
            if opening and self._over_tls and getattr(error, "errno", None) == errno.EIO:
                return SourceError(f"{self._shown}: {TLS_FAILURE}")
        kind = SourceRefusedError if isinstance(error, REFUSED_ERRORS) else SourceError
        return kind(f"{self._shown}: {error_message(error, opening=opening)}")


def _is_cover(stream: VideoStream) -> bool:
    disposition = getattr(stream, "disposition", None)  # PyAV 15 and later
    return disposition is not None and bool(disposition & disposition.attached_pic)


def _to_ns(value: int, time_base: Fraction | None) -> int:
    if time_base is None:
        return 0
    return (2 * value * NS * time_base.numerator + time_base.denominator) // (2 * time_base.denominator)

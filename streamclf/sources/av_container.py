"""PyAV for reading: packets -> pictures with time stamps, its errors and time-outs translated. Files and network."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any

import av
import av.error
import av.logging
import av.stream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.redact import redact
from streamclf.sources.corruption import DamageTracker
from streamclf.sources.decoded_frame import DecodedFrame, oriented, sound_aspect
from streamclf.sources.failure_messages import (
    NO_FRAME_S,
    REFUSALS,
    UNTRUSTED,
    Timeouts,
    error_message,
    no_frame_message,
    timeout_message,
)
from streamclf.sources.frame import SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, PacketSkipper, SkippedPacket
from streamclf.sources.hw_decode import (
    CPU,
    FAILED_DEVICES,
    DecodeDevice,
    HardwareError,
    decoder_options,
    device_note,
    is_used,
)
from streamclf.sources.nal_references import ReferenceParser

NS = 1_000_000_000
TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in another encoding is no reason to refuse a film; from PyAV 19 on it never is."""
TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
"""FFmpeg takes any text for a film of a terminal."""

LOST = "RTP: missed"
"""What FFmpeg says, and only says, of packets that a network lost: nothing marks the pictures around the hole."""
UNTIMED_FORMATS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v"})
"""Without time stamps; FFmpeg makes some up, 25 per second, which a live source does not keep to."""


class AvContainer:
    """One opened file or connection and the decoder of its video."""

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
        """Open `url`; errors call it `shown`. `low_delay`: a picture as soon as its data is there, on one thread.

        `stop` is asked between packets, also of those that give no picture.
        """
        self._stop = stop or threading.Event()
        self._shown = redact(shown)
        self._timeouts = timeouts
        self._held_s = 0.0
        self._damage = DamageTracker()
        self._listening = low_delay
        self.lost = 0
        """Holes in what came: FFmpeg says that packets were missed, once for each."""
        self._hardware = hardware
        self._container = self._open(url, options)
        self.undecodable = 0
        self._failed_key = False
        try:
            self._stream = self._choose()
            self._prepare(low_delay)
        except BaseException:
            self.close()
            raise
        self._timed = timeouts is None or self._container.format.name not in UNTIMED_FORMATS
        self._pixel_aspect = sound_aspect(self._stream.sample_aspect_ratio)
        context = self._stream.codec_context
        self._size = (context.width, context.height)
        self._note = device_note(hardware, context, context.name)
        self._references = ReferenceParser(context.name, context.extradata)
        self._skipper: PacketSkipper[Packet[Any]] = PacketSkipper(prompt=low_delay)

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
    def endless(self) -> bool:
        """Whether the container knows no end of itself."""
        return self._container.duration is None

    @property
    def in_pieces(self) -> bool:
        """Whether the video comes by the segment, as with HLS."""
        return "hls" in self._container.format.name.split(",")

    @property
    def start_ns(self) -> int:
        """Media time at which the video begins."""
        start = self._stream.start_time
        return 0 if start is None else _to_ns(start, self._stream.time_base)

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """Skip what `interest` will not want."""
        self._skipper.interest = interest

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    def pictures(self) -> Iterator[DecodedFrame]:
        """All pictures until the end. Raises `SourceError` for a fault, a time-out, or where there is none at all;
        `HardwareError` where a device is at fault for that."""
        made = 0
        waiting_since = time.monotonic()
        for packet in self._packets():
            if self._stop.is_set():
                return
            for wanted in () if packet is None else self._admitted(packet):
                for picture in self._decoded(wanted):
                    made += 1
                    waiting_since = time.monotonic()
                    yield picture
            if not made and self._failed_key:
                self._blame_hardware("it could not decode a key frame")
            if self._timeouts is not None:
                self._check_waiting(time.monotonic() - waiting_since, packet)
        yield from map(self._told, self._skipper.rest())
        if not made:
            self._blame_hardware("not one picture came of it")
            raise SourceError(
                f"{self._shown}: not one picture could be decoded ({self.info.codec}, {self.undecodable} broken "
                "packets); the video is damaged or cut off: play it elsewhere or copy it again"
            )

    def _admitted(self, packet: Packet[Any]) -> Sequence[Packet[Any]]:
        """What is to be decoded, now that `packet` is there."""
        if self._skipper.interest is None:
            return (packet,)
        if not packet.size:  # the last one, which brings out what the decoder holds
            return [*self._skipper.finish(), packet]
        look = self._references.look(memoryview(packet))
        # A packet that is to be discarded gives no picture; one held back by a stall is an old one.
        sound = not (packet.is_corrupt or packet.is_discard or self._held_s or self._damage.pending)
        return self._skipper.admit(
            packet,
            None if packet.pts is None or not self._timed else _to_ns(packet.pts, packet.time_base),
            arrived_ns=time.monotonic_ns(),
            key=packet.is_keyframe,
            spare=look.spare,
            sound=sound,
        )

    def _decoded(self, packet: Packet[Any]) -> Iterator[DecodedFrame]:
        """The pictures that come of `packet`, and before each those that were skipped."""
        if packet.is_corrupt:
            self._damage.note()
        try:
            frames: list[Any] = list(packet.decode())
        except (av.error.FFmpegError, ValueError):
            # One broken packet is not the end of a stream; without any picture after it, `_check_waiting` is.
            self.undecodable += 1
            self._damage.note()
            self._skipper.distrust()
            self._failed_key |= packet.is_keyframe and not packet.is_corrupt
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                yield from map(self._told, self._skipper.out(self._time_ns(frame)))
                yield self._picture(frame)

    def _blame_hardware(self, reason: str) -> None:
        device = self._hardware.device
        if device is not None and is_used(self._stream.codec_context):
            message = f"{self._shown}: {device} does not decode it: {reason}"
            FAILED_DEVICES.add(device, message)
            raise HardwareError(message)

    def _told(self, skipped: SkippedPacket[Packet[Any]]) -> DecodedFrame:
        return DecodedFrame(
            oriented=None,
            width=self._size[0],
            height=self._size[1],
            pts_ns=skipped.at_ns,
            corrupt=self._damage.smeared,
            arrived_ns=skipped.arrived_ns,
        )

    def _time_ns(self, frame: av.VideoFrame) -> int | None:
        pts = None if not self._timed else frame.pts if frame.pts is not None else frame.dts
        return None if pts is None else _to_ns(pts, frame.time_base or self._stream.time_base)

    def _packets(self) -> Iterator[Packet[Any] | None]:
        """Packets of the chosen stream; None for one of another stream, so that waiting can be judged."""
        demuxed = self._container.demux()
        waited_s = 0.0  # for data, through reads that only brought out what was held back
        while True:
            began = time.monotonic()
            self._waiting_since = began - waited_s
            try:
                packet = self._next(demuxed)
            except av.error.ExitError as error:
                waited_s = time.monotonic() - self._waiting_since
                if self._timeouts is None or waited_s >= 0.9 * self._timeouts.read_s:
                    raise self._translated(error, opening=False) from None
                demuxed = self._container.demux()  # nothing was held back: this was the first half of the time
                continue
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise self._translated(error, opening=False) from None
            if packet is None:
                return
            # By this read alone: data that comes at last, after what was held back, is new.
            took_s = time.monotonic() - began
            is_held = self._timeouts is not None and took_s >= self._timeouts.read_s / 2
            self._held_s = took_s if is_held else 0.0
            waited_s = waited_s + took_s if is_held else 0.0
            yield packet if packet.stream.index == self._stream.index else None

    def _next(self, demuxed: Iterator[Packet[Any]]) -> Packet[Any] | None:
        if not self._listening:
            return next(demuxed, None)
        with _overheard() as said:
            packet = next(demuxed, None)
        holes = sum(LOST in text for _, _, text in said)
        if holes:
            self.lost += holes
            self._damage.note()
        return packet

    def _check_waiting(self, waited_s: float, packet: Packet[Any] | None) -> None:
        assert self._timeouts is not None
        if packet is None and waited_s > self._timeouts.read_s:
            raise SourceError(f"{self._shown}: no video for {waited_s:.1f} s though other data arrives")
        if waited_s > max(NO_FRAME_S, self._timeouts.read_s):
            raise SourceError(f"{self._shown}: {no_frame_message(waited_s, self.undecodable)}")

    def _picture(self, frame: av.VideoFrame) -> DecodedFrame:
        corrupt, broken = self._damage.picture(is_key=bool(frame.key_frame), is_corrupt=frame.is_corrupt)
        turned = oriented(frame, self._pixel_aspect)
        self._size = (turned.width, turned.height)
        if corrupt:
            self._skipper.distrust(self._time_ns(frame))
        if frame.interlaced_frame:
            self._skipper.refuse()  # a packet may be half a picture
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
        # A stalled read runs into its time-out twice, because the first one only brings out the picture held back.
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
            # The time-out of its probing is no error for FFmpeg: it would now wait for the first packet as well.
            opened.close()
            raise SourceError(f"{self._shown}: {timeout_message(limits, opening=True)}")
        return opened

    def _choose(self) -> VideoStream:
        # A cover picture inside a music file counts as video for FFmpeg.
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
        # Every frame thread of a decoder holds one picture back.
        context.thread_type = "NONE" if low_delay or is_used(context) else "AUTO"
        if low_delay:
            context.thread_count = 1
            context.options = {"flags": "low_delay"}  # by name: the Python spelling differs between PyAV's versions

    def _translated(self, error: Exception, *, opening: bool) -> SourceError:
        """Our error for PyAV's; never with its text, which holds the URL with its password."""
        limits = self._timeouts
        if limits is not None:
            limit_s = limits.open_s if opening else limits.read_s
            # What FFmpeg reports when it was interrupted depends on where that happened; the clock tells.
            if isinstance(error, av.error.ExitError) or time.monotonic() - self._waiting_since >= limit_s:
                return SourceError(f"{self._shown}: {timeout_message(limits, opening=opening)}")
            if opening and isinstance(error, av.error.InvalidDataError):
                return SourceError(f"{self._shown}: no video stream to be had there; check address, port and path")
            if opening and self._over_tls and getattr(error, "errno", None) == errno.EIO:
                return SourceError(f"{self._shown}: {UNTRUSTED}")
        kind = SourceRefusedError if isinstance(error, REFUSALS) else SourceError
        return kind(f"{self._shown}: {error_message(error, opening=opening)}")


@contextmanager
def _overheard() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg says on this thread meanwhile, (level, who, what).

    Only while a packet is read, never for good: PyAV takes Python's lock for each line, so that the threads of a
    decoder that is being closed would wait for it for ever.
    """
    before = av.logging.get_level()
    av.logging.set_skip_repeated(False)  # a second loss is one more
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as said:
            yield said
    finally:
        av.logging.set_level(before)


def _is_cover(stream: VideoStream) -> bool:
    disposition = getattr(stream, "disposition", None)  # PyAV 15 and later
    return disposition is not None and bool(disposition & disposition.attached_pic)


def _to_ns(value: int, time_base: Fraction | None) -> int:
    if time_base is None:
        return 0
    return (2 * value * NS * time_base.numerator + time_base.denominator) // (2 * time_base.denominator)

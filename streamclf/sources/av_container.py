"""Read files and network streams through PyAV: packets -> frames with time stamps; its errors are translated."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import av
import av.error
from av.container import InputContainer
from av.packet import Packet

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.redact import redact
from streamclf.sources.av_opening import GUESSED_TIMES, choose_stream, declared_ns, film_clock, prepare_stream, to_ns
from streamclf.sources.corruption import DamageTracker
from streamclf.sources.decoded_frame import DecodedFrame, OrientationTracker, plausible_aspect
from streamclf.sources.decoding import Decoding, WantedDecoding
from streamclf.sources.failure_messages import (
    KEY_FRAME_S,
    NO_FRAME_S,
    REFUSED_ERRORS,
    TLS_FAILURE,
    Timeouts,
    error_message,
    no_film_frame_message,
    no_frame_message,
    no_key_frame_message,
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
from streamclf.sources.long_pictures import FilmFrameSelector
from streamclf.sources.packet_kind import PacketClassifier
from streamclf.sources.packet_tap import COPIED_CODECS, PacketSink
from streamclf.sources.picture_limits import PictureLimit, probing_options
from streamclf.sources.replay_filter import ReplayFilter
from streamclf.units import NS

TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in another encoding is no reason to refuse a file. From PyAV 19 on the option is not needed."""
PACKETS_MISSED = "RTP: missed"
"""FFmpeg's log line about packets that a network lost. It is the only sign: frames around the gap are not marked."""
SEGMENT_BEGINS = "HLS request for url"
"""FFmpeg's log line when it begins to read the next HLS segment."""
SEGMENT_CUT = "Stream ends prematurely"
"""FFmpeg's log line when a segment ends before its declared length."""
UNCHECKED_PACKETS = 8
"""Segments that were each written alone begin with other continuity counters (MPEG-TS). FFmpeg then marks the packets
around the border as damaged: the last one of a segment, or as many frames as its last PES packet has."""
HELD_BACK_S = 0.05
"""While no new segment begins, a packet that FFmpeg returns so soon after a long wait arrived before it."""
UNTIMED_FORMATS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v"})
"""Formats without time stamps. FFmpeg assumes 25 frames per second, which a live source may not send."""
ARRIVAL_CLOCK: Final = Fraction(1, NS)
"""The unit of time stamps that we set ourselves."""


class UnknownDataError(SourceError):
    """A live source sends data that is not of the format that FFmpeg detects, or of none."""


class AvContainer:
    """One opened file or connection, and the decoder of its video."""

    def __init__(
        self,
        url: str,
        *,
        shown: str,
        options: dict[str, str],
        format_name: str | None = None,
        timeouts: Timeouts | None = None,
        low_delay: bool = False,
        hardware: DecodeDevice = CPU,
        stop: threading.Event | None = None,
    ) -> None:
        """Open `url`; errors call it `shown`. `low_delay`: return each frame once its data is there, on one thread.

        `format_name`: FFmpeg's name of the format; it is detected if that is None.
        `stop` is checked after each packet, also after packets that give no frame.
        """
        self._stop = stop or threading.Event()
        self._shown = redact(shown)
        self._limit = PictureLimit(self._shown)
        self._timeouts = timeouts
        self._held_s = 0.0
        self._damage = DamageTracker()
        self._reads_log = low_delay
        self.lost = 0
        """Number of gaps in the received packets: FFmpeg logs one line for each."""
        self._hardware = hardware
        self._container = self._open(url, options, format_name)
        self.undecodable = 0
        self._failed_key = False
        self._has_key = timeouts is None  # only a live stream may begin in the middle of a group of pictures
        self._video_at = time.monotonic()
        self._opened_ns = time.monotonic_ns()
        self._log_level = av.logging.WARNING
        self._held_since: float | None = None  # begin of the wait for a new segment, if it is long
        self._unchecked = 0  # packets until FFmpeg's marks of damage are used again
        try:
            self._stream = choose_stream(self._container, self._shown)
            self._limit.check(self._stream.codec_context)
            self._decoder = prepare_stream(self._container, self._stream, low_delay=low_delay, device=hardware.device)
        except BaseException:
            self.close()
            raise
        is_live_playlist = timeouts is not None and self.is_segmented and self.is_endless
        self._replays = ReplayFilter(self._shown) if is_live_playlist else None
        self.stale = 0
        """Number of packets that an earlier connection has already returned."""
        self._timed = timeouts is None or self._container.format.name not in UNTIMED_FORMATS
        # Images that come alone are stamped on arrival: their decoder returns each with its own stamp.
        self._is_stamped_here = not self._timed and self._stream.codec_context.name == "mjpeg"
        self._timed |= self._is_stamped_here
        declared = self._stream.sample_aspect_ratio
        self._pixel_aspect = None if declared is None else plausible_aspect(declared)  # None: the decoder knows it
        self._orientation = OrientationTracker()
        if self.is_segmented:
            self._log_level = av.logging.VERBOSE
        context = self._stream.codec_context
        self._size = (context.width, context.height)
        self._note = device_note(hardware, context, context.name)
        self._classifier = PacketClassifier(context.name, context.extradata)
        self._sink: PacketSink | None = None
        self._skipper: PacketSkipper[Packet[Any]] = PacketSkipper(low_delay=low_delay)
        self._clock = None if self.is_endless and timeouts is not None else film_clock(self._container, self._stream)
        self._film_selector: FilmFrameSelector | None = None
        self.last_byte = 0
        """The place in the file where the packet begins that was read last."""
        self.is_broken_off = False
        """Whether a film ended because its data is invalid, after packets that could be read."""

    @property
    def format_name(self) -> str:
        """FFmpeg's name of the format."""
        return self._container.format.name

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
            decoding=self._decoder.decoding,
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
    def is_multipart(self) -> bool:
        """Whether the video arrives as images with headers of their own."""
        return self._container.format.name == "mpjpeg"

    @property
    def end_ns(self) -> int:
        """Media time at which the last frame of a film ends."""
        return 0 if self._clock is None else self._clock.end_ns

    @property
    def time_offset_ns(self) -> int | None:
        """Media time less time stamp, of a film's last frame; None before the first one.

        Where FFmpeg guesses the frames' time stamps, all streams begin at 0.
        """
        if self._clock is None:
            return None
        return 0 if self.format_name in GUESSED_TIMES and not self._clock.joined else self._clock.offset_ns

    def shortfall_s(self, declared_by_file_ns: int | None, *, is_cut_off: bool) -> tuple[float, float] | None:
        """Return (declared, read) duration of a film that ended earlier than it declares, in seconds; else None.

        `declared_by_file_ns`: a duration that the file declares and FFmpeg does not report. `is_cut_off`: whether bytes
        of the file are missing, so that a small difference matters, too.
        """
        declared = None if self._clock is None else declared_ns(self._container, self._stream, declared_by_file_ns)
        if self._clock is None or declared is None or self._clock.joined:
            return None
        length_ns, slack_ns = declared
        if is_cut_off:
            slack_ns = 0
        # The last picture may last as long as others, if the file does not say how long it lasts.
        is_short = length_ns - self._clock.end_ns > max(slack_ns, 2 * self._clock.longest_ns)
        return (length_ns / NS, self._clock.end_ns / NS) if is_short else None

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """Skip frames that `selector` does not need."""
        if self._clock is not None:
            selector = self._film_selector = FilmFrameSelector(selector)
        self._skipper.selector = selector

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says, at once before the first packet, else from the next key frame on."""
        self._decoder.set_decoding(wanted)

    def set_packet_sink(self, sink: PacketSink) -> None:
        """Hand on the packets from now on, if they can be copied into a film."""
        context = self._stream.codec_context
        if context.name in COPIED_CODECS:
            self._sink = sink
            sink.begin(context.name, context.extradata)

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    def frames(self) -> Iterator[DecodedFrame]:
        """Iterate over all frames until the end. In a film, media time begins at 0 and increases strictly.

        Raises `SourceError` for a fault, a time-out, or a video without any frame; `HardwareError` if a device is the
        reason for the latter.
        """
        count = 0
        waiting_since = time.monotonic()
        for packet in self._packets():
            if self._stop.is_set():
                return
            if packet is not None:
                if self._sink is not None and packet.size:
                    self._sink.push(bytes(packet), self._stamp_ns(packet), key=packet.is_keyframe)
                self._video_at = time.monotonic()
                if packet.is_keyframe and not self._has_key:
                    self._has_key, waiting_since = True, self._video_at
            for to_decode in () if packet is None else self._packets_to_decode(packet):
                for frame in self._decoded(to_decode):
                    count += 1
                    self._has_key, waiting_since = True, time.monotonic()
                    yield frame
            if not count and self._failed_key:
                self._fail_if_hardware("it could not decode a key frame")
            if self._timeouts is not None:
                self._check_waiting(time.monotonic() - waiting_since, packet)
        yield from map(self._skipped_frame, self._skipper.pop_skipped())
        if not count and not self.stale:
            self._fail_if_hardware("it decoded no frame")
            raise SourceError(f"{self._shown}: {no_film_frame_message(self.info.codec, self.undecodable)}")

    def _packets_to_decode(self, packet: Packet[Any]) -> Sequence[Packet[Any]]:
        """Return the packets to decode, now that `packet` has arrived."""
        if self._skipper.selector is None:
            return (packet,)
        if not packet.size:  # the last packet, which flushes the decoder
            return [*self._skipper.flush(), packet]
        kind = self._classifier.classify(memoryview(packet))
        # A packet marked for discarding gives no frame; one that a stall held back gives an old one.
        intact = not (packet.is_corrupt or packet.is_discard or self._held_s or self._damage.pending)
        is_orderly = self._clock is None or self._clock.orderly
        return self._skipper.push(
            packet,
            None if packet.pts is None or not self._timed else to_ns(packet.pts, packet.time_base),
            arrived_ns=time.monotonic_ns(),
            key=packet.is_keyframe,
            disposable=kind.disposable and is_orderly,
            intact=intact,
        )

    def _decoded(self, packet: Packet[Any]) -> Iterator[DecodedFrame]:
        """Iterate over the frames that `packet` gives, each after the frames skipped before it."""
        if packet.is_corrupt:
            self._damage.add_damage()
        stamp_ns = self._packet_ns(packet)
        if self._clock is not None and packet.size and not packet.is_discard:
            self._clock.add_packet(stamp_ns, key=packet.is_keyframe)
        try:
            frames = self._decoder.decode(packet, key=packet.is_keyframe)
        except (av.error.FFmpegError, ValueError):
            if not self._has_key:
                self._limit.check(self._decoder.context)
                return  # it refers to frames before the connection
            # One broken packet does not end a stream. If no frame follows, `_check_waiting` does.
            self._limit.check_failed(self._decoder.context, packet)
            self.undecodable += 1
            if self._clock is not None:
                self._clock.drop_packet(stamp_ns)
            self._damage.add_damage()
            self._skipper.pause_until_key()
            self._failed_key |= packet.is_keyframe and not packet.is_corrupt
            return
        self._limit.check(self._decoder.context)
        for frame, decoding in frames:
            if isinstance(frame, av.VideoFrame):
                yield from map(self._skipped_frame, self._skipper.pop_skipped_before(self._time_ns(frame)))
                yield self._decoded_frame(frame, decoding)

    def _fail_if_hardware(self, reason: str) -> None:
        device = self._hardware.device
        if device is not None and uses_hardware(self._decoder.context):
            message = f"{self._shown}: {device} does not decode it: {reason}"
            FAILED_DEVICES.add(device, message)
            raise HardwareError(message)

    def _skipped_frame(self, skipped: SkippedPacket[Packet[Any]]) -> DecodedFrame:
        return DecodedFrame(
            oriented=None,
            width=self._size[0],
            height=self._size[1],
            pts_ns=skipped.at_ns if self._clock is None else self._clock.skipped_ns(skipped.at_ns),
            corrupt=self._damage.corrupt,
            arrived_ns=skipped.arrived_ns,
            stamp_ns=skipped.at_ns,
        )

    def _time_ns(self, frame: av.VideoFrame) -> int | None:
        pts = None if not self._timed else frame.pts if frame.pts is not None else frame.dts
        return None if pts is None else to_ns(pts, frame.time_base or self._stream.time_base)

    def _media_ns(self, frame: av.VideoFrame) -> int | None:
        """Return a film's media time; a live source's time stamp."""
        stamp_ns, clock = self._time_ns(frame), self._clock
        if clock is None:
            return stamp_ns
        has_b_frames = bool(self._stream.codec_context.has_b_frames)
        media_ns = clock.frame_ns(stamp_ns, self._duration_ns(frame), has_b_frames=has_b_frames)
        if self._film_selector is not None:
            self._film_selector.shift_ns = clock.offset_ns
        return media_ns

    def _duration_ns(self, frame: av.VideoFrame) -> int:
        """Return how long the file says that the frame lasts; 0 if it does not."""
        return to_ns(max(0, frame.duration or 0), frame.time_base or self._stream.time_base)

    def _stamp_ns(self, item: Packet[Any] | av.VideoFrame) -> int | None:
        """Return the presentation time stamp of a packet or a frame; None if the format has none."""
        has_stamp = self._timed and item.pts is not None
        return to_ns(item.pts or 0, item.time_base or self._stream.time_base) if has_stamp else None

    def _packet_ns(self, packet: Packet[Any]) -> int | None:
        stamp = packet.dts if packet.pts is None else packet.pts
        return None if stamp is None else to_ns(stamp, packet.time_base)

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
                    raise self._failure(error) from None
                demuxed = self._container.demux()  # no packet was held back: this was the first half of the time-out
                continue
            except (av.error.FFmpegError, OSError, ValueError) as error:
                if self._ends_film(error):
                    self.is_broken_off = True
                    flush: Packet[Any] = Packet()
                    flush.stream = self._stream
                    yield flush
                    return
                raise self._failure(error) from None
            if packet is None:
                if self._replays is not None:
                    self._replays.save()
                return
            # Only this read counts: data that arrives after a packet that was held back is new.
            took_s = time.monotonic() - began
            if self._held_since is not None and took_s < HELD_BACK_S:
                took_s = time.monotonic() - self._held_since
            is_held = self._timeouts is not None and took_s >= self._timeouts.read_s / 2
            self._held_s = took_s if is_held else 0.0
            if is_held and self._replays is not None and self._held_since is None:
                self._held_since = began
            waited_s = waited_s + took_s if is_held else 0.0
            is_video = packet.stream.index == self._stream.index
            if self._is_stamped_here and is_video and packet.size:
                packet.time_base = ARRIVAL_CLOCK
                packet.pts = packet.dts = time.monotonic_ns() - self._opened_ns
            if packet.pos is not None:
                self.last_byte = max(self.last_byte, packet.pos)
            replays = self._replays if is_video and packet.size else None
            if replays is not None and replays.is_replay(packet.pts, memoryview(packet), key=packet.is_keyframe):
                self.stale += 1
                is_video = False
            yield packet if is_video else None

    def _ends_film(self, error: Exception) -> bool:
        """Return whether data is invalid after frames of a film: they count, and so do those in the decoder."""
        return self._timeouts is None and self.last_byte > 0 and isinstance(error, av.error.InvalidDataError)

    def _failure(self, error: Exception) -> SourceError:
        if self._replays is not None:
            self._replays.save()
        return self._translated(error, opening=False)

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
                self._unchecked, self._held_since = UNCHECKED_PACKETS, None
            elif SEGMENT_CUT in text:
                self._damage.add_damage()
        if packet is not None and self._unchecked and packet.stream.index == self._stream.index:
            self._unchecked -= 1
            packet.is_corrupt = False

    def _check_waiting(self, waited_s: float, packet: Packet[Any] | None) -> None:
        assert self._timeouts is not None
        silent_s = min(waited_s, time.monotonic() - self._video_at)
        if packet is None and silent_s > self._timeouts.read_s:
            raise SourceError(f"{self._shown}: no video for {silent_s:.1f} s though other data arrives")
        if not self._has_key:
            if waited_s > max(KEY_FRAME_S, self._timeouts.read_s):
                raise SourceError(f"{self._shown}: {no_key_frame_message(waited_s)}")
        elif waited_s > max(NO_FRAME_S, self._timeouts.read_s):
            raise SourceError(f"{self._shown}: {no_frame_message(waited_s, self.undecodable)}")

    def _decoded_frame(self, frame: av.VideoFrame, decoding: Decoding) -> DecodedFrame:
        corrupt, broken = self._damage.add_frame(is_key=bool(frame.key_frame), is_corrupt=frame.is_corrupt)
        aspect = self._pixel_aspect or plausible_aspect(self._decoder.context.sample_aspect_ratio)
        turned = self._orientation.orient(frame, aspect)
        self._size = (turned.width, turned.height)
        if corrupt:
            self._skipper.pause_until_key(self._time_ns(frame))
        if frame.interlaced_frame:
            self._skipper.disable()  # a packet may be one field, half a frame
        return DecodedFrame(
            oriented=turned,
            width=turned.width,
            height=turned.height,
            pts_ns=self._media_ns(frame),
            corrupt=corrupt,
            broken=broken,
            held_s=self._held_s,
            duration_ns=self._duration_ns(frame),
            stamp_ns=self._stamp_ns(frame),
            decoding=decoding,
        )

    def _open(self, url: str, options: dict[str, str], format_name: str | None) -> InputContainer:
        limits = self._timeouts
        # A stalled read expires twice, because the first time it only returns the packet that was held back.
        timeout = None if limits is None else (limits.open_s, limits.read_s / 2)
        began = self._waiting_since = time.monotonic()
        self._over_tls = url.lower().startswith("rtsps:")
        try:
            opened: InputContainer = av.open(
                url,
                "r",
                format=format_name,
                options=options | probing_options(format_name),
                timeout=timeout,
                **TOLERANT,
                **decoder_options(self._hardware.device),
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._translated(error, opening=True) from None
        if limits is not None and time.monotonic() - began >= limits.open_s:
            # FFmpeg reports no error when its probing times out: it would now wait for the first packet as well.
            opened.close()
            raise SourceError(f"{self._shown}: {timeout_message(limits, opening=True)}")
        return opened

    def _translated(self, error: Exception, *, opening: bool) -> SourceError:
        """Return our error for PyAV's, without its text, which contains the URL with its password."""
        limits = self._timeouts
        if limits is not None:
            limit_s = limits.open_s if opening else limits.read_s
            # FFmpeg reports an interruption differently depending on where it happened; the clock is reliable.
            if isinstance(error, av.error.ExitError) or time.monotonic() - self._waiting_since >= limit_s:
                return SourceError(f"{self._shown}: {timeout_message(limits, opening=opening)}")
            if isinstance(error, av.error.InvalidDataError):
                text = "there is no video stream there; check address, port and path"
                return UnknownDataError(f"{self._shown}: {text if opening else error_message(error, opening=False)}")
            if opening and self._over_tls and getattr(error, "errno", None) == errno.EIO:
                return SourceError(f"{self._shown}: {TLS_FAILURE}")
        kind = SourceRefusedError if isinstance(error, REFUSED_ERRORS) else SourceError
        return kind(f"{self._shown}: {error_message(error, opening=opening)}")

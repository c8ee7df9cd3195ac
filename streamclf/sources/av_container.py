"""Decode the frames of files and network streams through PyAV, with their times."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import av
import av.error
from av.packet import Packet

from streamclf.errors import SourceError
from streamclf.redact import redact
from streamclf.sources.av_opening import choose_stream, open_container, prepare_stream
from streamclf.sources.corruption import DamageTracker
from streamclf.sources.decoded_frame import DecodedFrame, OrientationTracker, plausible_aspect
from streamclf.sources.decoding import WantedDecoding
from streamclf.sources.failure_messages import (
    KEY_FRAME_S,
    NO_FRAME_S,
    Timeouts,
    no_film_frame_message,
    no_frame_message,
    no_key_frame_message,
)
from streamclf.sources.frame import SourceInfo
from streamclf.sources.frame_skipping import FrameSelector, PacketSkipper, SkippedPacket
from streamclf.sources.hw_decode import CPU, FAILED_DEVICES, DecodeDevice, HardwareError, device_note, uses_hardware
from streamclf.sources.packet_kind import PacketClassifier
from streamclf.sources.packet_reader import PacketReader
from streamclf.sources.packet_tap import COPIED_CODECS, PacketSink
from streamclf.sources.picture_limits import PictureLimit
from streamclf.sources.switching_decoder import DecodedPicture
from streamclf.sources.video_times import VideoTimes


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
        self._damage = DamageTracker()
        self._hardware = hardware
        self._container = open_container(
            url, self._shown, options=options, format_name=format_name, timeouts=timeouts, device=hardware.device
        )
        self.undecodable = 0
        self._failed_key = False
        self._has_key = timeouts is None  # only a live stream may begin in the middle of a group of pictures
        self._video_at = time.monotonic()
        try:
            self._stream = choose_stream(self._container, self._shown)
            self._limit.check(self._stream.codec_context)
            self._decoder = prepare_stream(self._container, self._stream, low_delay=low_delay, device=hardware.device)
        except BaseException:
            self.close()
            raise
        self.reader = PacketReader(
            self._container, self._stream, self._shown, timeouts=timeouts, damage=self._damage, reads_log=low_delay
        )
        is_film = timeouts is None or not self.is_endless
        self.times = VideoTimes(self._container, self._stream, is_film=is_film, is_timed=self.reader.is_timed)
        declared = self._stream.sample_aspect_ratio
        self._pixel_aspect = None if declared is None else plausible_aspect(declared)  # None: the decoder knows it
        context = self._stream.codec_context
        self._orientation = OrientationTracker(context.name)
        self._size = (context.width, context.height)
        self._note = device_note(hardware, context, context.name)
        self._classifier = PacketClassifier(context.name, context.extradata)
        self._sink: PacketSink | None = None
        self._skipper: PacketSkipper[Packet[Any]] = PacketSkipper(low_delay=low_delay)

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
    def lost(self) -> int:
        """See `PacketReader.lost`."""
        return self.reader.lost

    @property
    def stale(self) -> int:
        """See `PacketReader.stale`."""
        return self.reader.stale

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """Skip frames that `selector` does not need."""
        self._skipper.selector = self.times.adapt(selector)

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
        for packet in self.reader.packets():
            if self._stop.is_set():
                return
            if packet is not None:
                if self._sink is not None and packet.size:
                    self._sink.push(bytes(packet), self.times.stamp_ns(packet), key=packet.is_keyframe)
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
        if not count and not self.reader.stale:
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
        intact = not (packet.is_corrupt or packet.is_discard or self.reader.held_s or self._damage.pending)
        is_orderly = self.times.clock is None or self.times.clock.orderly
        return self._skipper.push(
            packet,
            self.times.stamp_ns(packet),
            arrived_ns=time.monotonic_ns(),
            key=packet.is_keyframe,
            disposable=kind.disposable and is_orderly,
            intact=intact,
        )

    def _decoded(self, packet: Packet[Any]) -> Iterator[DecodedFrame]:
        """Iterate over the frames that `packet` gives, each after the frames skipped before it."""
        if packet.is_corrupt:
            self._damage.add_damage()
        stamp_ns = self.times.packet_ns(packet)
        if self.times.clock is not None and packet.size and not packet.is_discard:
            self.times.clock.add_packet(stamp_ns, key=packet.is_keyframe)
        try:
            frames = self._decoder.decode(packet, key=packet.is_keyframe)
        except (av.error.FFmpegError, ValueError):
            if not self._has_key:
                self._limit.check(self._decoder.context)
                return  # it refers to frames before the connection
            # One broken packet does not end a stream. If no frame follows, `_check_waiting` does.
            self._limit.check_failed(self._decoder.context, packet)
            self.undecodable += 1
            if self.times.clock is not None:
                self.times.clock.drop_packet(stamp_ns)
            self._damage.add_damage()
            self._skipper.pause_until_key()
            self._failed_key |= packet.is_keyframe and not packet.is_corrupt
            return
        self._limit.check(self._decoder.context)
        for picture in frames:
            if isinstance(picture.frame, av.VideoFrame):
                at_ns = self.times.frame_ns(picture.frame)
                yield from map(self._skipped_frame, self._skipper.pop_skipped_before(at_ns))
                yield self._decoded_frame(picture)

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
            pts_ns=skipped.at_ns if self.times.clock is None else self.times.clock.skipped_ns(skipped.at_ns),
            corrupt=self._damage.corrupt,
            arrived_ns=skipped.arrived_ns,
            stamp_ns=skipped.at_ns,
        )

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

    def _decoded_frame(self, picture: DecodedPicture) -> DecodedFrame:
        frame = picture.frame
        corrupt, broken = self._damage.add_frame(is_key=bool(frame.key_frame), is_corrupt=frame.is_corrupt)
        aspect = self._pixel_aspect or plausible_aspect(self._decoder.context.sample_aspect_ratio)
        turned = self._orientation.orient(frame, aspect, picture.reduction)
        self._size = (turned.width, turned.height)
        if corrupt:
            self._skipper.pause_until_key(self.times.frame_ns(frame))
        if frame.interlaced_frame:
            self._skipper.disable()  # a packet may be one field, half a frame
        return DecodedFrame(
            oriented=turned,
            width=turned.width,
            height=turned.height,
            pts_ns=self.times.media_ns(frame),
            corrupt=corrupt,
            broken=broken,
            held_s=self.reader.held_s,
            duration_ns=self.times.duration_ns(frame),
            stamp_ns=self.times.stamp_ns(frame),
            decoding=picture.decoding,
        )

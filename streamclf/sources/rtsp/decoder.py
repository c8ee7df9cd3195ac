"""Decode access units into frames, each once its data is there, on the reader's own thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import av
import av.error
from av.packet import Packet

from streamclf.sources.corruption import DamageTracker
from streamclf.sources.decoded_frame import DecodedFrame, OrientationTracker, plausible_aspect
from streamclf.sources.decoding import EXACT, Decoding, WantedDecoding
from streamclf.sources.frame_skipping import FrameSelector, PacketSkipper, SkippedPacket
from streamclf.sources.hw_decode import (
    CPU,
    FAILED_DEVICES,
    DecodeDevice,
    HardwareDevice,
    buffer_options,
    choose_device,
    decoder_options,
    device_note,
    uses_hardware,
)
from streamclf.sources.packet_kind import PacketClassifier
from streamclf.sources.picture_limits import DECODER_OPTIONS, PictureLimit
from streamclf.sources.picture_part import SQUARE
from streamclf.sources.rtsp.access_units import START_CODE, AccessUnit
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.sdp import VideoTrack
from streamclf.sources.switching_decoder import SwitchingDecoder

MAX_FPS = 1000


class RtspDecoder:
    """Decode the access units of one connection."""

    def __init__(
        self,
        media: TrackReceiver,
        track: VideoTrack,
        *,
        shown: str,
        held_after_s: float,
        hardware: DecodeDevice = CPU,
    ) -> None:
        """Make a decoder; a frame is stale if it was detected as complete more than `held_after_s` late.

        Errors begin with `shown`, the source.
        """
        self._limit = PictureLimit(shown)
        self._held_after_s = held_after_s
        self._media = media
        self._damage = DamageTracker()
        # Decoded with the first frame, in case the server sends them only in its SDP. Sets in the stream come later.
        self._parameter_sets = self._declared_sets = b"".join(START_CODE + nal for nal in track.parameter_sets)
        self._fps = track.fps
        self._size = (0, 0)
        self._coded_size = (0, 0)
        self._pixel_aspect = SQUARE
        self._orientation = OrientationTracker(media.codec)
        self.undecodable = 0
        self._classifier = PacketClassifier(media.codec)
        self._skipper: PacketSkipper[AccessUnit] = PacketSkipper(low_delay=True)
        self._hardware = hardware
        self._frame_count = 0
        self.has_key = False
        """Whether a key frame has arrived, or a frame was decoded without one."""
        self._wanted = EXACT
        self._decoder = self._create_decoder()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the latest frame."""
        return self._size

    @property
    def fps(self) -> float | None:
        """The nominal rate, from the SDP or the stream; None if neither has it."""
        rate = getattr(self._decoder.context, "framerate", None)
        return self._fps or (float(rate) if rate and 0 < rate < MAX_FPS else None)

    @property
    def note(self) -> str | None:
        """The status note about the decoding device, if any."""
        return device_note(self._hardware, self._decoder.context, self._media.codec)

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """Skip frames that `selector` does not need."""
        self._skipper.selector = selector

    @property
    def decoding(self) -> Decoding:
        """How frames are decoded now."""
        return self._decoder.decoding

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says, at once before the first frame, else from the next key frame on."""
        self._wanted = wanted
        self._decoder.set_decoding(wanted)

    def _create_decoder(self) -> SwitchingDecoder:
        options = {"flags": "low_delay", **DECODER_OPTIONS, **buffer_options(self._hardware.device)}
        codec, device = self._media.codec, self._hardware.device
        # A function of its own, not a method: a reference back to this object would keep the decoder's pictures of a
        # closed connection in memory until the garbage collector runs.
        make = partial(_create_context, codec, device, self._declared_sets)
        return SwitchingDecoder(_create_context(codec, device), options, make, codec)

    @property
    def parameter_sets(self) -> bytes:
        """The parameter sets of the SDP in Annex B form, before the first frame was decoded."""
        return self._parameter_sets

    def is_key(self, unit: AccessUnit) -> bool:
        """Return whether decoding can begin at `unit`."""
        return self._classifier.classify(unit.data).key

    def find_key(self, unit: AccessUnit) -> None:
        """Check whether the first key frame has arrived. Damage before it affects no frame."""
        if not self.has_key and self._classifier.classify(unit.data).key:
            self.has_key = True
            self._damage = DamageTracker()

    def units_to_decode(self, unit: AccessUnit) -> Sequence[AccessUnit]:
        """Return the units to decode, now that `unit` has arrived."""
        if self._skipper.selector is None:
            return (unit,)
        if self._parameter_sets:
            self._classifier.classify(self._parameter_sets)
        kind = self._classifier.classify(unit.data)
        return self._skipper.push(
            unit,
            self._media.media_ns(unit.timestamp),
            arrived_ns=time.monotonic_ns(),
            key=kind.key,
            disposable=kind.disposable,
            intact=not (unit.damaged or self._damage.pending or unit.waited_s >= self._held_after_s),
        )

    def decoded(self, unit: AccessUnit) -> list[DecodedFrame]:
        """Decode `unit` and return its frames, each after the frames skipped before it.

        A unit gives one frame, except at the beginning or after damage. Raises `SourceRefusedError` for pictures that
        are too large.
        """
        self.find_key(unit)
        if unit.damaged:
            self._damage.add_damage()
        packet = Packet(self._parameter_sets + unit.data)
        packet.pts = unit.timestamp
        try:
            frames = self._decoder.decode(packet, key=self.is_key(unit))
        except (av.error.FFmpegError, ValueError) as error:
            if self._switched_to_cpu(unit, error):
                return self.decoded(unit)  # with the same parameter sets
            if not self.has_key:
                return []  # it refers to frames before the connection
            # One broken frame does not end a stream. If no frame follows, the reader ends it.
            self.undecodable += 1
            self._damage.add_damage()
            self._skipper.pause_until_key()
            return []
        finally:
            self._parameter_sets = b""
            self._limit.check(self._decoder.context)
        decoded: list[DecodedFrame] = []
        for frame, decoding, _ in frames:
            self._frame_count += 1
            self.has_key = True
            ticks = unit.timestamp if frame.pts is None else frame.pts
            media_ns = self._media.media_ns(ticks)
            decoded += map(self._skipped_frame, self._skipper.pop_skipped_before(media_ns))
            decoded.append(self._decoded_frame(frame, decoding, unit, ticks, media_ns))
        return decoded

    def _switched_to_cpu(self, unit: AccessUnit, error: Exception) -> bool:
        """Switch to the CPU, and return True, if the device failed to decode its first key frame, `unit`.

        A failure before the first key frame is not the device's fault.
        """
        device = self._hardware.device
        if device is None or self._frame_count or unit.damaged or not uses_hardware(self._decoder.context):
            return False
        if not self._classifier.classify(unit.data).key:
            return False
        FAILED_DEVICES.add(device, f"does not decode this {self._media.codec} ({type(error).__name__})")
        self._hardware = choose_device(device)
        self._decoder = self._create_decoder()
        self._decoder.set_decoding(self._wanted)
        return True

    def _skipped_frame(self, skipped: SkippedPacket[AccessUnit]) -> DecodedFrame:
        width, height = self._size
        return DecodedFrame(
            oriented=None,
            width=width,
            height=height,
            pts_ns=skipped.at_ns,
            corrupt=self._damage.corrupt,
            wall_ns=self._media.wall_ns(skipped.packet.timestamp),
            arrived_ns=skipped.arrived_ns,
            stamp_ns=skipped.at_ns,
        )

    def _decoded_frame(
        self, frame: av.VideoFrame, decoding: Decoding, unit: AccessUnit, ticks: int, media_ns: int
    ) -> DecodedFrame:
        is_key, coded_size = bool(frame.key_frame), (frame.width, frame.height)
        if is_key or coded_size != self._coded_size:
            self._coded_size = coded_size
            self._pixel_aspect = plausible_aspect(self._decoder.context.sample_aspect_ratio)  # from its parameter sets
        corrupt, broken = self._damage.add_frame(is_key=is_key, is_corrupt=frame.is_corrupt)
        turned = self._orientation.orient(frame, self._pixel_aspect)
        self._size = (turned.width, turned.height)
        if corrupt:
            self._skipper.pause_until_key(media_ns)
        if frame.interlaced_frame:
            self._skipper.disable()  # a unit may be one field, half a frame
        return DecodedFrame(
            oriented=turned,
            width=turned.width,
            height=turned.height,
            pts_ns=media_ns,
            corrupt=corrupt,
            broken=broken,
            held_s=unit.waited_s if unit.waited_s >= self._held_after_s else 0.0,
            wall_ns=self._media.wall_ns(ticks),
            stamp_ns=media_ns,
            decoding=decoding,
        )


def _create_context(codec: str, device: HardwareDevice | None, parameter_sets: bytes = b"") -> Any:
    """Return a decoder that knows `parameter_sets` from its beginning."""
    context: Any = av.CodecContext.create(codec, "r", **decoder_options(device))
    # Every frame thread of a decoder holds one frame back.
    context.thread_type = "NONE"
    context.thread_count = 1
    if parameter_sets:
        context.extradata = parameter_sets
    return context

"""Access units -> pictures, each as soon as its data is there, on the reader's own thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import av
import av.error
from av.packet import Packet

from streamclf.sources.corruption import DamageTracker
from streamclf.sources.decoded_frame import SQUARE, DecodedFrame, oriented, sound_aspect
from streamclf.sources.frame_skipping import FrameSelector, PacketSkipper, SkippedPacket
from streamclf.sources.hw_decode import (
    CPU,
    FAILED_DEVICES,
    DecodeDevice,
    choose_device,
    decoder_options,
    device_note,
    is_used,
)
from streamclf.sources.nal_references import ReferenceParser
from streamclf.sources.rtsp.access_units import START_CODE, AccessUnit
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.sdp import VideoTrack

MAX_FPS = 1000


class RtspDecoder:
    """The decoder of one connection."""

    def __init__(
        self, media: TrackReceiver, track: VideoTrack, *, held_after_s: float, hardware: DecodeDevice = CPU
    ) -> None:
        """`held_after_s`: a picture that was complete for that long before anybody could know is an old one."""
        self._held_after_s = held_after_s
        self._media = media
        self._damage = DamageTracker()
        # With the first picture, in case the server sends them only in its description; those in the stream follow.
        self._parameter_sets = b"".join(START_CODE + nal for nal in track.parameter_sets)
        self._fps = track.fps
        self._size = (0, 0)
        self._coded_size = (0, 0)
        self._pixel_aspect = SQUARE
        self.undecodable = 0
        self._references = ReferenceParser(media.codec)
        self._skipper: PacketSkipper[AccessUnit] = PacketSkipper(prompt=True)
        self._hardware = hardware
        self._made = 0
        self._context = self._made_context()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the latest picture."""
        return self._size

    @property
    def fps(self) -> float | None:
        """The nominal rate, as the description or the stream says."""
        rate = getattr(self._context, "framerate", None)
        return self._fps or (float(rate) if rate and 0 < rate < MAX_FPS else None)

    @property
    def note(self) -> str | None:
        """Where it decodes, if that is worth saying."""
        return device_note(self._hardware, self._context, self._media.codec)

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """Skip what `interest` will not want."""
        self._skipper.interest = interest

    def _made_context(self) -> Any:
        context: Any = av.CodecContext.create(self._media.codec, "r", **decoder_options(self._hardware.device))
        # Every frame thread of a decoder holds one picture back.
        context.thread_type = "NONE"
        context.thread_count = 1
        context.options = {"flags": "low_delay"}
        return context

    def admitted(self, unit: AccessUnit) -> Sequence[AccessUnit]:
        """What is to be decoded, now that `unit` is there."""
        if self._skipper.interest is None:
            return (unit,)
        if self._parameter_sets:
            self._references.look(self._parameter_sets)
        look = self._references.look(unit.data)
        return self._skipper.admit(
            unit,
            self._media.media_ns(unit.timestamp),
            arrived_ns=time.monotonic_ns(),
            key=look.key,
            spare=look.spare,
            sound=not (unit.damaged or self._damage.pending or unit.waited_s >= self._held_after_s),
        )

    def decoded(self, unit: AccessUnit) -> list[DecodedFrame]:
        """The pictures that are complete with `unit`, one, except at the beginning or where it is damaged; before each
        those that were skipped."""
        if unit.damaged:
            self._damage.note()
        packet = Packet(self._parameter_sets + unit.data)
        packet.pts = unit.timestamp
        try:
            frames = self._context.decode(packet)
        except (av.error.FFmpegError, ValueError) as error:
            if self._has_left_device(unit, error):
                return self.decoded(unit)  # with the same parameter sets
            # One broken picture is not the end of a stream; without any picture after it, the reader is.
            self.undecodable += 1
            self._damage.note()
            self._skipper.distrust()
            return []
        finally:
            self._parameter_sets = b""
        pictures: list[DecodedFrame] = []
        for frame in frames:
            self._made += 1
            ticks = unit.timestamp if frame.pts is None else frame.pts
            media_ns = self._media.media_ns(ticks)
            pictures += map(self._told, self._skipper.out(media_ns))
            pictures.append(self._picture(frame, unit, ticks, media_ns))
        return pictures

    def _has_left_device(self, unit: AccessUnit, error: Exception) -> bool:
        """Go on with the CPU, if a device ought to have decoded `unit`: before a key frame nothing could."""
        device = self._hardware.device
        if device is None or self._made or unit.damaged or not is_used(self._context):
            return False
        if not self._references.look(unit.data).key:
            return False
        FAILED_DEVICES.add(device, f"does not decode this {self._media.codec} ({type(error).__name__})")
        self._hardware = choose_device(device)
        self._context = self._made_context()
        return True

    def _told(self, skipped: SkippedPacket[AccessUnit]) -> DecodedFrame:
        width, height = self._size
        return DecodedFrame(
            oriented=None,
            width=width,
            height=height,
            pts_ns=skipped.at_ns,
            corrupt=self._damage.smeared,
            wall_ns=self._media.wall_ns(skipped.item.timestamp),
            arrived_ns=skipped.arrived_ns,
        )

    def _picture(self, frame: av.VideoFrame, unit: AccessUnit, ticks: int, media_ns: int) -> DecodedFrame:
        is_key, coded_size = bool(frame.key_frame), (frame.width, frame.height)
        if is_key or coded_size != self._coded_size:
            self._coded_size = coded_size
            self._pixel_aspect = sound_aspect(self._context.sample_aspect_ratio)  # of its parameter sets
        corrupt, broken = self._damage.picture(is_key=is_key, is_corrupt=frame.is_corrupt)
        turned = oriented(frame, self._pixel_aspect)
        self._size = (turned.width, turned.height)
        if corrupt:
            self._skipper.distrust(media_ns)
        if frame.interlaced_frame:
            self._skipper.refuse()  # a unit may be half a picture
        return DecodedFrame(
            oriented=turned,
            width=turned.width,
            height=turned.height,
            pts_ns=media_ns,
            corrupt=corrupt,
            broken=broken,
            held_s=unit.waited_s if unit.waited_s >= self._held_after_s else 0.0,
            wall_ns=self._media.wall_ns(ticks),
        )

"""Access units -> pictures, each as soon as its data is there, on the reader's own thread."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import av.error
from av.packet import Packet

from streamclf.sources.container import Picture, oriented, sound_aspect
from streamclf.sources.damage import Damage
from streamclf.sources.rtsp.media import Media
from streamclf.sources.rtsp.sdp import Track
from streamclf.sources.rtsp.units import START_CODE, AccessUnit

MAX_FPS = 1000


class Decoder:
    """The decoder of one connection."""

    def __init__(self, media: Media, track: Track, *, held_after_s: float) -> None:
        """`held_after_s`: a picture that was complete for that long before anybody could know is an old one."""
        self._held_after_s = held_after_s
        self._media = media
        self._time_base = Fraction(1, track.clock_hz)
        self._damage = Damage()
        # With the first picture, in case the server sends them only in its description; those in the stream follow.
        self._parameter_sets = b"".join(START_CODE + nal for nal in track.parameter_sets)
        self._fps = track.fps
        self._size = (0, 0)
        self.undecodable = 0
        self._context: Any = av.CodecContext.create(media.codec, "r")
        # Every frame thread of a decoder holds one picture back.
        self._context.thread_type = "NONE"
        self._context.thread_count = 1
        self._context.options = {"flags": "low_delay"}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the latest picture."""
        return self._size

    @property
    def fps(self) -> float | None:
        """The nominal rate, as the description or the stream says."""
        rate = getattr(self._context, "framerate", None)
        return self._fps or (float(rate) if rate and 0 < rate < MAX_FPS else None)

    def pictures(self, unit: AccessUnit) -> list[Picture]:
        """The pictures that are complete with `unit`: one, except at the beginning or where it is damaged."""
        if unit.damaged:
            self._damage.note()
        packet = Packet(self._parameter_sets + unit.data)
        self._parameter_sets = b""
        packet.pts = unit.timestamp
        packet.time_base = self._time_base
        try:
            frames = self._context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            # One broken picture is not the end of a stream; without any picture after it, the reader is.
            self.undecodable += 1
            self._damage.note()
            return []
        return [self._picture(frame, unit) for frame in frames]

    def _picture(self, frame: av.VideoFrame, unit: AccessUnit) -> Picture:
        corrupt, broken = self._damage.picture(is_key=bool(frame.key_frame), is_corrupt=frame.is_corrupt)
        turned = oriented(frame, sound_aspect(self._context.sample_aspect_ratio))
        self._size = (turned.width, turned.height)
        ticks = unit.timestamp if frame.pts is None else frame.pts
        return Picture(
            oriented=turned,
            pts_ns=self._media.media_ns(ticks),
            corrupt=corrupt,
            broken=broken,
            held_s=unit.waited_s if unit.waited_s >= self._held_after_s else 0.0,
            wall_ns=self._media.wall_ns(ticks),
        )

"""Compute the times of the packets and frames of one opened container."""

from __future__ import annotations

from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from streamclf.sources.av_opening import GUESSED_TIMES, declared_ns, film_clock, to_ns
from streamclf.sources.film_clock import FilmClock
from streamclf.sources.frame_skipping import FrameSelector
from streamclf.sources.long_pictures import FilmFrameSelector
from streamclf.units import NS


class VideoTimes:
    """The times of one video: media time in a film, time stamps in a live source. In nanoseconds."""

    def __init__(self, container: InputContainer, stream: VideoStream, *, is_film: bool, is_timed: bool) -> None:
        """`is_timed`: the packets have time stamps that can be used."""
        self._container, self._stream, self._is_timed = container, stream, is_timed
        self.clock: FilmClock | None = film_clock(container, stream) if is_film else None
        """The clock of a film; None for a live source."""
        self._film_selector: FilmFrameSelector | None = None

    @property
    def end_ns(self) -> int:
        """Media time at which the last frame of a film ends."""
        return 0 if self.clock is None else self.clock.end_ns

    @property
    def offset_ns(self) -> int | None:
        """Media time less time stamp, of a film's last frame; None before the first one.

        Where FFmpeg guesses the frames' time stamps, all streams begin at 0.
        """
        if self.clock is None:
            return None
        return 0 if self._container.format.name in GUESSED_TIMES and not self.clock.joined else self.clock.offset_ns

    def shortfall_s(self, declared_by_file_ns: int | None, *, is_cut_off: bool) -> tuple[float, float] | None:
        """Return (declared, read) duration of a film that ended earlier than it declares, in seconds; else None.

        `declared_by_file_ns`: a duration that the file declares and FFmpeg does not report. `is_cut_off`: whether bytes
        of the file are missing, so that a small difference matters, too.
        """
        declared = None if self.clock is None else declared_ns(self._container, self._stream, declared_by_file_ns)
        if self.clock is None or declared is None or self.clock.joined:
            return None
        length_ns, slack_ns = declared
        if is_cut_off:
            slack_ns = 0
        # The last picture may last as long as others, if the file does not say how long it lasts.
        is_short = length_ns - self.clock.end_ns > max(slack_ns, 2 * self.clock.longest_ns)
        return (length_ns / NS, self.clock.end_ns / NS) if is_short else None

    def adapt(self, selector: FrameSelector) -> FrameSelector:
        """Return a selector that takes the time stamps of this video, for one that takes media times."""
        if self.clock is not None:
            selector = self._film_selector = FilmFrameSelector(selector)
        return selector

    def frame_ns(self, frame: av.VideoFrame) -> int | None:
        """Return the time stamp at which a frame is shown, or at which it is decoded; None if the format has none."""
        pts = None if not self._is_timed else frame.pts if frame.pts is not None else frame.dts
        return None if pts is None else to_ns(pts, frame.time_base or self._stream.time_base)

    def media_ns(self, frame: av.VideoFrame) -> int | None:
        """Return a film's media time; a live source's time stamp."""
        stamp_ns, clock = self.frame_ns(frame), self.clock
        if clock is None:
            return stamp_ns
        has_b_frames = bool(self._stream.codec_context.has_b_frames)
        media_ns = clock.frame_ns(stamp_ns, self.duration_ns(frame), has_b_frames=has_b_frames)
        if self._film_selector is not None:
            self._film_selector.shift_ns = clock.offset_ns
        return media_ns

    def duration_ns(self, frame: av.VideoFrame) -> int:
        """Return how long the file says that the frame lasts; 0 if it does not."""
        return to_ns(max(0, frame.duration or 0), frame.time_base or self._stream.time_base)

    def stamp_ns(self, item: Packet[Any] | av.VideoFrame) -> int | None:
        """Return the presentation time stamp of a packet or a frame; None if the format has none."""
        has_stamp = self._is_timed and item.pts is not None
        return to_ns(item.pts or 0, item.time_base or self._stream.time_base) if has_stamp else None

    def packet_ns(self, packet: Packet[Any]) -> int | None:
        """Return the time stamp at which a packet's frame is shown, or decoded, also where FFmpeg assumes it."""
        stamp = packet.dts if packet.pts is None else packet.pts
        return None if stamp is None else to_ns(stamp, packet.time_base)

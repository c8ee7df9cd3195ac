"""Read the packets of an opened container, with time-outs, gaps, packets held back, and replays of HLS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from streamclf.errors import SourceError
from streamclf.sources.corruption import DamageTracker
from streamclf.sources.failure_messages import Timeouts, source_error
from streamclf.sources.ffmpeg_log import captured_log
from streamclf.sources.replay_filter import ReplayFilter
from streamclf.units import NS

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


class PacketReader:
    """The packets of the chosen stream of one opened file or connection."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        shown: str,
        *,
        timeouts: Timeouts | None,
        damage: DamageTracker,
        reads_log: bool,
    ) -> None:
        """Read `stream`; errors call the source `shown`. `timeouts`: of a live source; None for a film.

        `damage` gets the gaps and cut segments that FFmpeg logs, if `reads_log`.
        """
        self._container, self._stream, self._shown = container, stream, shown
        self._timeouts, self._damage, self._reads_log = timeouts, damage, reads_log
        self._opened_ns = time.monotonic_ns()
        is_segmented = "hls" in container.format.name.split(",")
        self._log_level = av.logging.VERBOSE if is_segmented else av.logging.WARNING
        self._held_since: float | None = None  # begin of the wait for a new segment, if it is long
        self._unchecked = 0  # packets until FFmpeg's marks of damage are used again
        is_live_playlist = timeouts is not None and is_segmented and container.duration is None
        self._replays = ReplayFilter(shown) if is_live_playlist else None
        is_timed = timeouts is None or container.format.name not in UNTIMED_FORMATS
        # Images that come alone are stamped on arrival: their decoder returns each with its own stamp.
        self._is_stamped_here = not is_timed and stream.codec_context.name == "mjpeg"
        self.is_timed = is_timed or self._is_stamped_here
        """Whether the packets have time stamps that can be used."""
        self.held_s = 0.0
        """For how long a stall held back the packet that was read last, in seconds; 0 if it did not."""
        self.lost = 0
        """Number of gaps in the received packets: FFmpeg logs one line for each."""
        self.stale = 0
        """Number of packets that an earlier connection has already returned."""
        self.last_byte = 0
        """The place in the file where the packet begins that was read last."""
        self.is_broken_off = False
        """Whether a film ended because its data is invalid, after packets that could be read."""

    def packets(self) -> Iterator[Packet[Any] | None]:
        """Iterate over packets of the chosen stream; None stands for a packet of another, to check time-outs.

        Raises `SourceError` for a fault or a time-out.
        """
        demuxed = self._container.demux()
        waited_s = 0.0  # waiting for data, including reads that only returned a packet that was held back
        while True:
            began = time.monotonic()
            waiting_since = began - waited_s
            try:
                packet = self._next(demuxed)
            except av.error.ExitError as error:
                waited_s = time.monotonic() - waiting_since
                if self._timeouts is None or waited_s >= 0.9 * self._timeouts.read_s:
                    raise self._failure(error, waiting_since) from None
                demuxed = self._container.demux()  # no packet was held back: this was the first half of the time-out
                continue
            except (av.error.FFmpegError, OSError, ValueError) as error:
                if self._ends_film(error):
                    self.is_broken_off = True
                    flush: Packet[Any] = Packet()
                    flush.stream = self._stream
                    yield flush
                    return
                raise self._failure(error, waiting_since) from None
            if packet is None:
                if self._replays is not None:
                    self._replays.save()
                return
            # Only this read counts: data that arrives after a packet that was held back is new.
            took_s = time.monotonic() - began
            if self._held_since is not None and took_s < HELD_BACK_S:
                took_s = time.monotonic() - self._held_since
            is_held = self._timeouts is not None and took_s >= self._timeouts.read_s / 2
            self.held_s = took_s if is_held else 0.0
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
        """Return whether a film ends here, because its data is invalid; the frames before it stay valid."""
        return self._timeouts is None and self.last_byte > 0 and isinstance(error, av.error.InvalidDataError)

    def _failure(self, error: Exception, waiting_since: float) -> SourceError:
        if self._replays is not None:
            self._replays.save()
        waited_s = time.monotonic() - waiting_since
        return source_error(error, self._shown, self._timeouts, opening=False, waited_s=waited_s)

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

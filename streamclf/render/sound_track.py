"""Write the sound of a film into another film: copied, or encoded as AAC where MP4 cannot hold it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import av
import av.error
from av.packet import Packet

from streamclf.units import NS

MP4_CODECS: Final = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus", "libopus"})
"""Sound that MP4 holds and that players read. PCM, Vorbis and others become AAC."""
AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_LAYOUTS: Final = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")


class SoundTrack:
    """The sound track of a film that is written. `is_copied`: whether packets are copied, not encoded.

    `undecodable`: the number of packets that could not be decoded, and are left out.
    """

    def __init__(self, container: Any, template: Any, *, may_copy: bool) -> None:
        """Add a track to `container`, before its first packet. Raises PyAV's errors where that is not possible."""
        self._container = container
        self.is_copied = may_copy and template.codec_context.name in MP4_CODECS
        self.undecodable = 0
        self._last_dts: int | None = None
        self._rate: int = template.codec_context.sample_rate or 48000
        if self.is_copied:
            self._stream = container.add_stream_from_template(template)
            return
        given = template.codec_context
        rate = given.sample_rate if given.sample_rate in AAC_RATES else 48000
        layout = given.layout.name if given.layout.name in AAC_LAYOUTS else "stereo"
        self._stream = container.add_stream("aac", rate=rate, layout=layout)
        self._stream.codec_context.bit_rate = 96_000 * max(1, len(self._stream.codec_context.layout.channels))

    def add(self, packet: Packet[Any], media_ns: int) -> None:
        """Add a packet of the source, which begins at `media_ns`. Raises PyAV's errors."""
        if self.is_copied:
            self._copy(packet, media_ns)
            return
        stamp = packet.dts if packet.pts is None else packet.pts
        assert stamp is not None
        shift_ns = media_ns - round(stamp * packet.time_base * NS)
        try:
            frames: list[Any] = list(packet.decode())
        except (av.error.FFmpegError, ValueError):
            self.undecodable += 1
            return
        for frame in frames:
            if frame.pts is None or frame.time_base is None:
                continue
            begin_ns = round(frame.pts * frame.time_base * NS) + shift_ns
            if begin_ns < 0:
                continue
            frame.pts = round(begin_ns * Fraction(frame.sample_rate, NS))
            frame.time_base = Fraction(1, frame.sample_rate)
            try:
                encoded = self._stream.encode(frame)
            except (av.error.FFmpegError, ValueError):  # another rate or layout than at the beginning
                self.undecodable += 1
                continue
            self._container.mux(encoded)

    def close(self) -> None:
        """Write the last packets. Raises PyAV's errors."""
        if not self.is_copied:
            self._container.mux(self._stream.encode(None))

    def _copy(self, packet: Packet[Any], media_ns: int) -> None:
        stamp = packet.dts if packet.pts is None else packet.pts
        assert stamp is not None
        # AVI counts MP3 in units of 24 ms, in which a shifted time cannot be given.
        ticks = Fraction(self._rate)
        early = Fraction(0) if packet.dts is None else (stamp - packet.dts) * packet.time_base
        packet.duration = round((packet.duration or 0) * packet.time_base * ticks)
        packet.time_base = 1 / ticks
        packet.pts = round(media_ns * ticks / NS)
        packet.dts = packet.pts - round(early * ticks)
        if self._last_dts is not None and packet.dts <= self._last_dts:
            return  # a time that goes back: no player needs the packet
        self._last_dts = packet.dts
        packet.stream = self._stream
        self._container.mux(packet)

"""Read the sound of a film beside its frames, on the same media time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import av.error
from av.packet import Packet

from streamclf.sources.av_opening import TOLERANT
from streamclf.units import NS

MAX_LEAD_NS = NS // 10
"""A codec's first packets precede the film, so that its decoder can start. Earlier sound has no picture."""


class SoundPacket(NamedTuple):
    """A packet of the file, and its begin in media time in nanoseconds."""

    packet: Packet[Any]
    media_ns: int


class FilmSound:
    """The best sound track of the film `path`, packet by packet.

    `fault`: why the sound ended before the film, or is left out, in words; None if it is complete.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. `stream` is None if it has no sound, or cannot be opened."""
        self.fault: str | None = None
        self._offset_ns: int | None = None
        self._waiting: SoundPacket | None = None
        self.stream: Any = None
        self._container: Any = None
        self._packets: Iterator[Packet[Any]] = iter(())
        try:
            # As for the frames: a playlist with the name of a film must not make FFmpeg fetch anything.
            options = {"protocol_whitelist": "file,crypto,data"}
            self._container = av.open(f"file:{path}", options=options, **TOLERANT)
            self.stream = self._container.streams.best("audio")
            if self.stream is not None and self.stream.codec_context is None:
                self.stream, self.fault = None, "FFmpeg does not know its codec"
            if self.stream is not None:
                self._packets = self._container.demux(self.stream)
        except (av.error.FFmpegError, OSError, ValueError):  # frames could be read, so it has no sound that counts
            self.stream = None

    def __enter__(self) -> FilmSound:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._container is not None:
            self._container.close()

    def until(self, media_ns: int | None, offset_ns: int | None) -> Iterator[SoundPacket]:
        """Yield the packets that begin before `media_ns`; all that are left if that is None.

        `offset_ns`: media time less time stamp, of the frames at that time. Where it changes, the film joins
        recordings, and the sound ends.
        """
        if self.stream is None or self.fault is not None:
            return
        self._offset_ns = offset_ns if self._offset_ns is None else self._offset_ns
        if offset_ns is None or self._offset_ns != offset_ns:
            self.fault = "its time stamps do not continue"
            return
        while True:
            found, self._waiting = self._waiting or self._next(), None
            if found is None:
                return
            if media_ns is not None and found.media_ns >= media_ns:
                self._waiting = found
                return
            if found.media_ns >= -MAX_LEAD_NS:
                yield found

    def _next(self) -> SoundPacket | None:
        """Return the next packet that has a time; None at the end."""
        assert self._offset_ns is not None
        try:
            for packet in self._packets:
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size and stamp is not None:
                    return SoundPacket(packet, round(stamp * packet.time_base * NS) + self._offset_ns)
        except (av.error.FFmpegError, OSError, ValueError, IndexError):
            # PyAV raises an IndexError where damaged MPEG-TS seems to begin another stream.
            self.fault = "its data is damaged"
        return None

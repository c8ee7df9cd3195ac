"""Write the packets of one film into a file that can be played at any moment, also after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import io
import os
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.error
import numpy as np
from av.packet import Packet

from streamclf.clips.bitstream import ParameterSets, parameter_sets_of, to_annex_b
from streamclf.clips.ring import PacketEntry
from streamclf.errors import ClipError
from streamclf.runtime.durable_files import write_all
from streamclf.units import NS

CLOCK_HZ: Final = 90_000
TIME_BASE: Final = Fraction(1, CLOCK_HZ)
REORDERED: Final = 16
"""Packets that wait, so that the decoding times of the ones before are known. Both standards reorder up to 16."""
FRAGMENT: Final = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
"""A fragment ends at each key frame and after each second (microseconds); everything before it can be played."""
TRIMMED: Final = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
"""The muxer turns times below zero into an edit list, which hides their pictures."""
H264_ENCODERS: Final = ("libx264", "libopenh264")
PICTURE_OPTIONS: Final = {"preset": "ultrafast", "tune": "zerolatency", "crf": "27", "g": "20", "threads": "1"}
FAILURES: Final = (av.error.FFmpegError, OSError, ValueError)


def lock_film(fd: int) -> None:
    """Lock a hidden file: another process of the stream must not take it for a leftover."""
    with contextlib.suppress(OSError):  # not every file system can lock
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class WholeFile(io.FileIO):
    """A file without buffer that takes all bytes of a write or raises `OSError`.

    A disk that gets full takes a part of a write. libavformat ignores that, so the film would lack its last bytes.
    """

    def write(self, data: Any) -> int:
        """Write all of `data`; return its bytes."""
        write_all(self.fileno(), data)
        return len(data)


class PacketWriter:
    """Mux the packets of one film in decoding order. Decoding times are made here: cameras send none.

    A packet's decoding time is the n-th smallest presentation time of all, n being its place in decoding order, minus
    the largest delay that reordering needs.
    """

    def __init__(self, container: Any, stream: Any, origin_ns: int) -> None:
        self._container, self._stream, self._origin_ns = container, stream, origin_ns
        self._waiting: deque[tuple[int, bytes, bool]] = deque()
        self._times: list[int] = []
        self._delay: int | None = None
        self._last: int | None = None
        self._interval = CLOCK_HZ // 25

    def write(self, data: bytes, at_ns: int, *, key: bool) -> None:
        """Add a packet in Annex B form, with its media time."""
        ticks = round((at_ns - self._origin_ns) * CLOCK_HZ / NS)
        self._waiting.append((ticks, data, key))
        heapq.heappush(self._times, ticks)
        while len(self._waiting) > REORDERED:
            self._write_first()

    def flush(self) -> None:
        """Write the packets that wait, at the end of the film."""
        while self._waiting:
            self._write_first()

    def _write_first(self) -> None:
        if self._delay is None:
            self._delay = self._needed_delay()
        ticks, data, key = self._waiting.popleft()
        decoded = heapq.heappop(self._times) - self._delay
        if self._last is not None:
            decoded = max(decoded, self._last + 1)
            self._interval = max(1, min(decoded - self._last, CLOCK_HZ))
        self._last = decoded
        packet = Packet(data)
        packet.stream, packet.time_base = self._stream, TIME_BASE
        packet.dts, packet.pts = decoded, max(ticks, decoded)
        packet.duration, packet.is_keyframe = self._interval, key
        self._container.mux_one(packet)

    def _needed_delay(self) -> int:
        """Return by how much decoding times must be earlier than the n-th smallest presentation times."""
        ordered = sorted(self._times)
        delay = max(time - ticks for time, (ticks, _, _) in zip(ordered, self._waiting, strict=True))
        # A later group of pictures may be reordered more than this one.
        return 0 if delay <= 0 else delay + 2 * (ordered[-1] - ordered[0]) // max(1, len(ordered) - 1)


class FilmFile:
    """A film that is being written, in fragmented MP4. Raises `ClipError` if the disk does not take it."""

    def __init__(
        self, path: Path, first: PacketEntry, *, title: str, description: str, shown_from_ns: int | None = None
    ) -> None:
        """Create the file, which must not exist; `first` is the film's first packet, a key frame.

        With `shown_from_ns`, players show the pictures from this media time on. The packets before it are needed to
        decode them, and the edit list of the file hides them. Such a file cannot be played before it is closed.
        """
        self.path, self.format = path, first.format
        self.packets = 0
        self.first_ns = self.last_ns = first.at_ns
        self._is_open = True
        self._template: Any = None
        # A Python file, opened without buffer: libavformat's own would hold the interpreter lock while a disk hangs.
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ClipError(f"{path.parent}: {error.strerror}") from error
        lock_film(fd)
        self._file = WholeFile(fd, "w")
        try:
            options = FRAGMENT if shown_from_ns is None else TRIMMED
            self._container: Any = av.open(self._file, "w", format="mp4", options=options)
            self._container.metadata.update({"title": title, "comment": description})
            origin_ns = first.at_ns if shown_from_ns is None else shown_from_ns
            if self.format.codec == "jpeg":
                self._writer: PacketWriter | _PictureEncoder = _PictureEncoder(self._container, first)
            else:
                self._writer = PacketWriter(self._container, self._copied_stream(first), origin_ns)
        except FAILURES as error:
            self.abandon()
            raise ClipError(f"{path.name}: {_reason(error)}") from error

    @property
    def fileno(self) -> int:
        """The file's descriptor, for a lock."""
        return self._file.fileno()

    def write(self, entry: PacketEntry) -> None:
        """Add the next packet, in decoding order."""
        try:
            if isinstance(self._writer, PacketWriter):
                data = to_annex_b(entry.data, self.format.sets.length_bytes)
                self._writer.write(data, entry.at_ns, key=entry.key)
            else:
                self._writer.write(entry)
        except FAILURES as error:
            raise ClipError(f"{self.path.name}: {_reason(error)}") from error
        self.packets += 1
        self.last_ns = max(self.last_ns, entry.at_ns)

    def close(self) -> None:
        """Write the end of the film; the file keeps its name."""
        if not self._is_open:
            return
        try:
            self._writer.flush()
            self._container.close()
        except FAILURES as error:
            raise ClipError(f"{self.path.name}: {_reason(error)}") from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is. A film without its end can be played up to its last complete fragment."""
        if not self._is_open:
            return
        self._is_open = False
        self._file.close()  # first: data that libavformat still holds must not be written now
        with contextlib.suppress(AttributeError, *FAILURES):
            self._container.close()
        if self._template is not None:
            self._template.close()

    def _copied_stream(self, first: PacketEntry) -> Any:
        """Make the stream from the first key frame: FFmpeg reads its properties from the parameter sets."""
        codec, sets = self.format.codec, self.format.sets
        data = to_annex_b(first.data, sets.length_bytes)
        own = parameter_sets_of(codec, data, 0)
        known = ParameterSets(tuple(unit for unit in sets.units if unit not in own)).annex_b
        self._template = av.open(io.BytesIO(known + data), "r", format=codec)
        video = self._template.streams.video[0]
        if not video.codec_context.width:
            raise ValueError("its key frame has no parameter sets")
        stream = self._container.add_stream_from_template(video)
        stream.time_base = TIME_BASE
        if codec == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # the only tag that Apple's players accept
        return stream


class _PictureEncoder:
    """Encode JPEG pictures as H.264, because no browser plays a film of them."""

    def __init__(self, container: Any, first: PacketEntry) -> None:
        self._container, self._origin_ns = container, first.at_ns
        height, width = _decoded(first.data).shape[:2]
        self._size = (width - width % 2, height - height % 2)
        encoder = next((name for name in H264_ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise ValueError("FFmpeg has no encoder for H.264 here, which a source without packets needs")
        self._stream = container.add_stream(encoder, rate=10)
        self._stream.width, self._stream.height, self._stream.pix_fmt = *self._size, "yuv420p"
        self._stream.codec_context.time_base = TIME_BASE
        self._stream.options = PICTURE_OPTIONS if encoder == "libx264" else {}
        self._last: int | None = None

    def write(self, entry: PacketEntry) -> None:
        ticks = round((entry.at_ns - self._origin_ns) * CLOCK_HZ / NS)
        if self._last is not None and ticks <= self._last:
            return
        self._last = ticks
        frame = av.VideoFrame.from_ndarray(_decoded(entry.data), "bgr24")
        frame = frame.reformat(*self._size, format="yuv420p")
        frame.pts, frame.time_base = ticks, TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def flush(self) -> None:
        self._container.mux(self._stream.encode(None))


def _decoded(jpeg: bytes) -> Any:
    """Decode a picture into (height, width, 3) uint8 BGR."""
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("a picture that cannot be decoded")
    return image


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""Write frames with times into an H.264 film that every player supports, or into an animated GIF."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import cv2
import numpy as np
from av.filter import Graph
from av.packet import Packet

from engines.arrays import U8
from streamclf.errors import SourceError, UsageError
from streamclf.render.sound_track import SoundTrack

_TICKS_PER_S = {".mkv": 1000}
"""Matroska stores milliseconds. In the other formats, frames of all usual rates have exact times."""
_FINE_TICKS_PER_S = 120_000
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)
MAX_GIF_FRAMES = 1200
"""Two minutes at 10 frames per second. All frames stay in memory until the palette has been chosen."""


class SoundError(SourceError):
    """The sound of a film cannot be written as it was tried; the film without sound may be possible."""


class FilmWriter:
    """Write the film `path` (.mp4, .mkv or .mov) in the size of the first frame; later frames are fitted into it.

    `fps` is the nominal rate; each frame keeps its own time. `sound` is the source's sound track, a PyAV stream, or
    None. Raises `UsageError` for another suffix, and `SourceError` for a file that cannot be written.
    """

    def __init__(self, path: Path, *, fps: float = 25.0, sound: Any = None, may_copy_sound: bool = True) -> None:
        if path.suffix not in (".mp4", ".mkv", ".mov"):
            raise UsageError(f"{path}: ends in {path.suffix or 'no suffix'}; give a name that ends in .mp4")
        self._path, self._fps = path, fps
        try:
            path.touch()  # now, because FFmpeg opens the file with the first frame only
            self._container = av.open(str(path), "w")
        except (OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{path}: cannot be written ({error.strerror}); give a writable path") from error
        self._stream: Any = None
        self._ticks_per_s = _TICKS_PER_S.get(path.suffix, _FINE_TICKS_PER_S)
        self._last_ticks = -1
        self._sound, self._may_copy_sound = sound, may_copy_sound
        self.frames = 0
        """Frames written."""
        self.sound_track: SoundTrack | None = None
        """The track that `add_sound` writes, after the first frame; None for a film without sound."""

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def write(self, frame: U8, time_s: float) -> None:
        """Add `frame`, (H, W, 3) uint8 BGR, which is shown from `time_s` on.

        A frame that is not later than the last one is left out. Raises `SourceError`.
        """
        ticks = round(self._ticks_per_s * time_s)
        if ticks <= self._last_ticks:
            return
        self._last_ticks = ticks
        if self._stream is None:
            self._add_stream(frame.shape[0], frame.shape[1])
        size = (self._stream.width, self._stream.height)
        video_frame = av.VideoFrame.from_ndarray(fit(frame, size[1], size[0]), format="bgr24")
        video_frame.pts, video_frame.time_base = ticks, Fraction(1, self._ticks_per_s)
        self._encode(video_frame)
        self.frames += 1

    def add_sound(self, packet: Packet[Any], media_ns: int) -> None:
        """Add a packet of the source's sound, which begins at `media_ns`.

        Raises `SoundError` if the format does not take it, and `SourceError` if nothing can be written.
        """
        if self.sound_track is None:
            return
        try:
            self.sound_track.add(packet, media_ns)
        except (OSError, av.error.FFmpegError) as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Finish the file. Remove it if no frame was written."""
        if self._stream is not None:
            self._encode(None)
        try:
            if self.sound_track is not None:
                self.sound_track.close()
            self._container.close()
        except (OSError, av.error.FFmpegError) as error:
            raise self._unwritable(error) from error
        if self.frames == 0:
            self._path.unlink(missing_ok=True)

    def _add_stream(self, height: int, width: int) -> None:
        stream: Any = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
        stream.width, stream.height = width + width % 2, height + height % 2  # 4:2:0 needs even sides
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "22"}
        stream.codec_context.time_base = Fraction(1, self._ticks_per_s)
        self._stream = stream
        if self._sound is not None:
            try:
                self.sound_track = SoundTrack(self._container, self._sound, may_copy=self._may_copy_sound)
                self._container.start_encoding()
            except (OSError, ValueError, av.error.FFmpegError) as error:
                self._stream = self.sound_track = None  # so that `close` writes nothing
                raise SoundError(f"{self._path}: its sound cannot be written ({error})") from error

    def _encode(self, video_frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(video_frame):
                self._container.mux(packet)
        except (OSError, av.error.FFmpegError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError | av.error.FFmpegError) -> SourceError:
        is_sound = self.sound_track is not None and error.errno not in _NO_SPACE
        self._stream = self.sound_track = None  # a packet after a header that failed would crash FFmpeg
        if is_sound:
            return SoundError(f"{self._path}: its sound cannot be written ({error.strerror})")
        return SourceError(f"{self._path}: {error.strerror}; check that its disk is not full")


def fit(image: U8, height: int, width: int) -> U8:
    """Fit an image, (H, W, 3) uint8, into (height, width, 3) with its aspect ratio; the borders are dark grey.

    An image of that size is returned as it is.
    """
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))
    top, left = (height - h) // 2, (width - w) // 2
    canvas = np.full((height, width, 3), 20, np.uint8)
    canvas[top : top + h, left : left + w] = cv2.resize(
        image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return canvas


class GifWriter:
    """Write the animated GIF `path`, which repeats forever. One palette is chosen for all frames."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames: list[tuple[float, U8]] = []
        self.frames = 0
        """Frames added."""

    def __enter__(self) -> GifWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def write(self, frame: U8, time_s: float) -> None:
        """Add `frame`, (H, W, 3) uint8 BGR, which is shown from `time_s` on.

        Raises `SourceError` for more than 1,200 frames.
        """
        if self.frames == MAX_GIF_FRAMES:
            raise SourceError(f"{self._path}: more than {MAX_GIF_FRAMES} frames; write an .mp4 instead")
        self.frames += 1
        self._frames.append((time_s, frame))

    def close(self) -> None:
        """Choose the palette and write the file. Write no file if there is no frame."""
        if not self._frames:
            return
        height, width = self._frames[0][1].shape[:2]
        graph = _palette_graph(width, height)
        try:
            with av.open(str(self._path), "w", format="gif", options={"loop": "0"}) as container:
                stream: Any = container.add_stream("gif", rate=100)
                stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
                for time_s, frame in self._frames:
                    video_frame = av.VideoFrame.from_ndarray(fit(frame, height, width), format="bgr24")
                    video_frame.pts, video_frame.time_base = round(100 * time_s), Fraction(1, 100)
                    graph.push(video_frame)
                graph.push(None)
                for video_frame in _filtered_frames(graph):
                    container.mux(stream.encode(video_frame))
                container.mux(stream.encode(None))
        except (OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{self._path}: {error.strerror}; check that its disk is not full") from error
        self._frames.clear()


def _palette_graph(width: int, height: int) -> Graph:
    """Build the filter graph split -> palettegen -> paletteuse, as FFmpeg's guide to high quality GIFs recommends."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("bgr24"), time_base=Fraction(1, 100))
    split, choose, use = (
        graph.add("split"),
        graph.add("palettegen", "stats_mode=diff"),
        graph.add("paletteuse", "dither=bayer"),
    )
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(choose, 1, 0)
    choose.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _filtered_frames(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            video_frame = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return
        if isinstance(video_frame, av.VideoFrame):
            yield video_frame

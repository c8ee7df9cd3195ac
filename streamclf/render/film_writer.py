"""Pictures with times -> an H.264 film that every player takes, or an animated GIF."""

from __future__ import annotations

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

from engines.arrays import U8
from streamclf.errors import SourceError, UsageError

_TIME_BASE = Fraction(1, 1000)
MAX_GIF_FRAMES = 1200
"""Two minutes at 10 pictures a second: they are held in memory until the palette is known."""


class FilmWriter:
    """Writes `path` (.mp4, .mkv or .mov); its size is that of the first picture, others are fitted into it."""

    def __init__(self, path: Path, *, fps: float = 25.0) -> None:
        if path.suffix not in (".mp4", ".mkv", ".mov"):
            raise UsageError(f"{path}: ends in {path.suffix or 'nothing'}; give a name that ends in .mp4")
        self._path, self._fps = path, fps
        try:
            path.touch()  # FFmpeg opens the file only when the first picture comes
            self._container = av.open(str(path), "w")
        except (OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{path}: cannot be written ({error.strerror}); give a writable path") from error
        self._stream: Any = None
        self._last_ms = -1
        self.frames = 0

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def write(self, picture: U8, time_s: float) -> None:
        """Add (H, W, 3) uint8 BGR, shown from `time_s` on; one that is not later than the last is left out."""
        time_ms = round(1000 * time_s)
        if time_ms <= self._last_ms:
            return
        self._last_ms = time_ms
        if self._stream is None:
            self._begin(picture.shape[0], picture.shape[1])
        size = (self._stream.width, self._stream.height)
        frame = av.VideoFrame.from_ndarray(fitted(picture, size[1], size[0]), format="bgr24")
        frame.pts, frame.time_base = time_ms, _TIME_BASE
        self._mux(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the file. Without a picture there is none."""
        if self._stream is not None:
            self._mux(None)
        self._container.close()
        if self._stream is None:
            self._path.unlink(missing_ok=True)

    def _begin(self, height: int, width: int) -> None:
        stream: Any = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
        stream.width, stream.height = width + width % 2, height + height % 2  # 4:2:0 wants even sides
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "22"}
        stream.codec_context.time_base = _TIME_BASE
        self._stream = stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{self._path}: {error.strerror}; is its disk full?") from error


def fitted(picture: U8, height: int, width: int) -> U8:
    """(H, W, 3) -> (height, width, 3): as large as it fits, in its own proportions, on a dark ground."""
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(height / picture.shape[0], width / picture.shape[1])
    h, w = max(1, int(picture.shape[0] * scale)), max(1, int(picture.shape[1] * scale))
    top, left = (height - h) // 2, (width - w) // 2
    ground = np.full((height, width, 3), 20, np.uint8)
    ground[top : top + h, left : left + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    return ground


class GifWriter:
    """Writes `path`, an animated GIF that repeats for ever; its colours are chosen for the film as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pictures: list[tuple[float, U8]] = []
        self.frames = 0

    def __enter__(self) -> GifWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def write(self, picture: U8, time_s: float) -> None:
        """Add (H, W, 3) uint8 BGR, shown from `time_s` on. Raises `SourceError` beyond what fits into a GIF."""
        if self.frames == MAX_GIF_FRAMES:
            raise SourceError(f"{self._path}: more than {MAX_GIF_FRAMES} pictures; write an .mp4 instead")
        self.frames += 1
        self._pictures.append((time_s, picture))

    def close(self) -> None:
        """Choose the palette and write the file. Without a picture there is none."""
        if not self._pictures:
            return
        height, width = self._pictures[0][1].shape[:2]
        graph = _palette_graph(width, height)
        try:
            with av.open(str(self._path), "w", format="gif", options={"loop": "0"}) as container:
                stream: Any = container.add_stream("gif", rate=100)
                stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
                for time_s, picture in self._pictures:
                    frame = av.VideoFrame.from_ndarray(fitted(picture, height, width), format="bgr24")
                    frame.pts, frame.time_base = round(100 * time_s), Fraction(1, 100)
                    graph.push(frame)
                graph.push(None)
                for frame in _pulled(graph):
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except (OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{self._path}: {error.strerror}; is its disk full?") from error
        self._pictures.clear()


def _palette_graph(width: int, height: int) -> Graph:
    """split -> palettegen -> paletteuse, as FFmpeg's own guide to good GIFs has it."""
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


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return
        if isinstance(frame, av.VideoFrame):
            yield frame

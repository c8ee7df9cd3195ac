"""Pictures with times -> an H.264 film that every player takes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt

from streamclf.errors import SourceError, UsageError

U8 = npt.NDArray[np.uint8]
_TIME_BASE = Fraction(1, 1000)


class FilmWriter:
    """Writes `path` (.mp4, .mkv or .mov); its size is that of the first picture, others are fitted into it."""

    def __init__(self, path: Path, *, fps: float = 25.0) -> None:
        if path.suffix not in (".mp4", ".mkv", ".mov"):
            raise UsageError(f"{path}: ends in {path.suffix or 'nothing'}; give a name that ends in .mp4")
        self._path, self._fps = path, fps
        try:
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

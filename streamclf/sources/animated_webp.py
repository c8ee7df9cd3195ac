"""Read an animated WebP image as a video, with Pillow."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from engines.arrays import U8
from streamclf.errors import SourceError
from streamclf.sources.file import check_file
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.image_file import ImageError, open_image, read_file
from streamclf.sources.orientation import UPRIGHT, Orientation
from streamclf.sources.pacing import RealtimePacer
from streamclf.sources.resize import render_bgr

MIN_DURATION_MS: Final = 11
USUAL_DURATION_MS: Final = 100
"""Browsers show a frame of 10 ms or less for 100 ms, because old programs wrote 0 for the usual duration."""
EXIF_ORIENTATION: Final = 0x0112
_ORIENTATIONS: Final = {
    2: Orientation(transposed=False, flip_x=True, flip_y=False),
    3: Orientation(transposed=False, flip_x=True, flip_y=True),
    4: Orientation(transposed=False, flip_x=False, flip_y=True),
    5: Orientation(transposed=True, flip_x=False, flip_y=False),
    6: Orientation(transposed=True, flip_x=True, flip_y=False),
    7: Orientation(transposed=True, flip_x=True, flip_y=True),
    8: Orientation(transposed=True, flip_x=False, flip_y=True),
}
"""By the value of the EXIF tag."""


class AnimatedWebpSource(Source):
    """The frames of the animated WebP image `path`; media time begins at 0.

    `realtime`: return each frame at its time, as a camera would. `loop`: at the end begin again, with a
    `discontinuity`.
    """

    live = False

    def __init__(
        self, path: Path, *, realtime: bool = False, loop: bool = False, stop: threading.Event | None = None
    ) -> None:
        self._path = path
        self._loop = loop
        self._stop = stop or threading.Event()
        self._pacer = RealtimePacer(self._stop) if realtime else None
        self._index = 0
        self._image = self._open()
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Size of the image. Each frame has its own duration, so there is no rate."""
        return SourceInfo(codec="webp", width=self._image.width, height=self._image.height, fps=None)

    def close(self) -> None:
        """Free the image."""
        self._image.close()

    def _open(self) -> Image.Image:
        check_file(self._path)
        try:
            return open_image(io.BytesIO(read_file(self._path)), ("WEBP",))
        except ImageError as error:
            raise SourceError(f"{self._path}: {error}") from None

    def _read(self) -> Iterator[Frame]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._image.close()
            self._image = self._open()
            yield from self._run(first_run=False)

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        pts_ms = 0
        for number, (pixels, duration_ms) in enumerate(self._decoded()):
            if self._pacer is not None:
                self._pacer.wait(pts_ms * 1_000_000, duration_ms * 1_000_000, restart=number == 0)
            if self._stop.is_set():
                return
            yield self._frame(pixels, pts_ms * 1_000_000, discontinuity=number == 0 and not first_run)
            pts_ms += duration_ms
        if not pts_ms:
            raise SourceError(f"{self._path}: no frame could be decoded; the image is damaged or cut off")

    def _decoded(self) -> Iterator[tuple[U8, int]]:
        """Yield the pixels, (h, w, 3) uint8 BGR, and the duration of each frame, in milliseconds."""
        orientation = _ORIENTATIONS.get(self._image.getexif().get(EXIF_ORIENTATION, 1), UPRIGHT)
        for number in range(getattr(self._image, "n_frames", 1)):
            try:
                self._image.seek(number)
                rgb = np.asarray(self._image.convert("RGB"), np.uint8)
            except (OSError, EOFError, ValueError, SyntaxError):  # the rest is missing
                self.undecodable += 1
                return
            duration_ms = round(self._image.info.get("duration", 0))
            if duration_ms < MIN_DURATION_MS:
                duration_ms = USUAL_DURATION_MS
            yield np.ascontiguousarray(orientation.apply(rgb)[..., ::-1]), duration_ms

    def _frame(self, pixels: U8, pts_ns: int, *, discontinuity: bool) -> Frame:
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=pixels.shape[1],
            height=pixels.shape[0],
            discontinuity=discontinuity,
            image=pixels,
            render=render_bgr,
        )

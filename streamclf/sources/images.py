"""Read a folder of images as a video: in natural order of their names, at the rate of the configuration."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from engines.arrays import U8
from streamclf.errors import SourceError
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.pacing import RealtimePacer
from streamclf.sources.resize import render_bgr
from streamclf.units import NS

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_IMAGES = 1_000_000
MAX_IMAGE_BYTES = 256 << 20


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts `frame9` before `frame10`: digits count as numbers."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def list_images(folder: Path) -> list[Path]:
    """List the images in `folder` (not below it) in natural order. Raises `SourceError` if there are none."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}; give the path of a folder of images") from None
    if not names:
        raise SourceError(f"{folder}: no images in it; known suffixes are {', '.join(sorted(SUFFIXES))}")
    if len(names) > MAX_IMAGES:
        raise SourceError(f"{folder}: {len(names)} images; at most {MAX_IMAGES}: divide them into several folders")
    return [folder / name for name in sorted(names, key=lambda name: (natural_key(name), name))]


class ImageFolderSource(Source):
    """The images in `folder` as frames, `fps` of them per second of media time, which begins at 0.

    An image that cannot be read is dropped and counted (`undecodable`), and leaves a gap. `loop`: at the end, list the
    folder again and begin again, with a `discontinuity`.
    """

    live = False

    def __init__(
        self,
        folder: Path,
        *,
        fps: float,
        realtime: bool = False,
        loop: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self._folder = folder
        self._fps = fps
        self._loop = loop
        self._stop = stop or threading.Event()
        self._pacer = RealtimePacer(self._stop) if realtime else None
        self._index = 0
        self._info = SourceInfo(codec="images", width=0, height=0, fps=fps)
        self._images = list_images(folder)
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Size of the latest image, and the configured rate."""
        return self._info

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _read(self) -> Iterator[Frame]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._images = list_images(self._folder)
            yield from self._run(first_run=False)

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        is_first = True
        for number, path in enumerate(self._images):
            pts_ns = round(number * NS / self._fps)
            if self._pacer is not None:
                self._pacer.wait(pts_ns, round(NS / self._fps), restart=number == 0)
            if self._stop.is_set():
                return
            image = _read_image(path)
            if image is None:
                self.undecodable += 1
                continue
            yield self._frame(image, pts_ns, discontinuity=is_first and not first_run)
            is_first = False
        if is_first:
            raise SourceError(
                f"{self._folder}: none of its {len(self._images)} images can be read; check {self._images[0].name}"
            )

    def _frame(self, image: U8, pts_ns: int, *, discontinuity: bool) -> Frame:
        height, width = image.shape[:2]
        self._info = SourceInfo(codec="images", width=width, height=height, fps=self._fps)
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=width,
            height=height,
            discontinuity=discontinuity,
            image=image,
            render=render_bgr,
        )


def _read_image(path: Path) -> U8 | None:
    """Return (h, w, 3) uint8 BGR, rotated as its EXIF data says; None if the file is not an image."""
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            return None
        # Not imread: it cannot open every name on every system, and prints warnings about damaged files.
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None
    return None if image is None else np.asarray(image, np.uint8)

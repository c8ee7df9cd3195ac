"""A folder of pictures as a film: in natural order of their names, at a rate that the configuration gives."""

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
from streamclf.sources.file import RealtimePacer
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.resize import render_bgr

NS = 1_000_000_000
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_IMAGES = 1_000_000
MAX_IMAGE_BYTES = 256 << 20


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `frame9` before `frame10`: digits count as numbers."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def list_images(folder: Path) -> list[Path]:
    """The pictures in `folder` (not below it) in natural order. Raises `SourceError` if there are none."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}; give the path of a folder of pictures") from None
    if not names:
        raise SourceError(f"{folder}: no pictures in it; known are {', '.join(sorted(SUFFIXES))}")
    if len(names) > MAX_IMAGES:
        raise SourceError(f"{folder}: {len(names)} pictures; at most {MAX_IMAGES}: make several folders of it")
    return [folder / name for name in sorted(names, key=lambda name: (natural_key(name), name))]


class ImageFolderSource(Source):
    """Frames of the pictures in `folder`, `fps` of them a second of media time, which begins at 0.

    A picture that cannot be read is left out and counted (`undecodable`); its time passes. `loop`: at the end begin
    again with what is in the folder then, with a `discontinuity`.
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
        self._pace = RealtimePacer(self._stop) if realtime else None
        self._index = 0
        self._info = SourceInfo(codec="images", width=0, height=0, fps=fps)
        self._images = list_images(folder)
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Size of the latest picture, and the rate that was asked for."""
        return self._info

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self) -> Iterator[Frame]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._images = list_images(self._folder)
            yield from self._run(first_run=False)

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        is_first = True
        for number, path in enumerate(self._images):
            pts_ns = round(number * NS / self._fps)
            if self._pace is not None:
                self._pace.wait(pts_ns, round(NS / self._fps), restart=number == 0)
            if self._stop.is_set():
                return
            picture = _picture(path)
            if picture is None:
                self.undecodable += 1
                continue
            yield self._frame(picture, pts_ns, discontinuity=is_first and not first_run)
            is_first = False
        if is_first:
            raise SourceError(
                f"{self._folder}: none of its {len(self._images)} pictures can be read; look at {self._images[0].name}"
            )

    def _frame(self, picture: U8, pts_ns: int, *, discontinuity: bool) -> Frame:
        height, width = picture.shape[:2]
        self._info = SourceInfo(codec="images", width=width, height=height, fps=self._fps)
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=width,
            height=height,
            discontinuity=discontinuity,
            image=picture,
            render=render_bgr,
        )


def _picture(path: Path) -> U8 | None:
    """(h, w, 3) uint8 BGR, turned as its camera says; None for what is not a picture."""
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            return None
        # Not imread: it cannot open every name on every system, and prints what it thinks of damaged files.
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None
    return None if picture is None else np.asarray(picture, np.uint8)

"""Read a folder of images as a video: in natural order of their names, at the rate of the configuration."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engines.arrays import U8
from engines.printable import path_text
from streamclf.errors import SourceError
from streamclf.sources.film_clock import FIRST_REPEAT_NS, LONG_PICTURE_NS, MAX_PICTURE_NS
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.image_file import ImageError, read_image
from streamclf.sources.pacing import RealtimePacer
from streamclf.sources.resize import render_bgr
from streamclf.units import NS

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_IMAGES = 1_000_000


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Return a sort key: digits count as numbers (`frame9` before `frame10`), and the suffix is compared last.

    So `shot.jpg` comes before `shot-1.jpg` and `shot (1).jpg`.
    """
    return tuple(
        tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", text))
        for text in os.path.splitext(name.casefold())  # noqa: PTH122 - `name` may be a path
    )


def list_images(folder: Path) -> list[Path]:
    """List the images in `folder` (not below it) in natural order. Raises `SourceError` if there are none.

    Hidden files are not images: macOS writes a file `._x.jpg` with attributes beside an image `x.jpg`.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _is_image(entry)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{path_text(folder)}: {reason}; give the path of a folder of images") from None
    if not names:
        raise SourceError(f"{path_text(folder)}: no images in it; known suffixes are {', '.join(sorted(SUFFIXES))}")
    if len(names) > MAX_IMAGES:
        raise SourceError(
            f"{path_text(folder)}: {len(names)} images; at most {MAX_IMAGES}: divide them into several folders"
        )
    return [folder / name for name in sorted(names, key=lambda name: (natural_key(name), name))]


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether the name of `entry` is that of an image, and `entry` a file, or a link that leads nowhere.

    Such a link has a place in time, and is then counted as an image that cannot be read.
    """
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
    except OSError:  # a link that leads to itself
        return True


class ImageFolderSource(Source):
    """The images in `folder` as frames, `fps` of them per second of media time, which begins at 0.

    An image that cannot be read is dropped and counted (`undecodable`), and leaves a gap; the note of `info` names the
    latest one and the reason. `loop`: at the end, list the folder again and begin again, with a `discontinuity`.
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
        self._size = (0, 0)
        self._note: str | None = None
        self._images = list_images(folder)
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Size of the latest image, and the configured rate."""
        return SourceInfo(codec="images", width=self._size[0], height=self._size[1], fps=self._fps, note=self._note)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _read(self) -> Iterator[Frame]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._images = list_images(self._folder)
            yield from self._run(first_run=False)

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        is_first, read = True, -1
        for number, path in enumerate(self._images):
            pts_ns = round(number * NS / self._fps)
            if self._pacer is not None:
                self._pacer.wait(pts_ns, round(NS / self._fps), restart=number == 0)
            if self._stop.is_set():
                return
            try:
                image = read_image(path)
            except ImageError as error:
                self.undecodable += 1
                self._note = f"image {path_text(path.name)} is left out: {error}"
                continue
            discontinuity = is_first and not first_run
            frame = self._frame(image, pts_ns, discontinuity=discontinuity, continues=number > 0 and read == number - 1)
            yield frame
            yield from self._repeated(frame, round((number + 1) * NS / self._fps))
            is_first, read = False, number
        if is_first:
            raise SourceError(
                f"{path_text(self._folder)}: none of its {len(self._images)} images can be read; check "
                f"{path_text(self._images[0].name)}"
            )

    def _repeated(self, frame: Frame, end_ns: int) -> Iterator[Frame]:
        """Repeat an image that lasts long until the next one, as a film does."""
        if not LONG_PICTURE_NS < end_ns - frame.pts_ns <= MAX_PICTURE_NS:
            return
        for at_ns in range(frame.pts_ns + FIRST_REPEAT_NS, end_ns - FIRST_REPEAT_NS // 2, FIRST_REPEAT_NS):
            if self._pacer is not None:
                self._pacer.wait(at_ns, FIRST_REPEAT_NS, restart=False)
            if self._stop.is_set():
                return
            yield replace(self._frame(frame.image, at_ns, discontinuity=False, continues=True), repeated=True)

    def _frame(self, image: U8, pts_ns: int, *, discontinuity: bool, continues: bool) -> Frame:
        height, width = image.shape[:2]
        self._size = (width, height)
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=width,
            height=height,
            discontinuity=discontinuity,
            continues=continues,
            image=image,
            render=render_bgr,
        )

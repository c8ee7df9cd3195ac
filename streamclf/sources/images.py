"""Read a folder of images as a video: in natural order of their names, at the rate of the configuration."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engines.printable import path_text
from streamclf.errors import SourceError
from streamclf.sources.decoding import EXACT, IMAGES, Decoding, WantedDecoding
from streamclf.sources.film_clock import FIRST_REPEAT_NS, LONG_PICTURE_NS, MAX_PICTURE_NS
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.frame_skipping import FrameSelector
from streamclf.sources.image_file import DecodedImage, ImageError, check_header, decode_reduced, read_file
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
        self._selector: FrameSelector | None = None
        self._wanted, self._wanted_size = EXACT, (0, 0)
        self._decoding: Decoding = "exact"
        self._images = list_images(folder)
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Size of the latest image, and the configured rate."""
        width, height = self._size
        return SourceInfo(
            codec=IMAGES, width=width, height=height, fps=self._fps, note=self._note, decoding=self._decoding
        )

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """See `Source`."""
        self._selector = selector

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says from the next image on; its factor holds for an image of the latest one's size."""
        self._wanted, self._wanted_size = wanted, self._size

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _read(self) -> Iterator[Frame]:
        yield from self._run(first_run=True)
        while self._loop and not self._stop.is_set():
            self._images = list_images(self._folder)
            yield from self._run(first_run=False)

    def _run(self, *, first_run: bool) -> Iterator[Frame]:
        is_first, read, last_ns = True, -1, 0
        for number, path in enumerate(self._images):
            pts_ns = round(number * NS / self._fps)
            if self._pacer is not None:
                self._pacer.wait(pts_ns, round(NS / self._fps), restart=number == 0)
            if self._stop.is_set():
                return
            end_ns = round((number + 1) * NS / self._fps)
            try:
                image = self._image(read_file(path), is_needed=is_first or self._needs(last_ns, pts_ns, end_ns))
            except ImageError as error:
                self.undecodable += 1
                self._note = f"image {path_text(path.name)} is left out: {error}"
                continue
            discontinuity = is_first and not first_run
            frame = self._frame(image, pts_ns, discontinuity=discontinuity, continues=number > 0 and read == number - 1)
            yield frame
            yield from self._repeated(image, pts_ns, end_ns)
            last_ns = pts_ns
            is_first, read = False, number
        if is_first:
            raise SourceError(
                f"{path_text(self._folder)}: none of its {len(self._images)} images can be read; check "
                f"{path_text(self._images[0].name)}"
            )

    def _needs(self, before_ns: int, at_ns: int, after_ns: int) -> bool:
        """Return whether a consumer may need the image at `at_ns`, which is the next after the one at `before_ns`."""
        if self._selector is None or after_ns - at_ns > LONG_PICTURE_NS:
            return True
        return self._selector.may_need(before_ns, at_ns, after_ns, at_ns - before_ns)

    def _image(self, data: bytes, *, is_needed: bool) -> DecodedImage | tuple[int, int]:
        """Decode an image; if it is not needed, only check its header for its size. Raises `ImageError`."""
        _, size = check_header(data)
        if not is_needed:
            return size
        if self._wanted.decoding == "exact" or not all(self._wanted_size):
            return decode_reduced(data, 1.0)
        # The factor was computed for an image of another size.
        ratio = min(now / then for now, then in zip(size, self._wanted_size, strict=True))
        return decode_reduced(data, self._wanted.shrink * ratio)

    def _repeated(self, image: DecodedImage | tuple[int, int], pts_ns: int, end_ns: int) -> Iterator[Frame]:
        """Repeat an image that lasts long until the next one, as a film does."""
        if not LONG_PICTURE_NS < end_ns - pts_ns <= MAX_PICTURE_NS:
            return
        for at_ns in range(pts_ns + FIRST_REPEAT_NS, end_ns - FIRST_REPEAT_NS // 2, FIRST_REPEAT_NS):
            if self._pacer is not None:
                self._pacer.wait(at_ns, FIRST_REPEAT_NS, restart=False)
            if self._stop.is_set():
                return
            yield replace(self._frame(image, at_ns, discontinuity=False, continues=True), repeated=True)

    def _frame(
        self, image: DecodedImage | tuple[int, int], pts_ns: int, *, discontinuity: bool, continues: bool
    ) -> Frame:
        """Return the next frame: an image, or only the size of one that was not decoded."""
        pixels = None
        if isinstance(image, DecodedImage):
            pixels, self._size = image.pixels, (image.width, image.height)
            self._decoding = "fast" if image.is_reduced else "exact"
        else:
            self._size = image
        self._index += 1
        return Frame(
            index=self._index - 1,
            pts_ns=pts_ns,
            captured_ns=time.monotonic_ns(),
            width=self._size[0],
            height=self._size[1],
            discontinuity=discontinuity,
            continues=continues,
            decoding=self._decoding,
            image=pixels,
            render=render_bgr,
        )

"""Read frames that a program has in memory: an array, or RGB images one after the other, with their times."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np

from engines.arrays import U8
from streamclf.errors import UsageError
from streamclf.net.push_protocol import MAX_FRAME_BYTES, MAX_SIDE
from streamclf.sources.film_clock import FIRST_REPEAT_NS, LONG_PICTURE_NS, MAX_PICTURE_NS
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.resize import render_rgb
from streamclf.units import NS

MIN_FPS: Final = 0.001
MAX_FPS: Final = 1000.0
MAX_TIME_S: Final = 1e10
"""Far beyond Unix time, and small enough that a float still tells microseconds apart."""


class ArraySource(Source):
    """Frames of a program as a film: an image lasts until the next one, however long that is.

    `on_frame` is called with each frame before it is returned; None for no call.
    """

    live = False

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.on_frame: Callable[[Frame], None] | None = None

    def __next__(self) -> Frame:
        frame = next(self._frames)
        if self.on_frame is not None:
            self.on_frame(frame)
        return frame

    @property
    def info(self) -> SourceInfo:
        """Raw images, of any size."""
        return SourceInfo(codec="raw", width=0, height=0, fps=None)

    def close(self) -> None:
        """Do nothing: the images belong to the program."""


def check_fps(fps: object) -> Fraction:
    """Return the exact rate. Raises `UsageError`."""
    number = _number(fps)
    if number is None or not MIN_FPS <= number <= MAX_FPS:
        raise UsageError(f"fps={fps!r:.40}: must be a number of frames per second, {MIN_FPS:g} to {MAX_FPS:g}")
    return Fraction(number).limit_denominator(1001 if number >= 1 else 1_000_000)


def check_time(time_s: object, where: str) -> int:
    """Return a media time in nanoseconds. Raises `UsageError`."""
    number = _number(time_s)
    if number is None or not abs(number) <= MAX_TIME_S:
        raise UsageError(f"{where}={time_s!r:.40}: must be seconds of media time, -{MAX_TIME_S:g} to {MAX_TIME_S:g}")
    return round(Fraction(number) * NS)


def check_one_clock(fps: object, pts_s: object) -> None:
    """Raise `UsageError` unless one of the two is given."""
    if fps is None and pts_s is None:
        raise UsageError("fps: missing; frames have no times of their own: give fps=25, or pts_s with the time of each")
    if fps is not None and pts_s is not None:
        raise UsageError("fps and pts_s: give one of them")


def iter_images(frames: Any) -> Iterator[U8]:
    """Iterate over frames, (H, W, 3) uint8 RGB. Raises `UsageError`, for an image of an iterable when it is reached.

    `frames`: an array (T, H, W, 3), one frame (H, W, 3), or an iterable of frames, of any sizes. Images of an iterable
    are copied, because a program may use one array for all of them.
    """
    if is_array(frames):
        return iter(split_array(frames))
    if not isinstance(frames, Iterable) or isinstance(frames, (str, bytes, bytearray, dict)):
        raise UsageError(
            f"source: {type(frames).__name__}; must be the path of a video file, an array (T, H, W, 3), or an iterable "
            "of frames"
        )
    return (np.array(check_image(image, f"frames[{number}]")) for number, image in enumerate(frames))


def is_array(value: object) -> bool:
    """Return whether `value` is an array, a tensor or an image of a library."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def split_array(frames: Any) -> list[U8]:
    """Return views of the frames in an array (T, H, W, 3), or (H, W, 3) for one. Raises `UsageError`."""
    array = _as_array(frames, "frames")
    if array.ndim != 4:
        return [check_image(array, "frames")]
    if not len(array):
        return []
    check_image(array[0], "frames", of=array)
    return list(array)


def check_image(image: Any, where: str, *, of: Any = None) -> U8:
    """Return `image` as an array, (H, W, 3) uint8 RGB. Raises `UsageError` with the remedy.

    `of`: the array of many frames that `image` is the first of.
    """
    if isinstance(image, (str, bytes, os.PathLike)):
        raise UsageError(f"{where}: a path or text, no image; classify one file at a time: classify(PATH)")
    array = _as_array(image, where)
    shown = array if of is None else of
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        expected = "(H, W, 3)" if of is None else "(T, H, W, 3)"
        raise UsageError(f"{where}: {shown.dtype} {shown.shape}; must be uint8 {expected}, RGB{_remedy(array)}")
    height, width = array.shape[:2]
    if max(height, width) > MAX_SIDE or array.size > MAX_FRAME_BYTES:
        raise UsageError(
            f"{where}: {width}x{height}; at most {MAX_SIDE} a side and {MAX_FRAME_BYTES >> 20} MB; make it smaller"
        )
    checked: U8 = array
    return checked


def rate_frames(images: Iterable[U8], rate: Fraction, *, start_ns: int = 0, first: int = 0) -> Iterator[Frame]:
    """Yield frames at `rate` per second; frame number `first` comes `first` / `rate` after `start_ns`."""
    for number, image in enumerate(images, first):
        frame = _frame(image, start_ns + round(number * NS / rate), continues=number > 0 or start_ns > 0)
        yield frame
        yield from _repeated(frame, start_ns + round((number + 1) * NS / rate))


def film_frames(images: Iterable[U8], times: Iterable[object]) -> Iterator[Frame]:
    """Yield frames at times in seconds, which must increase. Raises `UsageError`, also for other numbers of times."""
    last: Frame | None = None
    stamps = iter(times)
    for number, image in enumerate(images):
        where = f"pts_s[{number}]"
        try:
            pts_ns = check_time(next(stamps), where)
        except StopIteration:
            raise UsageError(f"pts_s: {number} times for more frames; give one for each frame") from None
        if last is not None:
            if not 0 < pts_ns - last.pts_ns <= MAX_PICTURE_NS:
                raise UsageError(
                    f"{where}={pts_ns / NS:g} after {last.pts_ns / NS:g}: times must increase, by at most "
                    f"{MAX_PICTURE_NS // NS} s; for a source that begins again, push the frames to a stream"
                )
            yield from _repeated(last, pts_ns)
        last = _frame(image, pts_ns, continues=last is not None)
        yield last
    if next(stamps, None) is not None:
        raise UsageError("pts_s: more times than frames; give one for each frame")


def live_frames(images: Iterable[U8], times_ns: Iterable[int]) -> Iterator[Frame]:
    """Yield frames of a live source: a long interval is a gap."""
    for image, pts_ns in zip(images, times_ns, strict=True):
        yield _frame(image, pts_ns, continues=False)


def _repeated(frame: Frame, end_ns: int) -> Iterator[Frame]:
    """Repeat an image that lasts long. It is neither resized nor encoded again."""
    if end_ns - frame.pts_ns > LONG_PICTURE_NS:
        for at_ns in range(frame.pts_ns + FIRST_REPEAT_NS, end_ns - FIRST_REPEAT_NS // 2, FIRST_REPEAT_NS):
            yield replace(frame, pts_ns=at_ns, continues=True, repeated=True)


def _frame(image: U8, pts_ns: int, *, continues: bool) -> Frame:
    return Frame(
        index=0,
        pts_ns=pts_ns,
        captured_ns=time.monotonic_ns(),
        width=image.shape[1],
        height=image.shape[0],
        continues=continues,
        image=image,
        render=render_rgb,
    )


def _as_array(value: Any, where: str) -> Any:
    try:
        return np.asarray(value)
    except Exception as error:  # noqa: BLE001 - a library's tensor may raise anything, such as one on a GPU
        raise UsageError(f"{where}: {type(value).__name__} is no array in memory ({error})") from None


def _number(value: object) -> float | None:
    """Return a finite number as a float; None for anything else."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _remedy(array: Any) -> str:
    """Return how to convert an array that is no RGB image; empty if that is not known."""
    if array.ndim == 3 and array.size and array.shape[2] != 3 and array.shape[0] in (1, 3):
        return "; its channels come first: use numpy.moveaxis(frame, 0, -1)"
    if array.ndim == 3 and array.shape[2] == 4:
        return "; leave out the fourth channel: frame[..., :3]"
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return "; for a grey image repeat the channel: numpy.stack([grey] * 3, axis=-1)"
    if array.dtype.kind == "f":
        return "; for values from 0 to 1 use (255 * frame).round().astype(numpy.uint8)"
    return ""

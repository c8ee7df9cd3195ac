"""Show images in one window of the desktop, through OpenCV."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import cv2
import numpy as np

from engines.arrays import U8
from streamclf.errors import UsageError
from streamclf.render.grid import tile_images, tile_into
from streamclf.render.text import draw_text, text_width

MAX_WINDOW_WIDTH: Final = 1600
MAX_WINDOW_HEIGHT: Final = 900
"""A window opens with at most this size in pixels; the user may enlarge it."""
_QUIT_KEYS: Final = (27, ord("q"))
_PROBE: Final = "import cv2; cv2.namedWindow('streamclf'); cv2.destroyAllWindows()"
_PROBE_S: Final = 20.0
_EMPTY_SIZE: Final = (360, 640)
_GREY: Final = (180, 180, 180)

T = TypeVar("T")


class PreviewWindow:
    """A window that the user can resize: the images are then arranged again to fill it.

    Raises `UsageError` with `remedy` if there is no screen.
    """

    def __init__(self, title: str, *, remedy: str) -> None:
        self._title, self._remedy = title, remedy
        self._require_screen()
        self._shown: tuple[list[U8], int, int] | None = None
        self._call(lambda: cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL))
        self._own_size = (0, 0)
        """(width, height) of the window as this program has set it last."""
        self._count = -1

    def show(self, images: Sequence[U8], empty: str) -> bool:
        """Show (H, W, 3) uint8 BGR images, or the text `empty` if there is none; return False when the user ends it."""
        _, _, width, height = self._call(lambda: cv2.getWindowImageRect(self._title))
        if len(images) != self._count and (self._count <= 0 or (width, height) == self._own_size):
            self._resize_for(images)
            self._count = len(images)
        if width > 0 and height > 0 and self._is_new(images, height, width):
            wall = tile_into(images, height, width) if images else _message(empty, height, width)
            self._call(lambda: cv2.imshow(self._title, wall))
        key = self._call(lambda: cv2.waitKey(1)) & 0xFF
        is_closed = self._call(lambda: cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE)) < 1
        return key not in _QUIT_KEYS and not is_closed

    def close(self) -> None:
        """Close the window."""
        self._call(cv2.destroyAllWindows)

    def _is_new(self, images: Sequence[U8], height: int, width: int) -> bool:
        """Return whether the window shows something else. The same image object has the same pixels."""
        known, self._shown = self._shown, (list(images), height, width)
        return (
            known is None
            or known[1:] != (height, width)
            or len(known[0]) != len(images)
            or any(old is not new for old, new in zip(known[0], images, strict=True))
        )

    def _resize_for(self, images: Sequence[U8]) -> None:
        """Give the window the size that the images need, as far as a usual screen has it."""
        height, width = tile_images(images).shape[:2] if images else _EMPTY_SIZE
        scale = min(1.0, MAX_WINDOW_WIDTH / width, MAX_WINDOW_HEIGHT / height)
        self._own_size = (round(width * scale), round(height * scale))
        self._call(lambda: cv2.resizeWindow(self._title, *self._own_size))

    def _require_screen(self) -> None:
        """Open a window in another process first: without a screen, Qt would end this one without an exception."""
        if sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
            raise self._no_screen("DISPLAY is not set")
        try:
            done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_S)
        except subprocess.TimeoutExpired:
            raise self._no_screen(f"no answer within {_PROBE_S:.0f} s") from None
        if done.returncode:
            raise self._no_screen(_fault(done.stderr))

    def _no_screen(self, reason: str) -> UsageError:
        return UsageError(f"no screen to open a window on ({reason}); {self._remedy}")

    def _call(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except cv2.error as error:
            raise self._no_screen(f"OpenCV: {error.code}") from error


def _message(text: str, height: int, width: int) -> U8:
    canvas = np.full((height, width, 3), 20, np.uint8)
    size = 16
    left = max(8, (width - text_width(text, size, bold=False)) // 2)
    draw_text(canvas, text, (left, height // 2), size, _GREY, bold=False)
    return canvas


def _fault(stderr: str) -> str:
    """Return the line of the error that says most: the display that cannot be reached, or a missing library."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("not implemented" in line for line in lines):
        return "opencv-python-headless is installed, which has no windows"
    found = [line for line in lines if "display" in line or "Error" in line]
    return (found or lines or ["the process that tried it was killed"])[0][:200]

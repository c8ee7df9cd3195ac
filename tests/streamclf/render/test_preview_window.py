"""The window asks OpenCV for its size, fills it, and ends with a key or when the user closes it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from engines.arrays import U8
from streamclf.errors import UsageError
from streamclf.render.preview_window import PreviewWindow


class Desktop:
    """Stands for OpenCV's windows: keeps the size and the image of the one window."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = (0, 0)
        self.shown: list[U8] = []
        self.key = -1
        self.visible = 1.0
        monkeypatch.setattr(PreviewWindow, "_require_screen", lambda _: None)
        monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
        monkeypatch.setattr(cv2, "resizeWindow", self.resize)
        monkeypatch.setattr(cv2, "getWindowImageRect", lambda title: (0, 0, *self.size))
        monkeypatch.setattr(cv2, "imshow", lambda title, image: self.shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", lambda ms: self.key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda title, kind: self.visible)

    def resize(self, title: str, width: int, height: int) -> None:
        self.size = (width, height)


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> Desktop:
    return Desktop(monkeypatch)


def images(count: int) -> list[U8]:
    return [np.full((360, 640, 3), 100 + number, np.uint8) for number in range(count)]


def test_the_window_grows_with_the_streams_until_the_user_resizes_it(desktop: Desktop) -> None:
    window = PreviewWindow("t", remedy="r")
    window.show([], "waiting")
    window.show([], "waiting")
    assert desktop.size == (640, 360)
    assert desktop.shown[-1].max() > 100, "a text says that there is no picture yet"
    for count, size in ((1, (640, 360)), (3, (1280, 720)), (9, (1600, 900))):
        window.show(images(count), "")
        window.show(images(count), "")
        assert desktop.size == size
        assert desktop.shown[-1].shape == (size[1], size[0], 3)
    desktop.size = (500, 1000)
    window.show(images(10), "")
    assert desktop.size == (500, 1000)
    assert desktop.shown[-1].shape == (1000, 500, 3)
    assert set(range(100, 110)) <= set(np.unique(desktop.shown[-1]))


def test_the_same_images_are_drawn_once(desktop: Desktop) -> None:
    window, same = PreviewWindow("t", remedy="r"), images(2)
    for _ in range(5):
        window.show(list(same), "")
    assert len(desktop.shown) <= 2
    desktop.size = (800, 200)
    window.show(list(same), "")
    assert desktop.shown[-1].shape == (200, 800, 3)


@pytest.mark.parametrize("change", [{"key": ord("q")}, {"key": 27}, {"visible": 0.0}])
def test_a_key_or_the_closed_window_ends_it(desktop: Desktop, change: dict[str, Any]) -> None:
    window = PreviewWindow("t", remedy="r")
    assert window.show(images(1), "")
    vars(desktop).update(change)
    assert not window.show(images(1), "")


def test_an_error_of_opencv_is_one_line_with_the_remedy(desktop: Desktop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(title: str, flags: int) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", fail)
    with pytest.raises(UsageError, match=r"no screen to open a window on .*; use the page"):
        PreviewWindow("t", remedy="use the page")

"""Images of a folder are decoded at the size that their views need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.clips import write_clip

from streamclf.capture.decode_choice import DecodeChoice
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.config.stream import StreamConfig
from streamclf.sources import open_source
from streamclf.sources.images import ImageFolderSource
from streamclf.units import NS

MASK = PictureArea(mask=(((0.0, 0.0), (0.2, 0.0), (0.2, 0.2)),))
REGION = PictureArea(region=(0.0, 0.0, 1.0, 0.5))


def view(width: int, height: int, area: PictureArea = WHOLE) -> Any:
    return SimpleNamespace(job=SimpleNamespace(width=width, height=height, resize="stretch", area=area))


@pytest.mark.parametrize(
    ("mode", "views", "watched", "width"),
    [
        ("auto", [view(80, 60)], False, 80),
        ("auto", [view(90, 60)], False, 160),
        ("auto", [view(80, 60), view(160, 120)], False, 160),
        ("auto", [view(400, 60)], False, 640),  # more than half as wide
        ("auto", [view(80, 60)], True, 640),
        ("auto", [view(80, 60, MASK)], False, 640),
        ("auto", [view(80, 60), view(20, 20, REGION)], False, 640),
        ("fast", [view(80, 60)], False, 80),
        ("fast", [view(80, 60)], True, 640),
        ("exact", [view(80, 60)], False, 640),
    ],
)
def test_images_are_reduced_to_no_less_than_the_largest_view(
    tmp_path: Path, mode: DecodeMode, views: list[Any], watched: bool, width: int
) -> None:
    for name in ("1.jpg", "2.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((480, 640, 3), np.uint8))
    choice = DecodeChoice(mode, "cam", WHOLE, views, lambda: watched)
    with ImageFolderSource(tmp_path, fps=10) as source:
        choice.connect(source)
        first = next(source)
        assert first.image.shape == (480, 640, 3), "the views' share of it is not known yet"
        choice.update(first, source)
        second = next(source)
        assert second.image.shape[1] == width
        assert (second.width, second.height) == (640, 480)
        assert source.info.decoding == ("fast" if width < 640 else "exact")


@pytest.mark.parametrize(
    ("views", "watched", "width"),
    [
        ([view(160, 120)], False, 160),
        ([view(170, 120)], False, 640),
        ([view(80, 60)], True, 640),
        ([view(80, 60, MASK)], False, 640),
    ],
)
def test_motion_jpeg_is_reduced_and_stays_so(tmp_path: Path, views: list[Any], watched: bool, width: int) -> None:
    """The next choice counts the size of the camera's picture, not that of the reduced one."""
    path = write_clip(tmp_path / "film.mkv", frames=12, codec="mjpeg", width=640, height=480)
    choice = DecodeChoice("auto", "cam", WHOLE, views, lambda: watched)
    widths = []
    with open_source(StreamConfig(url=str(path), pace="fast")) as source:
        choice.connect(source)
        for number, frame in enumerate(source):
            choice.update(replace(frame, captured_ns=number * NS), source)
            assert (frame.width, frame.height, frame.size_of(WHOLE)) == (640, 480, (480, 640))
            widths.append(frame.image.frame.width)
    assert widths[0] == 640
    assert set(widths[-2:]) == {width}
    assert sorted(widths, reverse=True) == widths

"""Heat lies on the frame where the model's picture shows it, for every way of resizing."""

from __future__ import annotations

import numpy as np
import pytest

from streamclf.render.heat import draw_heat, heat_in_region, heat_on_frame
from streamclf.sources.resize import Resize, render_bgr, visible_boxes


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("frame", [(360, 640), (640, 360), (200, 200), (97, 301)])
def test_heat_returns_to_the_place_that_the_picture_shows(resize: Resize, frame: tuple[int, int]) -> None:
    """A bright square in the frame is rendered for the model; the picture itself serves as the heat."""
    picture = (96, 128)
    image = np.zeros((*frame, 3), np.uint8)
    side = min(frame) // 5
    top, left = frame[0] // 2 - side, frame[1] // 2
    image[top : top + side, left : left + side] = 255
    rgb = np.empty((*picture, 3), np.uint8)
    render_bgr(image, *picture, resize, rgb)
    heat = rgb[..., 0].astype(np.float32) / 255
    for size in (frame, (frame[0] // 2, frame[1] // 2), (2 * frame[0], 2 * frame[1])):
        mapped = heat_on_frame(heat, picture, frame, resize, size)
        ys, xs = np.nonzero(mapped > 0.5)
        scale = size[0] / frame[0]
        found = [ys.min() / scale, (ys.max() + 1) / scale, xs.min() / scale, (xs.max() + 1) / scale]
        pixel = max(frame[0] / picture[0], frame[1] / picture[1], 1) + 1 / scale
        assert np.allclose(found, [top, top + side, left, left + side], atol=pixel)


def test_a_coarse_map_has_its_corner_in_the_corner() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    mapped = heat_on_frame(heat, (32, 32), (100, 200), "stretch", (100, 200))
    assert mapped[:10, 180:].min() > 0.9
    assert mapped[50:].max() == mapped[:, :100].max() == 0


def test_the_parts_that_the_model_does_not_see_have_no_heat() -> None:
    mapped = heat_on_frame(np.ones((8, 8), np.float32), (32, 32), (100, 300), "crop", (100, 300))
    assert mapped[:, 100:200].min() == 1
    assert mapped[:, :99].max() == mapped[:, 201:].max() == 0
    seen, placed = visible_boxes((100, 300), (32, 32), "letterbox")
    assert (seen.height, seen.width) == (pytest.approx(100), pytest.approx(300))
    assert (placed.top, placed.left, placed.width) == (10, 0, 32)


def test_no_heat_leaves_the_image_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    heat = np.zeros((20, 30), np.float32)
    assert (draw_heat(image, heat) == image).all()
    heat[:5, :5] = 1
    drawn = draw_heat(image, heat)
    assert (drawn[5:] == image[5:]).all()
    assert (drawn[:5, :5] != image[:5, :5]).any()


def test_heat_of_a_region_lies_in_the_region() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    mapped = heat_in_region(heat, (32, 32), (80, 160), "stretch", (100, 200), (0.5, 0.25, 1, 0.75))
    assert mapped[25:29, 188:].min() > 0.9
    assert mapped[:25].max() == mapped[75:].max() == mapped[:, :100].max() == 0
    assert (heat_in_region(heat, (32, 32), (80, 160), "stretch", (9, 9), (0, 0, 0.01, 1)) == 0).all()

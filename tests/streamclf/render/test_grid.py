"""A grid shows every image completely, and uses the area that it is given."""

from __future__ import annotations

import numpy as np
import pytest

from engines.arrays import U8
from streamclf.render.grid import best_columns, tile_images, tile_into


def image(height: int, width: int, grey: int = 128) -> U8:
    return np.full((height, width, 3), grey, np.uint8)


def test_images_of_different_sizes_share_a_grid() -> None:
    grid = tile_images([image(300, 400), image(600, 400), image(30, 40)])
    assert grid.shape == (600, 800, 3)
    assert tile_images([image(300, 400)]).shape == (300, 400, 3)
    assert max(tile_images([image(1080, 1920)] * 9).shape) <= 1920


@pytest.mark.parametrize(
    ("count", "area", "columns"),
    [(1, 1.8, 1), (2, 1.8, 2), (2, 0.5, 1), (4, 1.8, 2), (8, 1.8, 3), (8, 8.0, 8), (40, 1.8, 7)],
)
def test_the_columns_make_the_images_as_large_as_possible(count: int, area: float, columns: int) -> None:
    assert best_columns(count, 16 / 9, area) == columns


@pytest.mark.parametrize("count", [1, 3, 8, 40])
@pytest.mark.parametrize("size", [(900, 1600), (1000, 300), (3, 5), (777, 1333)])
def test_every_image_has_its_place_in_an_area(count: int, size: tuple[int, int]) -> None:
    wall = tile_into([image(90, 160, 100 + number) for number in range(count)], *size)
    assert wall.shape == (*size, 3)
    if min(size) > 200:
        assert set(range(100, 100 + count)) <= set(np.unique(wall))

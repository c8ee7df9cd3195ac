"""Arrange images of several streams side by side in one image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engines.arrays import U8
from streamclf.render.film_writer import fit

MAX_GRID_WIDTH = 1920
_BACKGROUND_GREY = 20


def tile_images(images: Sequence[U8]) -> U8:
    """Arrange (H, W, 3) uint8 BGR images in a grid that is about square and at most 1920 pixels wide.

    Each image is fitted into a cell of the first image's size. One image is returned as it is.
    """
    if len(images) == 1:
        return images[0]
    height, width = images[0].shape[:2]
    columns = math.ceil(math.sqrt(len(images)))
    scale = min(1.0, MAX_GRID_WIDTH / (columns * width))
    return _draw_grid(images, columns, max(1, round(height * scale)), max(1, round(width * scale)))


def tile_into(images: Sequence[U8], height: int, width: int) -> U8:
    """Arrange (H, W, 3) uint8 BGR images in an image of exactly this size, each one as large as possible."""
    columns = best_columns(len(images), images[0].shape[1] / images[0].shape[0], width / height)
    rows = math.ceil(len(images) / columns)
    grid = _draw_grid(images, columns, max(1, height // rows), max(1, width // columns))
    return fit(grid, height, width)


def best_columns(count: int, image_aspect: float, area_aspect: float) -> int:
    """Return the number of columns with which `count` images are largest in an area. An aspect is width / height."""

    def image_width(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(area_aspect / columns, image_aspect / rows)

    return max(range(1, count + 1), key=image_width)


def _draw_grid(images: Sequence[U8], columns: int, cell_h: int, cell_w: int) -> U8:
    rows = math.ceil(len(images) / columns)
    grid = np.full((rows * cell_h, columns * cell_w, 3), _BACKGROUND_GREY, np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * cell_h, index % columns * cell_w
        grid[y : y + cell_h, x : x + cell_w] = fit(image, cell_h, cell_w)
    return grid

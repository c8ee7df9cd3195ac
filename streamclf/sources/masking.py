"""Paint the masked parts of a scaled picture black.

Scaling mixes neighbouring pixels, and video stores colour for blocks of pixels. So the mask is widened by the pixels
that these two mix in: no content of a masked pixel remains in the result.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from streamclf.config.picture_shapes import Polygon
from streamclf.sources.picture_part import PicturePart, shown_point

MARGIN_DECODED: Final = 8
"""Pixels of the decoded picture around a masked one: a block of colour, and the next block where scaling enlarges."""
MARGIN_SCALED: Final = 1
"""The same of the scaled picture: swscale calculates one colour for each pair of pixels."""


def paint_mask(
    out: U8, mask: tuple[Polygon, ...], part: PicturePart, size: tuple[int, int], offset: tuple[int, int]
) -> None:
    """Paint black what `mask` covers in `out` (height, width, 3), into which `part` was scaled.

    `size` is the (height, width) of the whole scaled part, `offset` the row and column of `out` where it begins.
    """
    out[covered_pixels(mask, part, size, offset, (out.shape[0], out.shape[1]))] = 0


@lru_cache(maxsize=128)  # one for each region and engine of a stream, and 50 KB for 224 x 224
def covered_pixels(
    mask: tuple[Polygon, ...],
    part: PicturePart,
    size: tuple[int, int],
    offset: tuple[int, int],
    target: tuple[int, int],
) -> npt.NDArray[np.bool_]:
    """Return (height, width) booleans: the pixels of a scaled part that hold anything of what `mask` covers."""
    columns, rows = (part.rows, part.columns) if part.orientation.transposed else (part.columns, part.rows)
    margin_x = MARGIN_SCALED + MARGIN_DECODED * size[1] / columns
    margin_y = MARGIN_SCALED + MARGIN_DECODED * size[0] / rows
    covered = np.zeros(target, np.bool_)
    for polygon in mask:
        points = []
        for corner in polygon:
            x, y = shown_point(part, corner)
            points.append((x * size[1] + offset[1], y * size[0] + offset[0]))
        _add_polygon(covered, points, margin_x, margin_y)
    covered.flags.writeable = False
    return covered


def _add_polygon(
    covered: npt.NDArray[np.bool_], points: list[tuple[float, float]], margin_x: float, margin_y: float
) -> None:
    """Set each pixel that, widened by the margins, the polygon touches."""
    xs, ys = zip(*points, strict=True)
    columns = _range(min(xs) - margin_x, max(xs) + margin_x, covered.shape[1])
    rows = _range(min(ys) - margin_y, max(ys) + margin_y, covered.shape[0])
    x, y = np.arange(columns.start, columns.stop) + 0.5, np.arange(rows.start, rows.stop)[:, None] + 0.5
    half_x, half_y = 0.5 + margin_x, 0.5 + margin_y
    inside = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
    touched = np.zeros_like(inside)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        dx, dy = x1 - x0, y1 - y0
        if dy:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * dx / dy)
        # A segment meets a box if no axis separates them: x, y, and the normal of the segment.
        off_x, off_y = x - (x0 + x1) / 2, y - (y0 + y1) / 2
        near = (np.abs(off_x) <= half_x + abs(dx) / 2) & (np.abs(off_y) <= half_y + abs(dy) / 2)
        touched |= near & (np.abs(off_x * dy - off_y * dx) <= half_x * abs(dy) + half_y * abs(dx))
    covered[rows, columns] |= inside | touched


def _range(first: float, last: float, length: int) -> slice:
    start = min(max(0, math.floor(first)), length)
    return slice(start, max(start, min(length, math.ceil(last))))

"""Draw plates: filled rectangles with round corners, on which text can be read over any picture."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from streamclf.render.palette import Colour


def blend_plate(canvas: U8, box: tuple[int, int, int, int], colour: Colour, alpha: float) -> None:
    """Blend a filled rectangle (x, y, width, height) with round corners into the canvas."""
    x, y, width, height = box
    mask = _rounded_mask(width, height)
    left, top = max(0, x), max(0, y)
    right, bottom = min(canvas.shape[1], x + width), min(canvas.shape[0], y + height)
    if right <= left or bottom <= top:
        return
    weight = mask[top - y : bottom - y, left - x : right - x, None] * alpha
    area = canvas[top:bottom, left:right]
    area[:] = area * (1 - weight) + np.array(colour, np.float32) * weight + 0.5


@lru_cache(maxsize=256)
def _rounded_mask(width: int, height: int) -> npt.NDArray[np.float32]:
    """Return the coverage of a rounded rectangle, (height, width) float32 in [0, 1].

    It is drawn at four times the size and averaged, so that the corners are smooth.
    """
    over = 4
    radius = over * min(width, height) // (2 if height <= 20 else 4)
    mask = np.zeros((height * over, width * over), np.uint8)
    right, bottom = width * over - 1, height * over - 1
    cv2.rectangle(mask, (radius, 0), (right - radius, bottom), 255, -1)
    cv2.rectangle(mask, (0, radius), (right, bottom - radius), 255, -1)
    for x in (radius, right - radius):
        for y in (radius, bottom - radius):
            cv2.circle(mask, (x, y), radius, 255, -1)
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)

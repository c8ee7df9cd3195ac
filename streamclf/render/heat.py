"""Draw a heat map of a model's picture over the frame that the picture was made of."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from engines.arrays import F32, U8
from streamclf.sources.resize import Resize, visible_boxes

STRENGTH: Final = 0.7
"""The opacity of the hottest part."""


def heat_on_frame(
    heat: F32, picture: tuple[int, int], frame: tuple[int, int], resize: Resize, size: tuple[int, int]
) -> F32:
    """Map a heat map of the model's picture to a frame; sizes are (height, width).

    `picture`: the model's size. `frame`: the size of the frame that it was made of. `size`: that of the result, which
    shows the whole frame. The parts of the frame that the model does not see have no heat.
    """
    seen, placed = visible_boxes(frame, picture, resize)
    scale_y, scale_x = frame[0] / size[0], frame[1] / size[1]
    # A pixel of the result -> frame -> picture -> heat map; pixels have their centre at 0.5.
    y, from_y = _axis(scale_y, seen.top, seen.height, placed.top, placed.height, heat.shape[0] / picture[0])
    x, from_x = _axis(scale_x, seen.left, seen.width, placed.left, placed.width, heat.shape[1] / picture[1])
    matrix = np.array([[x, 0, from_x], [0, y, from_y]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(heat, matrix, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    mapped: F32 = np.zeros(size, np.float32)
    ys = slice(round(seen.top / scale_y), round((seen.top + seen.height) / scale_y))
    xs = slice(round(seen.left / scale_x), round((seen.left + seen.width) / scale_x))
    mapped[ys, xs] = warped[ys, xs]
    return mapped


def heat_in_region(
    heat: F32,
    picture: tuple[int, int],
    part: tuple[int, int],
    resize: Resize,
    size: tuple[int, int],
    region: tuple[float, float, float, float],
) -> F32:
    """Map a heat map of the model's picture to the region of a frame that it was made of; sizes are (height, width).

    `part`: the size of the region in the frame's pixels. `size`: that of the result, which shows the whole frame.
    `region`: (left, top, right, bottom) in shares of the frame. The rest of the frame has no heat.
    """
    left, right = (round(share * size[1]) for share in region[::2])
    top, bottom = (round(share * size[0]) for share in region[1::2])
    mapped: F32 = np.zeros(size, np.float32)
    if left < right and top < bottom:
        mapped[top:bottom, left:right] = heat_on_frame(heat, picture, part, resize, (bottom - top, right - left))
    return mapped


def _axis(
    scale: float, seen: float, seen_side: float, placed: float, placed_side: float, fine: float
) -> tuple[float, float]:
    """Return (factor, offset) that map a pixel's number in the result to one in the heat map, along one axis."""
    factor = scale * placed_side / seen_side * fine
    offset = ((0.5 * scale - seen) * placed_side / seen_side + placed) * fine - 0.5
    return factor, offset


def draw_heat(image: U8, heat: F32) -> U8:
    """Blend heat (h, w), 0 to 1, into a copy of `image` (h, w, 3) uint8 BGR: nothing where it is 0."""
    colours = np.asarray(cv2.applyColorMap((255 * heat.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO), np.float32)
    weight = STRENGTH * heat.clip(0, 1)[..., None]
    return np.asarray(image * (1 - weight) + colours * weight + 0.5, np.uint8)

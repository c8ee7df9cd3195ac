"""Detect motion between two chunks: small and local changes count, sensor noise does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import I16, U8

CELL = 4
"""Side of a cell in pixels: the mean of 16 pixels has a quarter of their noise."""
BLOCK = 4
"""Side of a block in cells."""


class MotionGate:
    """Compare chunks with the last chunk that was encoded, so that slow drift adds up until it counts.

    The measure is a difference in grey levels: the largest block mean over all frames, colours and blocks of 16 x 16
    pixels. A mean over the whole frame would miss a person far away. Pixels are averaged over 4 x 4 first, since noise
    hardly moves these means.
    """

    def __init__(self, threshold: float) -> None:
        """Count a chunk with less motion than `threshold`, in grey levels of 255, as unchanged."""
        self.threshold = threshold
        self._reference: I16 | None = None

    def is_unchanged(self, chunk: U8) -> bool:
        """Return whether (t, H, W, 3) uint8 equals the reference; if not, it becomes the reference."""
        cells = _cells(chunk)
        if self._reference is not None and _largest_block(np.abs(cells - self._reference)) < self.threshold:
            return True
        self._reference = cells
        return False


def motion_between(first: U8, second: U8) -> float:
    """Measure the motion between two chunks (t, H, W, 3) uint8 in grey levels, as compared with a threshold."""
    return _largest_block(np.abs(_cells(first) - _cells(second)))


def _cells(chunk: U8) -> I16:
    """Sum 4 x 4 pixels: (t, H, W, 3) uint8 -> (t, ceil(H / 4), ceil(W / 4), 3) int16, at most 4,080."""
    rows: I16 = _group_sums(chunk, 1, CELL, np.int16)
    return _group_sums(rows, 2, CELL, np.int16)


def _largest_block(differences: I16) -> float:
    """Return the largest mean over a block, in grey levels, of differences of cells (t, h, w, 3)."""
    rows = _group_sums(differences, 1, BLOCK, np.int32)  # 16 cells of 4,080 need more than 16 bits
    return float(_group_sums(rows, 2, BLOCK, np.int32).max()) / (CELL * BLOCK) ** 2


def _group_sums(array: npt.NDArray[Any], axis: int, count: int, dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    """Sum each `count` neighbours along `axis`; the edge is repeated to fill the last group."""
    if missing := -array.shape[axis] % count:
        edge = array.take([-1], axis=axis)
        array = np.concatenate([array, *[edge] * missing], axis=axis)
    lead = (slice(None),) * axis
    total = array[(*lead, slice(None, None, count))].astype(dtype)
    for i in range(1, count):
        total += array[(*lead, slice(i, None, count))]
    return total

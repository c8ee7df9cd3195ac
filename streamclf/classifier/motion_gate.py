"""Whether anything moves between two chunks: the small and the local count, sensor noise does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import I16, U8

CELL = 4
"""Side of a cell in pixels: the mean of 16 of them has a quarter of their noise."""
BLOCK = 4
"""Side of a block in cells."""


class MotionGate:
    """Compares chunks with the last one that was encoded, so that slow drift adds up until it counts.

    The measure is the mean difference, in grey levels, of the block of 16 x 16 pixels, of any frame and colour, that
    differs most: a mean over the whole picture would not see a person at its far end. It is taken between means of
    4 x 4 pixels, which noise hardly moves.
    """

    def __init__(self, threshold: float) -> None:
        """`threshold`: grey levels, of 255, below which a chunk counts as unchanged."""
        self.threshold = threshold
        self._reference: I16 | None = None

    def unchanged(self, chunk: U8) -> bool:
        """Whether (t, H, W, 3) uint8 looks like the reference; if not, it is the reference from now on."""
        cells = _cells(chunk)
        if self._reference is not None and _largest_block(np.abs(cells - self._reference)) < self.threshold:
            return True
        self._reference = cells
        return False


def motion_between(first: U8, second: U8) -> float:
    """The measure between two chunks (t, H, W, 3) uint8, in grey levels: what a threshold is compared with."""
    return _largest_block(np.abs(_cells(first) - _cells(second)))


def _cells(chunk: U8) -> I16:
    """(t, H, W, 3) uint8 -> (t, ceil(H / 4), ceil(W / 4), 3) int16: sums over 4 x 4 pixels, 4,080 at most."""
    rows: I16 = _added(chunk, 1, CELL, np.int16)
    return _added(rows, 2, CELL, np.int16)


def _largest_block(differences: I16) -> float:
    """Differences of cells (t, h, w, 3) -> the largest mean over a block, in grey levels."""
    rows = _added(differences, 1, BLOCK, np.int32)  # 16 cells of 4,080 are more than 16 bits
    return float(_added(rows, 2, BLOCK, np.int32).max()) / (CELL * BLOCK) ** 2


def _added(array: npt.NDArray[Any], axis: int, count: int, dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    """Sums of each `count` neighbours along `axis`; the last ones are made up to `count` with the edge."""
    if missing := -array.shape[axis] % count:
        edge = array.take([-1], axis=axis)
        array = np.concatenate([array, *[edge] * missing], axis=axis)
    lead = (slice(None),) * axis
    total = array[(*lead, slice(None, None, count))].astype(dtype)
    for i in range(1, count):
        total += array[(*lead, slice(i, None, count))]
    return total

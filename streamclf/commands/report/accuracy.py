"""Compute how well a model classified films whose true labels are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engines.arrays import I64

_Z: Final = 1.959964
"""95 % of a normal distribution lie within so many standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The figures of `films` films. `interval` is the 95 % confidence interval of `accuracy` (Wilson 1927).

    `balanced` is the mean of the recalls of the labels that occur. `confusion`: (K, K), rows are the true labels.
    `recall` and `precision` of each label are None where no film has it, or was given it.
    """

    films: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    balanced: float
    confusion: I64
    recall: Sequence[float | None]
    precision: Sequence[float | None]

    @property
    def shown(self) -> list[int]:
        """Return the labels that occur, as true labels or as predictions."""
        used = (self.confusion.sum(axis=0) + self.confusion.sum(axis=1)) > 0
        return [int(label) for label in np.flatnonzero(used)]


def compute_accuracy(pairs: Sequence[tuple[int, int]], labels: int) -> Accuracy | None:
    """Compute the figures from (true label, prediction) of each film; None without any film."""
    if not pairs:
        return None
    confusion = np.zeros((labels, labels), np.int64)
    for truth, predicted in pairs:
        confusion[truth, predicted] += 1
    right, films = int(confusion.trace()), len(pairs)
    given, predicted_counts, hits = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    recall = [int(hit) / int(count) if count else None for hit, count in zip(hits, given, strict=True)]
    precision = [int(hit) / int(count) if count else None for hit, count in zip(hits, predicted_counts, strict=True)]
    known = [value for value in recall if value is not None]
    return Accuracy(
        films=films,
        right=right,
        accuracy=right / films,
        interval=_wilson(right, films),
        balanced=sum(known) / len(known),
        confusion=confusion,
        recall=recall,
        precision=precision,
    )


def _wilson(right: int, count: int) -> tuple[float, float]:
    share, spread = right / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)

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

    A film counts as right if its labels are exactly the true ones. `balanced` is the mean of the recalls of the labels
    that occur. `confusion`: (K, K), rows are the true labels; None where labels are independent. `given` and
    `predicted`: (K,) films with the label. `recall` and `precision` of each label are None where no film has it, or
    was given it. `f1` is the mean of the F1 of the labels that occur.
    """

    films: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    balanced: float
    f1: float
    confusion: I64 | None
    given: I64
    predicted: I64
    recall: Sequence[float | None]
    precision: Sequence[float | None]

    @property
    def shown(self) -> list[int]:
        """Return the labels that occur, as true labels or as predictions."""
        return [int(label) for label in np.flatnonzero(self.given + self.predicted)]


def compute_accuracy(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], labels: int, *, independent: bool = False
) -> Accuracy | None:
    """Compute the figures from (true labels, predicted labels) of each film; None without any film.

    Each film has one of both, unless the labels are `independent`.
    """
    if not pairs:
        return None
    given, predicted, hits = (np.zeros(labels, np.int64) for _ in range(3))
    for truth, found in pairs:
        given[list(truth)] += 1
        predicted[list(found)] += 1
        hits[[label for label in truth if label in found]] += 1
    recall = [int(hit) / int(count) if count else None for hit, count in zip(hits, given, strict=True)]
    precision = [int(hit) / int(count) if count else None for hit, count in zip(hits, predicted, strict=True)]
    known = [value for value in recall if value is not None]
    used = np.flatnonzero(given + predicted)
    right, films = sum(set(truth) == set(found) for truth, found in pairs), len(pairs)
    confusion = None
    if not independent:
        confusion = np.zeros((labels, labels), np.int64)
        for truth, found in pairs:
            confusion[truth[0], found[0]] += 1
    return Accuracy(
        films=films,
        right=right,
        accuracy=right / films,
        interval=wilson_interval(right, films),
        balanced=sum(known) / len(known) if known else 0.0,
        f1=float((2 * hits[used] / (given + predicted)[used]).mean()) if len(used) else 0.0,
        confusion=confusion,
        given=given,
        predicted=predicted,
        recall=recall,
        precision=precision,
    )


def wilson_interval(right: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the share `right` / `count` of independent trials; `count` is at least 1."""
    share, spread = right / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)

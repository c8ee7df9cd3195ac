"""Summaries of a window's features over time: the numbers that a taught head weighs.

Every summary is made of standard ONNX operators: a matrix product over the time axis, or a maximum.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from engines.arrays import F32

PoolingName = Literal["mean", "peak", "change", "thirds"]
"""`mean`: over the window. `peak`: the largest value. `change`: the last third's mean minus the first third's.
`thirds`: the mean of each third. `change` and `thirds` depend on the order of the chunks."""

POOLINGS: Final[dict[str, tuple[PoolingName, ...]]] = {
    "mean": ("mean",),
    "mean, peak": ("mean", "peak"),
    "mean, peak, change": ("mean", "peak", "change"),
    "thirds, peak": ("thirds", "peak"),
}
"""The sets of summaries among which cross-validation chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledPart:
    """The features `start` to `stop` of each chunk, summarised over the window's `chunks` by each of `poolings`."""

    name: str
    start: int
    stop: int
    chunks: int
    poolings: tuple[PoolingName, ...]

    @property
    def time_weights(self) -> F32:
        """Return the weights (S, T) of the S summaries that are weighted means over the chunks; S may be 0."""
        rows = [row for name in self.poolings if name != "peak" for row in _time_weights(name, self.chunks)]
        return np.array(rows, np.float32).reshape(len(rows), self.chunks)

    @property
    def has_peak(self) -> bool:
        """Return whether the maximum over the chunks follows the weighted means."""
        return "peak" in self.poolings

    def pool(self, windows: F32) -> F32:
        """Summarise (N, T, F) -> (N, S * V): for each weighted mean all V values, then the V maxima."""
        part = windows[:, :, self.start : self.stop]
        pooled = [(self.time_weights @ part).reshape(len(part), -1)]
        if self.has_peak:
            pooled.append(part.max(axis=1))
        return np.concatenate(pooled, axis=1)


def pool_parts(windows: F32, parts: Sequence[PooledPart]) -> F32:
    """Concatenate the summaries of several parts: (N, T, F) -> (N, P)."""
    return np.concatenate([part.pool(windows) for part in parts], axis=1)


def _time_weights(name: PoolingName, chunks: int) -> list[F32]:
    """Return the rows (T,) of the weighted means that `name` stands for. A window of one or two chunks has no thirds:
    neighbouring thirds then share a chunk."""
    ends = [round(place * chunks / 3) for place in range(4)]
    thirds = []
    for first, last in itertools.pairwise(ends):
        row = np.zeros(chunks, np.float32)
        start = min(first, chunks - 1)
        row[start : max(last, start + 1)] = 1
        thirds.append(row / row.sum())
    if name == "mean":
        return [np.full(chunks, 1 / chunks, np.float32)]
    return thirds if name == "thirds" else [thirds[2] - thirds[0]]

"""Summarise the features of a window over time: the numbers that a taught head weighs.

Every summary is made of standard ONNX operators: a matrix product over the time axis, or a maximum.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from engines.arrays import F32, F64

PoolingName = Literal["mean", "thirds", "change", "bend", "peak"]
"""`mean`: over the window. `thirds`: the mean of each third. `change`: the last third's mean minus the first third's.
`bend`: the middle third's mean minus that of the others. `peak`: the largest value. All but `mean` and `peak` depend on
the order of the chunks."""
ORDER: Final[tuple[PoolingName, ...]] = ("mean", "thirds", "change", "bend", "peak")
"""The order in which a merged head stores summaries; `peak` is always the last."""

POOLINGS: Final[dict[str, tuple[PoolingName, ...]]] = {
    "mean": ("mean",),
    "mean, peak": ("mean", "peak"),
    "thirds": ("thirds",),
    "thirds, peak": ("thirds", "peak"),
    "change, bend": ("change", "bend"),
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

    def split(self, rows: F64) -> dict[PoolingName, F64]:
        """Divide rows (P, …), in the order of `pool`, by the summaries to which they belong."""
        size, pieces, start = self.stop - self.start, {}, 0
        for name in sorted(self.poolings, key=lambda name: name == "peak"):
            stop = start + size * (3 if name == "thirds" else 1)
            pieces[name], start = rows[start:stop], stop
        return pieces


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
    if name == "bend":
        return [thirds[1] - (thirds[0] + thirds[2]) / 2]
    return thirds if name == "thirds" else [thirds[2] - thirds[0]]

"""Fit a head for a base bundle's features from few examples, and choose its inputs by grouped cross-validation.

Which features tell the labels apart differs from task to task: all of them side by side can be worse by 11 points than
the right part alone. So every set of parts is tried with every summary over time. The best few are averaged, because
with ten clips a label the first is hardly better than the next. The result is linear: summaries of the window,
multiplied by a matrix. So it is a few ONNX operators, and it is fitted in seconds without torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.arrays import F32, F64
from streamclf.teach.discriminant import Held, Split, best_temperature, fit_discriminant, hold_out
from streamclf.teach.pooling import ORDER, POOLINGS, PooledPart, PoolingName, pool_parts

FOLDS = 5
"""The most folds of the cross-validation; no more than the rarest label has groups."""
AVERAGED = 10
"""So many of the best candidates are averaged."""
MAX_BASIS = 256
"""So many windows, spread over all, at most span the space in which heads are fitted."""
MAX_SUBSETS = 5
"""With more parts than this, each part alone and all together are tried, not every set."""
MAX_AXES = 128
"""The most dimensions of this space: those in which the windows differ most."""
SMALLEST_AXIS = 1e-6
"""Directions in which the basis windows differ by a smaller share are left out."""
SMALL_SPREAD = 0.05
"""Added to the deviation of a summary, in units of their mean: a summary that is nearly constant is not blown up."""
ROUNDING = 1e-4
"""The same in units of their root mean square: a part that never changes in the examples must not amplify rounding."""
DEFAULT_SHRINKAGE = 1.0
"""The shrinkage where no cross-validation is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One choice of inputs: parts of the feature, their summaries, and the shrinkage of the discriminant.

    `balanced_accuracy` and `log_loss` were measured by grouped cross-validation; both are None where a label has only
    one group, so that nothing could be compared.
    """

    parts: tuple[str, ...]
    pooling: str
    shrinkage: float
    balanced_accuracy: float | None
    log_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A linear classifier on summaries of a window.

    logits = concatenation of `PooledPart.pool` over `parts`, (N, P), times `weight` (P, K), plus `bias` (K,).
    Standardisation is folded into the weights. `chosen` are the best of `candidates`, which the head averages.
    """

    parts: tuple[PooledPart, ...]
    weight: F32
    bias: F32
    chosen: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]

    def logits(self, windows: F32) -> F32:
        """Classify windows (N, T, F) -> (N, K)."""
        result: F32 = pool_parts(windows, self.parts) @ self.weight + self.bias
        return result


def fit_head(
    windows: F32,
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | NDArray[np.str_],
    parts: Mapping[str, int],
    *,
    seed: int,
) -> FittedHead:
    """Fit a head to windows (N, T, F) with labels (N,), 0 to K - 1.

    `groups` (N,): windows of one source film have the same group; no group is on both sides of a fold. `parts`: names
    and sizes of consecutive parts of the feature, as `feature_parts` in the spec; the sizes sum to F. Each label needs
    at least one window. Each window of a label has the same weight; labels weigh the same in sum.
    """
    if (total := sum(parts.values())) != windows.shape[2]:
        raise ValueError(f"parts: the sizes sum to {total}, the feature has {windows.shape[2]} numbers")
    truth = np.asarray(labels).astype(np.int64)
    count = int(truth.max()) + 1
    splits = _folds(truth, np.asarray(groups), seed)
    blocks = _Blocks(windows, parts)
    trials = [_Trial.of(blocks, names, pooling, truth, count, splits) for names, pooling in _choices(parts, splits)]
    trials.sort(key=lambda trial: trial.held.log_loss)
    best = trials[:AVERAGED]
    mean = np.mean([trial.held.logits for trial in best], axis=0)
    temperature = best_temperature(mean, truth)[0] if splits else 1.0
    merged = _merge(blocks, best, truth, count, temperature)
    candidates = tuple(trial.candidate(bool(splits)) for trial in trials)
    return FittedHead(
        parts=merged[0], weight=merged[1], bias=merged[2], chosen=candidates[: len(best)], candidates=candidates
    )


def _choices(parts: Mapping[str, int], splits: Sequence[Split]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the sets of parts and the summaries to try: all of them, or one where nothing can be compared."""
    if not splits:
        yield tuple(parts), "mean, peak"
        return
    names = list(parts)
    sizes = range(1, len(names) + 1) if len(names) <= MAX_SUBSETS else (1, len(names))
    for size in sizes:
        yield from itertools.product(itertools.combinations(names, size), POOLINGS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """One choice of inputs with its best shrinkage."""

    names: tuple[str, ...]
    pooling: str
    held: Held

    @classmethod
    def of(
        cls,
        blocks: _Blocks,
        names: tuple[str, ...],
        pooling: str,
        labels: NDArray[np.int64],
        count: int,
        splits: Sequence[Split],
    ) -> _Trial:
        """Measure the choice on the groups that each fold leaves out."""
        if not splits:
            empty = np.zeros((len(labels), count))
            held = Held(shrinkage=DEFAULT_SHRINKAGE, temperature=1, log_loss=0, balanced_accuracy=0, logits=empty)
        else:
            inputs, _ = blocks.inputs(names, pooling)
            held = min(hold_out(inputs, labels, count, splits), key=lambda one: one.log_loss)
        return cls(names=names, pooling=pooling, held=held)

    def candidate(self, measured: bool) -> Candidate:
        """Return the public description."""
        return Candidate(
            parts=self.names,
            pooling=self.pooling,
            shrinkage=self.held.shrinkage,
            balanced_accuracy=self.held.balanced_accuracy if measured else None,
            log_loss=self.held.log_loss if measured else None,
        )


class _Blocks:
    """Standardised summaries of every part, and their scalar products: those of a set of parts are their mean.

    A head for P summaries is fitted in the space that at most `MAX_BASIS` windows span.
    """

    def __init__(self, windows: F32, parts: Mapping[str, int]) -> None:
        self._windows = windows
        self._ends = dict(zip(parts, itertools.accumulate(parts.values()), strict=True))
        self._sizes = dict(parts)
        chosen = np.linspace(0, len(windows) - 1, min(MAX_BASIS, len(windows))).round().astype(np.intp)
        self._basis = np.unique(chosen)
        self._products: dict[tuple[str, str], F64] = {}

    def part(self, name: str, poolings: tuple[PoolingName, ...]) -> PooledPart:
        """Describe a part with its summaries."""
        end = self._ends[name]
        return PooledPart(
            name=name,
            start=end - self._sizes[name],
            stop=end,
            chunks=self._windows.shape[1],
            poolings=poolings,
        )

    def inputs(self, names: Sequence[str], pooling: str) -> tuple[F64, F64]:
        """Return coordinates (N, D) of the windows, and the factors (M, D) that give them from scalar products."""
        products = np.mean([self._product(name, pooling) for name in names], axis=0)
        sizes, axes = np.linalg.eigh(products[self._basis])
        kept = sizes > SMALLEST_AXIS * sizes[-1]
        kept[:-MAX_AXES] = False
        factors = axes[:, kept] / np.sqrt(sizes[kept])
        return products @ factors, factors

    def weights(self, name: str, pooling: str, dual: F64) -> tuple[F64, F64]:
        """Return the weights (P, K) of a part's summaries and the bias (K,), from weights (M, K) of basis windows."""
        pooled, mean, scale = self._standard(name, pooling)
        weight = (pooled[self._basis].astype(np.float64).T @ dual) * scale[:, None]
        return weight, -mean @ weight

    def _product(self, name: str, pooling: str) -> F64:
        key = name, pooling
        if key not in self._products:
            pooled, _, _ = self._standard(name, pooling)
            self._products[key] = np.asarray(pooled @ pooled[self._basis].T, np.float64)
        return self._products[key]

    def _standard(self, name: str, pooling: str) -> tuple[F32, F64, F64]:
        """Return summaries (N, P) with mean 0 and, in sum, variance 1; and the mean and factor (P,) that made them."""
        pooled = self.part(name, POOLINGS[pooling]).pool(self._windows)
        mean, spread = pooled.mean(axis=0, dtype=np.float64), pooled.std(axis=0, dtype=np.float64)
        rounding = ROUNDING * np.sqrt(np.mean(np.square(pooled, dtype=np.float64))) + 1e-9
        scale = 1 / ((spread + SMALL_SPREAD * spread.mean() + rounding) * np.sqrt(pooled.shape[1]))
        return ((pooled - mean.astype(np.float32)) * scale.astype(np.float32)), mean, scale


def _merge(
    blocks: _Blocks, trials: Sequence[_Trial], labels: NDArray[np.int64], count: int, temperature: float
) -> tuple[tuple[PooledPart, ...], F32, F32]:
    """Fit each choice to all windows, and average them: summaries that several choices use are computed once."""
    rows: dict[tuple[str, PoolingName], F64] = {}
    total = np.zeros(count)
    for trial in trials:
        inputs, factors = blocks.inputs(trial.names, trial.pooling)
        ((weight, bias),) = fit_discriminant(inputs, labels, count, [trial.held.shrinkage])
        share = len(trials) * trial.held.temperature * temperature
        total += bias / share
        for name in trial.names:
            part = blocks.part(name, POOLINGS[trial.pooling])
            own, offset = blocks.weights(name, trial.pooling, factors @ weight / (share * len(trial.names)))
            total += offset
            for pooling, piece in part.split(own).items():
                rows[name, pooling] = rows.get((name, pooling), 0) + piece
    parts = [
        blocks.part(name, tuple(pooling for pooling in ORDER if (name, pooling) in rows))
        for name in dict.fromkeys(name for name, _ in rows)
    ]
    weights = [rows[part.name, pooling] for part in parts for pooling in part.poolings]
    return tuple(parts), np.concatenate(weights).astype(np.float32), total.astype(np.float32)


def _folds(labels: NDArray[np.int64], groups: NDArray[np.generic], seed: int) -> list[Split]:
    """Split whole groups into folds, each label as evenly as possible; empty where a label has only one group."""
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if fewest < 2:
        return []
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    splits = list(folds.split(np.zeros(len(labels)), labels, groups))
    return [(train, test) for train, test in splits if len(np.unique(labels[train])) == len(np.unique(labels))]

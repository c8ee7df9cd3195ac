"""Fit a head for a base bundle's features from few examples, and choose its inputs by grouped cross-validation.

A fitted head is linear: summaries of the window over time, multiplied by a matrix. So it is a few ONNX operators, and
it is fitted in seconds without torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engines.arrays import F32
from streamclf.teach.pooling import POOLINGS, PooledPart, pool_parts

FOLDS = 5
"""The most folds of the cross-validation; no more than the rarest label has groups."""
COSTS = (1.0, 10.0, 100.0)
"""Values of scikit-learn's C, the inverse strength of regularisation, among which cross-validation chooses."""
MIDDLE_COST = COSTS[1]
FINALISTS = 6
"""So many candidates are measured with every one of `COSTS`."""
RIDGE = 1e-4
"""Added to the squared length of each window's summaries, which is about 1: windows may be equal."""
Split: TypeAlias = "tuple[NDArray[np.intp], NDArray[np.intp]]"
"""The numbers of the training windows and of the test windows of a fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to make a head: the parts of the feature, their summaries, and the regularisation.

    `balanced_accuracy` and `log_loss` were measured by grouped cross-validation; both are None where a label has only
    one group, so that nothing could be compared.
    """

    parts: tuple[str, ...]
    pooling: str
    c: float
    balanced_accuracy: float | None
    log_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A linear classifier on summaries of a window.

    logits = concatenation of `PooledPart.pool` over `parts`, (N, P), times `weight` (P, K), plus `bias` (K,).
    Standardisation is folded into the weights. `chosen` is one of `candidates`.
    """

    parts: tuple[PooledPart, ...]
    weight: F32
    bias: F32
    chosen: Candidate
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
    splits = _folds(truth, np.asarray(groups), seed)
    candidates = _compare(windows, truth, splits, parts)
    chosen = min(
        candidates, key=lambda one: (one.log_loss if one.log_loss is not None else 0.0, -(one.balanced_accuracy or 0.0))
    )
    pooled_parts = _pooled_parts(parts, chosen.parts, chosen.pooling, windows.shape[1])
    weight, bias = _fit_linear(pool_parts(windows, pooled_parts), truth, chosen.c)
    return FittedHead(parts=pooled_parts, weight=weight, bias=bias, chosen=chosen, candidates=tuple(candidates))


def _compare(
    windows: F32, labels: NDArray[np.int64], splits: Sequence[Split], parts: Mapping[str, int]
) -> list[Candidate]:
    """Measure all sets of parts and summaries with the middle one of `COSTS`, and the best of them with the others."""
    subsets = list(_subsets(parts))
    if not splits:
        return [
            Candidate(parts=names, pooling=pooling, c=MIDDLE_COST, balanced_accuracy=None, log_loss=None)
            for names, pooling in itertools.product(subsets, POOLINGS)
        ]
    products: dict[str, list[dict[str, _Products]]] = {}
    candidates = []
    for pooling in POOLINGS:
        pooled = {name: pool_parts(windows, _pooled_parts(parts, (name,), pooling, windows.shape[1])) for name in parts}
        products[pooling] = [{name: _Products.of(pooled[name], split) for name in parts} for split in splits]
        candidates += [_measure(products[pooling], labels, splits, names, pooling, MIDDLE_COST) for names in subsets]
    best = sorted(candidates, key=lambda one: one.log_loss or 0.0)[:FINALISTS]
    for one, c in itertools.product(best, COSTS):
        if c != MIDDLE_COST:
            candidates.append(_measure(products[one.pooling], labels, splits, one.parts, one.pooling, c))
    return candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Products:
    """The scalar products of the standardised summaries of one part, in one fold: those of a set of parts are sums.

    `train` (n, n), `test` (m, n), and the number of the summaries.
    """

    train: NDArray[np.float64]
    test: NDArray[np.float64]
    size: int

    @classmethod
    def of(cls, pooled: F32, split: Split) -> _Products:
        """Standardise the summaries by those of the fold's training windows, and multiply them."""
        train, test = pooled[split[0]], pooled[split[1]]
        mean, scale = _standardisation(train)
        train, test = (train - mean) * scale, (test - mean) * scale
        return cls(
            train=np.asarray(train @ train.T, np.float64),
            test=np.asarray(test @ train.T, np.float64),
            size=train.shape[1],
        )


def _standardisation(pooled: F32) -> tuple[F32, F32]:
    """Return the mean of each summary, and the factor that gives it the standard deviation 1."""
    scale = 1 / (pooled.std(axis=0, dtype=np.float64) + 1e-4)
    return pooled.mean(axis=0, dtype=np.float64).astype(np.float32), scale.astype(np.float32)


def _subsets(parts: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield every set of parts, the whole feature first."""
    for count in range(len(parts), 0, -1):
        yield from itertools.combinations(parts, count)


def _pooled_parts(parts: Mapping[str, int], names: Sequence[str], pooling: str, chunks: int) -> tuple[PooledPart, ...]:
    ends = dict(zip(parts, itertools.accumulate(parts.values()), strict=True))
    return tuple(
        PooledPart(
            name=name, start=ends[name] - parts[name], stop=ends[name], chunks=chunks, poolings=POOLINGS[pooling]
        )
        for name in names
    )


def _folds(labels: NDArray[np.int64], groups: NDArray[np.generic], seed: int) -> list[Split]:
    """Split whole groups into folds, each label as evenly as possible; empty where a label has only one group."""
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if fewest < 2:
        return []
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    splits = list(folds.split(np.zeros(len(labels)), labels, groups))
    return [(train, test) for train, test in splits if len(np.unique(labels[train])) == len(np.unique(labels))]


def _measure(
    products: Sequence[Mapping[str, _Products]],
    labels: NDArray[np.int64],
    splits: Sequence[Split],
    names: tuple[str, ...],
    pooling: str,
    c: float,
) -> Candidate:
    """Measure a candidate on the groups that each fold leaves out. `products`: for each fold, those of each part."""
    right = np.full(len(labels), np.nan)
    loss = np.full(len(labels), np.nan)
    for (train, test), of_part in zip(splits, products, strict=True):
        size = sum(of_part[name].size for name in names)
        own = np.sum([of_part[name].train for name in names], axis=0) / size
        other = np.sum([of_part[name].test for name in names], axis=0) / size
        left = np.linalg.cholesky(own + RIDGE * np.eye(len(train))).astype(np.float64)
        inputs = np.linalg.solve(left, other.T).T
        weight, bias = _fit_logistic(left, labels[train], c)
        logits = inputs @ weight + bias
        logits -= logits.max(axis=1, keepdims=True)
        rows = np.arange(len(test))
        loss[test] = np.log(np.exp(logits).sum(axis=1)) - logits[rows, labels[test]]
        right[test] = logits.argmax(axis=1) == labels[test]
    each = [labels == label for label in np.unique(labels)]
    return Candidate(
        parts=names,
        pooling=pooling,
        c=c,
        balanced_accuracy=float(np.nanmean([np.nanmean(right[own]) for own in each])),
        log_loss=float(np.nanmean([np.nanmean(loss[own]) for own in each])),
    )


def _fit_linear(pooled: F32, labels: NDArray[np.int64], c: float) -> tuple[F32, F32]:
    """Fit logistic regression to standardised summaries. Returns (P, K) and (K,) for the summaries as they are.

    The fit takes place in the space that the windows span: its coordinates are the rows of the Cholesky factor of
    their scalar products. With fewer windows than summaries the result is the same, and much faster.
    """
    mean, scale = _standardisation(pooled)
    standard = ((pooled - mean) * scale).astype(np.float64) / np.sqrt(pooled.shape[1])
    left = np.linalg.cholesky(standard @ standard.T + RIDGE * np.eye(len(labels))).astype(np.float64)
    coefficients, intercepts = _fit_logistic(left, labels, c)
    weight = (standard.T @ np.linalg.solve(left.T, coefficients)) * (scale / np.sqrt(pooled.shape[1]))[:, None]
    return weight.astype(np.float32), (intercepts - mean @ weight).astype(np.float32)


def _fit_logistic(
    inputs: NDArray[np.float64], labels: NDArray[np.int64], c: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit logistic regression to inputs (N, D). Returns (D, K) and (K,)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000, tol=1e-3).fit(inputs, labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two labels have one row of weights: for the second against the first
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    return coefficients.T, intercepts

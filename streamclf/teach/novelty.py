"""Measure how unlike all examples a window is, for the label "none of these".

The measure uses the mean over time of each number of the feature, standardised. A window is as like the examples as it
is like the nearest example, or the nearest label's mean: by the cosine of the angle, or by the squared distance. The
labels themselves choose among these four measures: each label is left out once, and its windows must then look unlike
the others. All of it is made of standard ONNX operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from engines.arrays import F32

Reference = Literal["means", "examples"]
Metric = Literal["cosine", "distance"]
Measure = tuple[Reference, Metric]
MEASURES: Final[tuple[Measure, ...]] = (
    ("examples", "distance"),
    ("examples", "cosine"),
    ("means", "distance"),
    ("means", "cosine"),
)
MAX_EXAMPLES: Final = 256
"""The most windows that the head keeps to compare with."""
MAX_COMPARED: Final = 1500
"""The most windows that are compared with each other while the reference is chosen."""
FALSE_ALARMS: Final = 0.05
"""The share of the labels' own windows, in films that were held out, that may count as "none of these"."""
STEEPNESS: Final = 3.0
"""By how much the logit of "none of these" changes over one standard deviation of the scores."""
EPSILON: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Novelty:
    """Score windows by their likeness to the nearest of some rows: the cosine, or the negative squared distance.

    `offset` and `scale` (F,): of the standardisation. `rows` (R, F): examples or means. `squares` (R,): their squared
    lengths.
    """

    measure: Measure
    offset: F32
    scale: F32
    rows: F32
    squares: F32

    def score(self, windows: F32) -> F32:
        """Return the likeness (N,) of windows (N, T, F)."""
        means = (windows.mean(axis=1) - self.offset) * self.scale
        squares = (means * means).sum(axis=1)
        if self.measure[1] == "cosine":
            scores: F32 = ((means @ self.rows.T).max(axis=1)) / (np.sqrt(squares) + np.float32(EPSILON))
            return scores
        nearest: F32 = (2 * means @ self.rows.T - self.squares).max(axis=1) - squares
        return nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyChoice:
    """The chosen measure, and how well it separated left-out labels from the others.

    `separation`: area under the ROC curve, 0.5 is chance. `misses`: share of the left-out labels' clips that passed for
    one of the others. All are None with fewer than two labels.
    """

    measure: Measure
    separation: float | None
    misses: float | None


def fit_novelty(
    windows: F32, labels: NDArray[np.int64], parts: Mapping[str, int], measure: Measure, *, seed: int
) -> Novelty:
    """Build the reference from windows (N, T, F) with labels (N,). Every part of the feature has the same weight."""
    means = windows.mean(axis=1, dtype=np.float32)
    offset = means.mean(axis=0)
    sizes = np.repeat(list(parts.values()), list(parts.values()))
    scale = (1 / ((means.std(axis=0) + 1e-3) * np.sqrt(sizes))).astype(np.float32)
    standard = (means - offset) * scale
    reference, metric = measure
    if reference == "means":
        rows = np.stack([standard[labels == label].mean(axis=0) for label in np.unique(labels)])
    else:
        rows = standard[_choose(labels, MAX_EXAMPLES, seed)]
    if metric == "cosine":
        rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + EPSILON)
    return Novelty(
        measure=measure,
        offset=offset.astype(np.float32),
        scale=scale,
        rows=np.ascontiguousarray(rows, np.float32),
        squares=(rows * rows).sum(axis=1).astype(np.float32),
    )


def choose_measure(
    windows: F32,
    labels: NDArray[np.int64],
    clips: NDArray[np.int32],
    groups: NDArray[np.int32],
    parts: Mapping[str, int],
    *,
    seed: int,
) -> NoveltyChoice:
    """Choose the measure by leaving out each label once. `clips`, `groups` (N,): those of each window."""
    if len(np.unique(labels)) < 2:
        return NoveltyChoice(measure=MEASURES[0], separation=None, misses=None)
    chosen = _choose(labels, MAX_COMPARED, seed)
    windows, labels, clips, groups = windows[chosen], labels[chosen], clips[chosen], groups[chosen]
    results = [_leave_labels_out(windows, labels, clips, groups, parts, measure, seed) for measure in MEASURES]
    return max(results, key=lambda result: result.separation or 0.0)


def limit_of(scores: F32, clips: NDArray[np.int32]) -> float:
    """Return the score below which a window counts as unlike all examples: `FALSE_ALARMS` of held-out clips' windows.

    Each clip has the same weight.
    """
    order = np.argsort(scores)
    counts = np.bincount(clips)[clips[order]]
    share = np.cumsum(1 / counts)
    share /= share[-1]
    return float(scores[order[np.searchsorted(share, FALSE_ALARMS)]]) - 1e-6


def _leave_labels_out(
    windows: F32,
    labels: NDArray[np.int64],
    clips: NDArray[np.int32],
    groups: NDArray[np.int32],
    parts: Mapping[str, int],
    measure: Measure,
    seed: int,
) -> NoveltyChoice:
    separations, missed, count = [], 0, 0
    for label in np.unique(labels):
        known = np.flatnonzero(labels != label)
        halves = _halves(labels[known], groups[known], seed)
        own_scores, new_scores = [], []
        for train, test in halves:
            novelty = fit_novelty(windows[known[train]], labels[known[train]], parts, measure, seed=seed)
            own_scores.append((novelty.score(windows[known[test]]), clips[known[test]]))
            new_scores.append(novelty.score(windows[labels == label]))
        own = np.concatenate([scores for scores, _ in own_scores])
        new = np.mean(new_scores, axis=0)
        separations.append(_separation(own, new))
        limit = limit_of(own, np.concatenate([numbers for _, numbers in own_scores]))
        new_clips = clips[labels == label]
        for clip in np.unique(new_clips):
            count += 1
            missed += bool(new[new_clips == clip].mean() >= limit)
    return NoveltyChoice(measure=measure, separation=float(np.mean(separations)), misses=missed / count)


def _halves(
    labels: NDArray[np.int64], groups: NDArray[np.int32], seed: int
) -> Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(len(labels)), labels, groups))


def _separation(own: F32, new: F32) -> float:
    """Return the area under the ROC curve: the chance that an own window has a higher score than a new one."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([1, 0], [len(own), len(new)]), np.concatenate([own, new])))


def _choose(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.intp]:
    """Choose at most about `most` windows, as many of each label as there are, in order."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    each = max(1, most // len(np.unique(labels)))
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rng.choice(part, min(each, len(part)), replace=False) for part in parts]))

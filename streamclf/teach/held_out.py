"""Measure a head on films that it was not fitted to: cross-validation that never divides a group of films."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.arrays import F32
from streamclf.teach.head import fit_head
from streamclf.teach.novelty import NoveltyChoice, choose_measure, fit_novelty

FOLDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingData:
    """The windows of all examples: features (N, T, F) float32, and for each its label, clip and group, (N,).

    `names`: the labels, of which the last may be that of "none of these", if `none` is its number.
    """

    windows: F32
    labels: NDArray[np.int64]
    clips: NDArray[np.int32]
    groups: NDArray[np.int32]
    names: tuple[str, ...]
    parts: Mapping[str, int]
    none: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The results for each window, from a head that was fitted without its group.

    `logits`: (N, K). `scores`: (N,), the likeness to the examples. `novelty`: how its measure was chosen.
    """

    logits: F32
    scores: F32
    novelty: NoveltyChoice


def measure_held_out(data: TeachingData, *, seed: int, on_fold: Callable[[float], None]) -> HeldOut:
    """Fit a head without each fifth of the groups, and apply it to these. `on_fold` gets the share that is done."""
    from sklearn.model_selection import StratifiedGroupKFold

    known = np.arange(len(data.labels)) if data.none is None else np.flatnonzero(data.labels != data.none)
    choice = choose_measure(
        data.windows[known], data.labels[known], data.clips[known], data.groups[known], data.parts, seed=seed
    )
    fewest = min(len(np.unique(data.groups[data.labels == label])) for label in range(len(data.names)))
    logits = np.zeros((len(data.labels), len(data.names)), np.float32)
    scores = np.zeros(len(data.labels), np.float32)
    count = min(FOLDS, fewest)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    splits = list(folds.split(np.zeros(len(data.labels)), data.labels, data.groups))
    for number, (train, test) in enumerate(splits):
        present = np.unique(data.labels[train])
        head = fit_head(
            data.windows[train],
            np.searchsorted(present, data.labels[train]),
            data.groups[train],
            data.parts,
            seed=seed,
        )
        logits[test] = -30.0  # a label that has no window in this part of the films
        logits[np.ix_(test, present)] = head.logits(data.windows[test])
        novelty = fit_novelty(data.windows[train], data.labels[train], data.parts, choice.measure, seed=seed)
        scores[test] = novelty.score(data.windows[test])
        on_fold((number + 1) / count)
    return HeldOut(logits=logits, scores=scores, novelty=choice)

"""Choose the numbers that calibration adds to the labels' logits, from predictions of the benchmark's tuning half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from engines.arrays import F64
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.figures import CasePrediction, is_counted
from training.errors import DataError

MAX_FALSE_ALARMS: Final = 0.005
"""The share of undisturbed windows of the tuning half that may be wrong.

It is half of the aim, 1 %: the biases fit these windows, so others have more false alarms.
"""
_STEP: Final = 0.25
_LOWEST: Final = -0.75
"""With a lower bias, a window whose probability was 0.9 falls below 0.8, where an action starts by default."""
_HIGHEST: Final = 2.0
_COST: Final = 0.001
"""Balanced accuracy that a bias of 1 must gain: equal results keep the model as it was trained."""


def choose_biases(predictions: Sequence[CasePrediction]) -> dict[str, float]:
    """Return {label: bias} for the best balanced accuracy on the tuning half, with few false alarms.

    The search changes one label's bias at a time, in steps of 0.25 between -0.75 and 2, until no change helps. `normal`
    keeps 0. Films whose camera is not fixed do not count. Labels whose bias is 0 are left out.
    """
    chosen = [each for each in predictions if is_counted(each, "tuning")]
    if not chosen:
        raise DataError(
            "the tuning half has no film whose camera is fixed; --data is the folder with clips/ and fight/"
        )
    truth = np.array([LABELS.index(each.label) for each in chosen])
    scores = np.stack([each.log_probabilities for each in chosen]).astype(np.float64)
    biases = np.zeros(len(LABELS))
    best = _objective(scores, truth, biases)
    changed = True
    while changed:
        changed = False
        for label in range(1, len(LABELS)):
            for value in np.arange(_LOWEST, _HIGHEST + _STEP / 2, _STEP):
                tried = biases.copy()
                tried[label] = value
                if (objective := _objective(scores, truth, tried)) > best + 1e-9:
                    biases, best, changed = tried, objective, True
    return {label: float(bias) for label, bias in zip(LABELS, biases, strict=True) if bias}


def with_biases(predictions: Sequence[CasePrediction], biases: Mapping[str, float]) -> list[CasePrediction]:
    """Return the predictions of the model whose logits have `biases` added."""
    added = np.array([biases.get(label, 0.0) for label in LABELS], np.float32)
    result = []
    for each in predictions:
        scores = each.log_probabilities + added
        result.append(replace(each, predicted=LABELS[int(scores.argmax())], log_probabilities=scores))
    return result


def _objective(scores: F64, truth: np.ndarray[tuple[int], np.dtype[np.int64]], biases: F64) -> float:
    """Return the balanced accuracy, less the cost of the biases and of false alarms above the limit."""
    hit = (scores + biases).argmax(axis=1) == truth
    recalls = [float(hit[truth == label].mean()) for label in np.unique(truth)]
    false_alarms = 1 - recalls[0] if truth.min() == 0 else 0.0
    excess = max(false_alarms - MAX_FALSE_ALARMS, 0.0)
    return float(np.mean(recalls)) - 10 * excess - _COST * float(np.abs(biases).sum())

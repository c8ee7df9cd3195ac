"""Combine a fitted head with "none of these", and calibrate both on films that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.arrays import F32
from streamclf.teach.head import FittedHead, fit_head
from streamclf.teach.held_out import HeldOut, TeachingData
from streamclf.teach.novelty import STEEPNESS, Novelty, fit_novelty, limit_of

LEAST_SEPARATION: Final = 0.6
"""Below this area under the ROC curve, unlike windows cannot be found, and the label would only cost right answers."""
MOST_MISSES: Final = 0.9
"""With more misses than this, the label finds hardly more unlike clips than it takes right ones."""
TEMPERATURES: Final = np.geomspace(0.25, 8.0, 41)
THRESHOLD_RANGE: Final = (0.5, 0.95)
"""A live stream mostly shows none of the labels, so an action needs a label that is more probable than all others."""
FALSE_WEIGHT: Final = 2.0
"""A false alarm counts as much as so many missed windows when a threshold is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Hold what was chosen on held-out films.

    `temperature` divides the logits of the labels. A window whose likeness is below `limit` is "none of these"; its
    logit falls by `slope` for each unit of likeness. `has_novelty`: whether likeness is used at all.
    """

    temperature: float
    has_novelty: bool
    limit: float
    slope: float


def calibrate(data: TeachingData, held_out: HeldOut, *, wants_none: bool) -> Calibration:
    """Choose the temperature of the logits and the limit of likeness from held-out results."""
    separation, misses = held_out.novelty.separation, held_out.novelty.misses
    known = np.arange(len(data.labels)) if data.none is None else np.flatnonzero(data.labels != data.none)
    scores = held_out.scores[known]
    return Calibration(
        temperature=_temperature(held_out.logits, data),
        has_novelty=wants_none
        and (separation is None or separation >= LEAST_SEPARATION)
        and (misses is None or misses <= MOST_MISSES),
        limit=limit_of(scores, data.clips[known]),
        slope=STEEPNESS / max(float(scores.std()), 1e-3),
    )


def output_labels(data: TeachingData, calibration: Calibration, none_label: str) -> tuple[str, ...]:
    """Return the labels of the taught model; "none of these" is the last."""
    return data.names if data.none is not None or not calibration.has_novelty else (*data.names, none_label)


def combine(
    logits: NDArray[np.floating], scores: NDArray[np.floating], none: int | None, calibration: Calibration
) -> NDArray[np.float64]:
    """Return the logits (N, K') of the taught model. `logits`: (N, K) of the head, `scores`: (N,), the likeness.

    The logit of "none of these" is that of the best label at the limit of likeness, and larger below it.
    """
    logits = np.asarray(logits, np.float64) / calibration.temperature
    if not calibration.has_novelty:
        return logits
    known = logits if none is None else np.delete(logits, none, axis=1)
    unlike = known.max(axis=1) + calibration.slope * (calibration.limit - np.asarray(scores, np.float64))
    if none is None:
        return np.concatenate([logits, unlike[:, None]], axis=1)
    logits[:, none] = np.maximum(logits[:, none], unlike)
    return logits


def probabilities_of(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the softmax of logits (N, K)."""
    shifted = np.exp(np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtHead:
    """The head of a taught model. `none`: the number of the fitted label "none of these"; None if it was not fitted."""

    head: FittedHead
    novelty: Novelty
    calibration: Calibration
    none: int | None

    def logits(self, windows: F32) -> F32:
        """Classify windows (N, T, F) -> (N, K') as `head.onnx` does."""
        fitted = self.head.logits(windows)
        return combine(fitted, self.novelty.score(windows), self.none, self.calibration).astype(np.float32)


def fit_taught_head(data: TeachingData, held_out: HeldOut, calibration: Calibration, *, seed: int) -> TaughtHead:
    """Fit the head to all examples."""
    return TaughtHead(
        head=fit_head(data.windows, data.labels, data.groups, data.parts, seed=seed),
        novelty=fit_novelty(data.windows, data.labels, data.parts, held_out.novelty.measure, seed=seed),
        calibration=calibration,
        none=data.none,
    )


def choose_thresholds(data: TeachingData, probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Return, for each label but "none of these", the probability from which an action should start.

    It makes the fewest errors on held-out windows, where each clip has the same weight, each label too, and a false
    alarm counts double. It lies in the middle of the range that is equally good.
    """
    counts = np.bincount(data.clips)[data.clips].astype(np.float64)
    thresholds = {}
    for label, name in enumerate(data.names):
        if label == data.none:
            continue
        own = data.labels == label
        weights = 1 / counts
        weights[own] /= weights[own].sum()
        weights[~own] *= FALSE_WEIGHT / weights[~own].sum()
        thresholds[name] = round(_best_threshold(probabilities[:, label], own, weights), 3)
    return thresholds


def _best_threshold(scores: NDArray[np.float64], own: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    candidates = np.linspace(*THRESHOLD_RANGE, 46)
    errors = np.array([weights[(scores >= limit) != own].sum() for limit in candidates])
    best = candidates[errors <= errors.min() + 1e-9]
    return float((best[0] + best[-1]) / 2)


def _temperature(logits: F32, data: TeachingData) -> float:
    """Return the temperature with the least loss on held-out windows; each clip has the same weight.

    A quarter of an error for each label is added, so that labels that were never confused do not give a temperature
    near zero.
    """
    weights = 1 / np.bincount(data.clips)[data.clips]
    rows = np.arange(len(data.labels))
    share = 0.25 * len(data.names) / (len(np.unique(data.clips)) + 1)
    losses = []
    for temperature in TEMPERATURES:
        probabilities = probabilities_of(logits / temperature)
        logs = np.log(probabilities + 1e-12)
        wrong = (logs.sum(axis=1) - logs[rows, data.labels]) / max(1, len(data.names) - 1)
        losses.append(-float((weights * ((1 - share) * logs[rows, data.labels] + share * wrong)).sum()))
    return float(TEMPERATURES[int(np.argmin(losses))])

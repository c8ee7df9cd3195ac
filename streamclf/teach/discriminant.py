"""Fit a linear discriminant with shrinkage in few dimensions, and measure it on held-out groups.

The discriminant is Fisher's: it compares a window with the mean of each label, and counts directions in which windows
of one label differ among themselves for less. So a background that differs from film to film misleads it less than it
does logistic regression. It has a closed form, and all strengths of shrinkage share one decomposition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engines.arrays import F64

Split: TypeAlias = "tuple[NDArray[np.intp], NDArray[np.intp]]"
"""The numbers of the training windows and of the test windows of a fold."""

SHRINKAGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Added to the variance within labels, in units of the mean total variance."""
TEMPERATURES = np.geomspace(0.05, 100, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The result of one strength of shrinkage on held-out groups.

    `logits` (N, K) are divided by the temperature that makes them most probable; rows of no fold are NaN.
    """

    shrinkage: float
    temperature: float
    log_loss: float
    balanced_accuracy: float
    logits: F64


def fit_discriminant(
    inputs: F64, labels: NDArray[np.int64], count: int, shrinkages: Sequence[float]
) -> Iterator[tuple[F64, F64]]:
    """Fit inputs (N, D) with labels 0 to `count` - 1; labels weigh the same. Yields (D, K) and (K,) per shrinkage."""
    weights = (1 / np.maximum(np.bincount(labels, minlength=count), 1))[labels]
    weights /= weights.sum()
    member = (labels[:, None] == np.arange(count)) * weights[:, None]
    means = (member / member.sum(axis=0)).T @ inputs
    root = np.sqrt(weights)[:, None]
    within = (inputs - means[labels]) * root
    centred = (inputs - weights @ inputs) * root
    variances, axes = np.linalg.eigh(within.T @ within)
    total = (centred**2).sum() / min(inputs.shape)
    rotated = means @ axes
    for shrinkage in shrinkages:
        weight = rotated / (np.maximum(variances, 0) + shrinkage * total + 1e-12)
        yield axes @ weight.T, -0.5 * (weight * rotated).sum(axis=1)


def hold_out(inputs: F64, labels: NDArray[np.int64], count: int, splits: Sequence[Split]) -> list[Held]:
    """Measure every strength of shrinkage. A label that a fold's training windows lack gets no probability there."""
    logits = np.full((len(SHRINKAGES), len(labels), count), np.nan)
    for train, test in splits:
        for number, (weight, bias) in enumerate(fit_discriminant(inputs[train], labels[train], count, SHRINKAGES)):
            logits[number, test] = inputs[test] @ weight + bias
    results = []
    for shrinkage, rows in zip(SHRINKAGES, logits, strict=True):
        temperature, log_loss = best_temperature(rows, labels)
        results.append(
            Held(
                shrinkage=shrinkage,
                temperature=temperature,
                log_loss=log_loss,
                balanced_accuracy=balanced_accuracy(rows, labels),
                logits=rows / temperature,
            )
        )
    return results


def best_temperature(logits: F64, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return the divisor of the logits (N, K) with the least log loss, and this loss, the mean over labels."""
    losses = [_log_loss(logits / temperature, labels) for temperature in TEMPERATURES]
    best = int(np.argmin(losses))
    return float(TEMPERATURES[best]), losses[best]


def balanced_accuracy(logits: F64, labels: NDArray[np.int64]) -> float:
    """Return the mean recall over the labels; rows of NaN do not count."""
    known = ~np.isnan(logits[:, 0])
    right = logits[known].argmax(axis=1) == labels[known]
    return float(np.mean([right[labels[known] == label].mean() for label in np.unique(labels[known])]))


def _log_loss(logits: F64, labels: NDArray[np.int64]) -> float:
    known = ~np.isnan(logits[:, 0])
    logits, labels = logits[known], labels[known]
    logits = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(np.mean([loss[labels == label].mean() for label in np.unique(labels)]))

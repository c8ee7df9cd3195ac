"""Compute the figures of a model whose labels are independent, and choose the threshold of each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import F32, F64, I64
from engines.bundle import DEFAULT_THRESHOLD
from engines.printable import printable

DIGITS = 4
"""Thresholds are rounded to so many digits."""


def multi_label_scores(
    probabilities: F32, truth: I64, labels: Sequence[str], thresholds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Compute all figures of N clips from `probabilities` (N, K) and `truth` (N, K), zeros and ones.

    Without `thresholds`, each label gets the one with the highest F1 on these clips; use this for validation clips
    only. Means over labels leave out labels that no clip, or every clip, has; they are None if no label is left. `map`
    is the mean average precision.
    `exact` is the share of clips whose labels are all right. `loss` is the mean binary cross-entropy.
    """
    truth = truth.astype(np.int64)
    rows: dict[str, dict[str, Any]] = {}
    predicted = np.zeros(truth.shape, bool)
    for i, label in enumerate(labels):
        threshold = choose_threshold(probabilities[:, i], truth[:, i]) if thresholds is None else thresholds.get(label)
        limit = np.float32(DEFAULT_THRESHOLD if threshold is None else threshold)
        predicted[:, i] = probabilities[:, i] >= limit
        rows[label] = {**_label_scores(probabilities[:, i], truth[:, i], predicted[:, i]), "threshold": threshold}
    bounded = probabilities.astype(np.float64).clip(1e-12, 1 - 1e-12)
    loss = -(truth * np.log(bounded) + (1 - truth) * np.log(1 - bounded)).mean()
    return {
        "clips": len(truth),
        "map": _mean([row["average_precision"] for row in rows.values()]),
        "macro_f1": _mean([row["f1"] for row in rows.values() if row["average_precision"] is not None]),
        "auc": _mean([row["auc"] for row in rows.values()]),
        "exact": float((predicted == truth).all(axis=1).mean()),
        "loss": float(loss),
        "per_class": rows,
    }


def choose_threshold(probabilities: npt.NDArray[Any], truth: I64) -> float | None:
    """Return the threshold (N,) -> one number with the highest F1; None where no clip, or every clip, has the label.

    It lies in the middle between two neighbouring probabilities. Of several thresholds with the same F1, it is the one
    with the largest distance between these two, because it is the least sensitive.
    """
    if not 0 < truth.sum() < len(truth):
        return None
    order = np.argsort(-probabilities, kind="stable")
    sorted_p, hits = probabilities[order].astype(np.float64), np.cumsum(truth[order])
    following = np.append(sorted_p[1:], 0.0)
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truth.sum())
    f1[sorted_p == following] = -1  # no threshold lies between equal probabilities
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    chosen = best[(sorted_p - following)[best].argmax()]
    middle = round(float(sorted_p[chosen] + following[chosen]) / 2, DIGITS)
    return min(max(middle, 10.0**-DIGITS), 1.0)


def average_precision(probabilities: npt.NDArray[Any], truth: I64) -> float | None:
    """Return the area under the steps of precision over recall; None where no clip, or every clip, has the label.

    Clips with equal probabilities count together, so that their order has no effect.
    """
    positives = int(truth.sum())
    if not 0 < positives < len(truth):
        return None
    order = np.argsort(-probabilities, kind="stable")
    sorted_p, hits = probabilities[order], np.cumsum(truth[order])
    last = np.append(np.flatnonzero(np.diff(sorted_p)), len(order) - 1)  # the last clip of each run of equal values
    precision, recall = hits[last] / (last + 1), hits[last] / positives
    return float((np.diff(recall, prepend=0) * precision).sum())


def multi_label_table(result: dict[str, Any]) -> str:
    """Format the figures of `multi_label_scores` as text."""
    names = ("map", "macro_f1", "auc", "exact", "loss")
    lines = [f"{name}: {result[name]:.4f}" for name in names if result[name] is not None]
    shown = {label: printable(label) for label in result["per_class"]}
    width = max(5, *map(len, shown.values()))
    lines += [
        f"clips: {result['clips']}",
        "",
        f"{'label':{width}}  clips     AP      F1  recall  precision  threshold",
    ]
    for label, row in result["per_class"].items():
        cells = [_cell(row[name], ".1%") for name in ("average_precision", "f1", "recall", "precision")]
        lines.append(
            f"{shown[label]:{width}}  {row['clips']:5}  {cells[0]:>5}  {cells[1]:>6}  {cells[2]:>6}  {cells[3]:>9}  "
            f"{_cell(row['threshold'], 'g'):>9}"
        )
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _label_scores(probabilities: F32, truth: I64, predicted: npt.NDArray[np.bool_]) -> dict[str, Any]:
    positives, found = int(truth.sum()), int(predicted.sum())
    hits = int((predicted & (truth > 0)).sum())
    return {
        "clips": positives,
        "average_precision": average_precision(probabilities, truth),
        "auc": _auc(probabilities, truth),
        "f1": 2 * hits / (positives + found) if positives + found else None,
        "recall": hits / positives if positives else None,
        "precision": hits / found if found else None,
    }


def _auc(probabilities: F32, truth: I64) -> float | None:
    """Return the share of pairs in which the clip with the label has the higher probability; ties count half."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks: F64 = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[truth > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

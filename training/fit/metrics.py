"""Compute the figures that `evaluate` prints and by which the best checkpoint is chosen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import multiclass_auroc

from engines.arrays import F32, I64
from engines.printable import printable
from training.fit.multi_label_metrics import multi_label_table


def scores(probabilities: F32, truth: I64, labels: Sequence[str]) -> dict[str, Any]:
    """Compute all figures of N clips from `probabilities` (N, K), whose rows sum to 1, and the classes `truth` (N,).

    Balanced accuracy and AUC (one class against the rest) are means over the classes that occur. `loss` is the mean
    negative logarithm of the correct class's probability. Rows of `confusion` are the true classes.
    """
    classes = len(labels)
    matrix = np.zeros((classes, classes), np.int64)
    predicted = probabilities.argmax(axis=1)
    np.add.at(matrix, (truth, predicted), 1)
    correct = probabilities[np.arange(len(truth)), truth]
    better = (probabilities > correct[:, None]).sum(axis=1)
    support, predictions = matrix.sum(axis=1), matrix.sum(axis=0)
    hits = matrix.diagonal()
    recall = hits / support.clip(min=1)
    precision = hits / predictions.clip(min=1)
    auc = class_auc(probabilities, truth, classes)
    return {
        "clips": len(truth),
        "top1": float((predicted == truth).mean()),
        "top5": float((better < 5).mean()),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "auc": None if np.isnan(auc).all() else float(np.nanmean(auc)),
        "loss": float(-np.log(correct.clip(min=1e-12)).mean()),
        "per_class": {
            label: {
                "clips": int(support[i]),
                "recall": float(recall[i]) if support[i] else None,
                "precision": float(precision[i]) if predictions[i] else None,
                "auc": None if np.isnan(auc[i]) else float(auc[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": matrix.tolist(),
    }


def class_auc(probabilities: F32, truth: I64, classes: int) -> npt.NDArray[np.float64]:
    """Return (K,) areas under the ROC curves; NaN for a class that all clips or no clips belong to."""
    counts = np.bincount(truth, minlength=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about classes that do not occur; these become NaN below
        found = multiclass_auroc(
            torch.from_numpy(np.ascontiguousarray(probabilities)),
            torch.from_numpy(truth),
            num_classes=classes,
            average=None,
        )
    area = np.asarray(found, np.float64).copy()
    area[(counts == 0) | (counts == len(truth))] = np.nan
    return area


def table(result: dict[str, Any]) -> str:
    """Format the figures of `scores` or `multi_label_scores` as text."""
    if "map" in result:
        return multi_label_table(result)
    lines = [
        f"{name}: {result[name]:.4f}"
        for name in ("top1", "top5", "balanced_accuracy", "auc", "loss")
        if result[name] is not None
    ]
    shown = {label: printable(label) for label in result["per_class"]}
    width = max(map(len, shown.values()))
    lines += [f"clips: {result['clips']}", "", f"{'class':{width}}  clips  recall  precision    auc"]
    for label, row in result["per_class"].items():
        cells = [f"{row[name]:.1%}" if row[name] is not None else "-" for name in ("recall", "precision")]
        area = f"{row['auc']:.3f}" if row["auc"] is not None else "-"
        lines.append(f"{shown[label]:{width}}  {row['clips']:5}  {cells[0]:>6}  {cells[1]:>9}  {area:>5}")
    return "\n".join(lines)

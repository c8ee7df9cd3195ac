"""Figures equal the figures that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.fit.metrics import scores, table

LABELS = ("a", "b", "c", "d", "e", "f", "g")


def test_figures_of_four_clips_equal_the_hand_computed_ones() -> None:
    probabilities = np.zeros((4, 7), np.float32)
    probabilities[0, :2] = 0.6, 0.4  # a, correct
    probabilities[1, :2] = 0.7, 0.3  # b, predicted as a
    probabilities[2, :2] = 0.2, 0.8  # b, correct
    probabilities[3] = [0.3, 0.2, 0.15, 0.12, 0.11, 0.02, 0.1]  # f, seventh of seven
    result = scores(probabilities, np.array([0, 1, 1, 5]), LABELS)
    assert result["clips"] == 4
    assert result["top1"] == 0.5
    assert result["top5"] == 0.75
    assert result["balanced_accuracy"] == pytest.approx((1 + 0.5 + 0) / 3), "mean over the classes that occur"
    assert result["loss"] == pytest.approx(-np.log([0.6, 0.3, 0.8, 0.02]).mean(), abs=1e-6)
    assert result["per_class"]["b"] == {"clips": 2, "recall": 0.5, "precision": 1.0, "auc": pytest.approx(0.75)}
    assert result["per_class"]["a"]["precision"] == pytest.approx(1 / 3)
    assert result["per_class"]["g"] == {"clips": 0, "recall": None, "precision": None, "auc": None}
    assert [sum(row) for row in result["confusion"]] == [1, 2, 0, 0, 0, 1, 0]
    assert result["confusion"][1][0] == 1
    # a: 0.6 against 0.7, 0.2, 0.3; b: 0.3 and 0.8 against 0.4 and 0.2; f: 0.02 against three zeros
    assert result["auc"] == pytest.approx(np.mean([2 / 3, 0.75, 1.0]))
    text = table(result)
    assert "top1: 0.5000" in text
    assert text.splitlines()[-1].split() == ["g", "0", "-", "-", "-"]


def test_single_class_has_no_auc() -> None:
    result = scores(np.array([[0.9, 0.1]], np.float32), np.array([0]), ("a", "b"))
    assert result["auc"] is None
    assert "auc:" not in table(result)

"""The figures of independent labels equal those of scikit-learn, and thresholds have the highest F1."""

from __future__ import annotations

import numpy as np
import pytest

from training.fit.metrics import table
from training.fit.multi_label_metrics import average_precision, choose_threshold, multi_label_scores

LABELS = ("a", "b", "never", "always")


def example(clips: int = 60, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 4) probabilities with ties, and (N, 4) labels that they partly follow."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((clips, 4)) < (0.4, 0.1, 0, 1)).astype(np.int64)
    probabilities = (0.4 * truth + rng.random((clips, 4)) * 0.6).round(1 if seed == 2 else 3)
    return probabilities.astype(np.float32), truth


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    probabilities, truth = example(seed=seed)
    thresholds = {"a": 0.45, "b": 0.55, "always": 0.1}
    result = multi_label_scores(probabilities, truth, LABELS, thresholds)
    limits = np.array([0.45, 0.55, 0.5, 0.1], np.float32)
    predicted = (probabilities >= limits).astype(int)
    for i, label in enumerate(LABELS[:2]):
        row = result["per_class"][label]
        assert row["average_precision"] == pytest.approx(
            metrics.average_precision_score(truth[:, i], probabilities[:, i])
        )
        assert row["auc"] == pytest.approx(metrics.roc_auc_score(truth[:, i], probabilities[:, i]))
        assert row["f1"] == pytest.approx(metrics.f1_score(truth[:, i], predicted[:, i]))
        assert row["recall"] == pytest.approx(metrics.recall_score(truth[:, i], predicted[:, i]))
    assert result["map"] == pytest.approx(
        metrics.average_precision_score(truth[:, :2], probabilities[:, :2], average="macro")
    )
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(truth[:, :2], predicted[:, :2], average="macro"))
    assert result["exact"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    expected = [
        metrics.log_loss(truth[:, i], probabilities[:, i].clip(1e-12, 1 - 1e-7), labels=[0, 1]) for i in range(4)
    ]
    assert result["loss"] == pytest.approx(np.mean(expected), rel=1e-3)
    for label in ("never", "always"):
        assert result["per_class"][label]["average_precision"] is None
        assert result["per_class"][label]["auc"] is None


@pytest.mark.parametrize("seed", range(6))
def test_no_other_threshold_has_a_higher_f1(seed: int) -> None:
    probabilities, truth = example(seed=seed)
    for i in (0, 1):
        chosen = choose_threshold(probabilities[:, i], truth[:, i])
        assert chosen is not None

        def f1(limit: float, i: int = i) -> float:
            found = probabilities[:, i] >= np.float32(limit)
            return float(2 * (found & (truth[:, i] > 0)).sum() / (found.sum() + truth[:, i].sum()))

        assert f1(chosen) == pytest.approx(max(f1(limit) for limit in np.linspace(0.0005, 1, 2000)))


def test_a_threshold_lies_in_the_middle_of_the_widest_gap() -> None:
    truth = np.array([1, 1, 0, 0])
    assert choose_threshold(np.array([0.9, 0.8, 0.2, 0.1], np.float32), truth) == 0.5
    assert choose_threshold(np.array([0.9, 0.9, 0.9, 0.9], np.float32), truth) == 0.45, "all clips get the label"
    assert choose_threshold(np.array([1e-6, 1e-6, 0, 0], np.float32), truth) == 1e-4
    assert choose_threshold(np.array([0.9, 0.8, 0.2, 0.1], np.float32), np.ones(4, np.int64)) is None
    assert choose_threshold(np.array([0.9, 0.8, 0.2, 0.1], np.float32), np.zeros(4, np.int64)) is None


def test_equal_probabilities_count_together() -> None:
    """The order of clips with equal probabilities must not change the average precision."""
    probabilities, truth = np.full(6, 0.5, np.float32), np.array([1, 1, 0, 0, 0, 0])
    assert (
        average_precision(probabilities, truth) == average_precision(probabilities, truth[::-1]) == pytest.approx(1 / 3)
    )


def test_means_of_no_label_are_unknown() -> None:
    result = multi_label_scores(np.full((3, 2), 0.4, np.float32), np.zeros((3, 2), np.int64), ("a", "b"), {})
    assert (result["map"], result["macro_f1"], result["auc"], result["exact"]) == (None, None, None, 1.0)
    assert "map" not in table(result)


def test_the_table_names_labels_and_thresholds() -> None:
    probabilities, truth = example()
    text = table(multi_label_scores(probabilities, truth, ("a\x1b", "b", "never", "always")))
    assert "map: " in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert float(lines["a\\x1b"][-1]) > 0
    assert lines["never"][-1] == lines["always"][-1] == "-"
    assert lines["never"][1] == "0"

"""The taught head: its summaries over time, the choice by grouped cross-validation, and its linear form."""

from __future__ import annotations

import numpy as np
import pytest

from streamclf.teach import head as head_module
from streamclf.teach.head import fit_head
from streamclf.teach.pooling import PooledPart, pool_parts

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

PARTS = {"noise": 12, "signal": 3}


def _windows(labels: np.ndarray, *, seed: int, chunks: int = 6) -> np.ndarray:
    """Make windows whose part `signal` rises for label 1 and falls for label 0, with the same mean and maximum."""
    rng = np.random.default_rng(seed)
    windows = rng.normal(size=(len(labels), chunks, 15)).astype(np.float32)
    ramp = np.linspace(-2, 2, chunks)
    windows[:, :, 12:] = np.where(labels[:, None] == 1, ramp, -ramp)[:, :, None] + 0.3 * windows[:, :, 12:]
    return windows


def test_direction_in_time_is_learned_and_the_informative_part_chosen() -> None:
    labels = np.arange(24) % 2
    fitted = fit_head(_windows(labels, seed=1), labels, np.arange(24), PARTS, seed=0)
    assert fitted.chosen[0].parts == ("signal",)
    assert fitted.chosen[0].balanced_accuracy is not None
    assert fitted.chosen[0].balanced_accuracy > 0.95
    new = np.arange(40) % 2
    assert (fitted.logits(_windows(new, seed=2)).argmax(axis=1) == new).mean() > 0.95


def test_logits_are_the_described_product() -> None:
    labels = np.arange(18) % 3
    windows = _windows(labels % 2, seed=3)
    fitted = fit_head(windows, labels, np.arange(18) // 3, PARTS, seed=0)
    pooled = pool_parts(windows, fitted.parts)
    assert fitted.weight.shape == (pooled.shape[1], 3)
    np.testing.assert_allclose(fitted.logits(windows), pooled @ fitted.weight + fitted.bias, rtol=1e-5, atol=1e-5)


def test_windows_of_a_group_are_never_on_both_sides() -> None:
    """Each group has its own constant, so a head that sees a group's other windows knows their random label."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(20), 5)
    labels = np.repeat(np.arange(20) % 2, 5)
    windows = np.repeat(rng.normal(size=(20, 1, 40)), 5, axis=0) + 0.01 * rng.normal(size=(100, 4, 40))
    fitted = fit_head(windows.astype(np.float32), labels, groups, {"all": 40}, seed=0)
    assert fitted.chosen[0].balanced_accuracy is not None
    assert fitted.chosen[0].balanced_accuracy < 0.85


def test_one_group_a_label_is_fitted_without_figures() -> None:
    labels = np.repeat([0, 1], 4)
    fitted = fit_head(_windows(labels, seed=5), labels, labels, PARTS, seed=0)
    assert fitted.chosen[0].balanced_accuracy is None
    assert np.isfinite(fitted.logits(_windows(labels, seed=6))).all()


def test_parts_must_describe_the_feature() -> None:
    with pytest.raises(ValueError, match="sum to 14, the feature has 15"):
        fit_head(_windows(np.arange(4) % 2, seed=7), np.arange(4) % 2, np.arange(4), {"a": 14}, seed=0)


@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
def test_thirds_of_a_window_of_any_length(chunks: int) -> None:
    part = PooledPart(name="a", start=0, stop=2, chunks=chunks, poolings=("mean", "change", "bend", "thirds", "peak"))
    windows = np.arange(chunks * 2, dtype=np.float32).reshape(1, chunks, 2)
    pooled = part.pool(windows)[0].reshape(-1, 2)
    assert len(pooled) == 7
    np.testing.assert_allclose(pooled[0], windows[0].mean(axis=0))
    np.testing.assert_allclose(pooled[1], pooled[5] - pooled[3], atol=1e-5)
    np.testing.assert_allclose(pooled[2], pooled[4] - (pooled[3] + pooled[5]) / 2, atol=1e-5)
    np.testing.assert_allclose(pooled[6], windows[0].max(axis=0))
    np.testing.assert_allclose(part.time_weights.sum(axis=1), [1, 0, 0, 1, 1, 1], atol=1e-6)


def test_a_head_of_averaged_choices_computes_their_mean() -> None:
    """The merged weights equal the mean of the chosen heads, each fitted alone."""
    labels = np.arange(30) % 3
    windows = _windows(labels % 2, seed=8)
    windows[:, :, :3] += labels[:, None, None]
    whole = head_module.fit_head(windows, labels, np.arange(30), PARTS, seed=0)
    blocks = head_module._Blocks(windows, PARTS)
    splits = head_module._folds(labels.astype(np.int64), np.arange(30), 0)
    trials = [
        head_module._Trial.of(blocks, one.parts, one.pooling, labels.astype(np.int64), 3, splits)
        for one in whole.chosen
    ]
    assert len({(one.parts, one.pooling) for one in whole.chosen}) == head_module.AVERAGED
    alone = []
    for trial in trials:
        parts, weight, bias = head_module._merge(blocks, [trial], labels.astype(np.int64), 3, 1.0)
        alone.append(pool_parts(windows, parts) @ weight + bias)
    mean = np.mean(alone, axis=0)
    merged = whole.logits(windows)
    ratio = (merged * mean).sum() / (mean * mean).sum()
    np.testing.assert_allclose(merged, ratio * mean, rtol=1e-3, atol=1e-3)


def test_more_windows_than_the_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "MAX_BASIS", 20)
    labels = np.arange(90) % 2
    fitted = fit_head(_windows(labels, seed=9), labels, np.arange(90), PARTS, seed=0)
    new = np.arange(40) % 2
    assert (fitted.logits(_windows(new, seed=10)).argmax(axis=1) == new).mean() > 0.95


def test_logits_are_calibrated() -> None:
    """Where half of the labels are wrong, the head must not be sure of its answers."""
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 2, 80)
    fitted = fit_head(rng.normal(size=(80, 4, 15)).astype(np.float32), labels, np.arange(80), PARTS, seed=0)
    logits = fitted.logits(rng.normal(size=(200, 4, 15)).astype(np.float32))
    sure = 1 / (1 + np.exp(-np.abs(logits[:, 1] - logits[:, 0])))
    assert np.median(sure) < 0.75


def test_a_part_that_never_changes_in_the_examples_adds_no_noise() -> None:
    labels = np.arange(24) % 2
    windows = _windows(labels, seed=12)
    windows[:, :, :12] = 3.1 + 1e-6 * windows[:, :, :12]
    fitted = fit_head(windows, labels, np.arange(24), PARTS, seed=0)
    changed = windows.copy()
    changed[:, :, :12] += 1e-3
    assert np.abs(fitted.logits(changed) - fitted.logits(windows)).max() < 0.1 * np.ptp(fitted.logits(windows))

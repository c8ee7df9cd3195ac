"""Intervals are those of Clopper and Pearson, and of Garwood."""

from __future__ import annotations

import pytest

from training.evaluation.intervals import count_interval, share_interval


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 0, 0, 1), (0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (32, 33, 0.8424, 0.9992), (500, 900, 0.5224, 0.5883)],
)
def test_shares(hits: int, trials: int, low: float, high: float) -> None:
    assert share_interval(hits, trials) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0, 3.689), (1, 0.0253, 5.572), (300, 267.009, 335.941)])
def test_counts(count: int, low: float, high: float) -> None:
    assert count_interval(count) == pytest.approx((low, high), abs=1e-3)

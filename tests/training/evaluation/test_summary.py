"""The summary counts the parameters and FLOPs of the model that a recipe builds."""

from __future__ import annotations

from training.evaluation.summary import summarise
from training.recipe import Recipe


def test_summary_counts_parameters_and_flops(tiny: Recipe) -> None:
    summary = summarise(tiny)
    assert summary["parameters"] == summary["encoder_parameters"] + summary["head_parameters"]
    assert summary["window_flops"] == summary["encoder_flops"] * tiny.model.chunks + summary["head_flops"]
    assert summary["whole_window_flops"] > summary["served_flops"]
    assert 0 < summary["served_flops"] < summary["encoder_flops"] + summary["head_flops"]
    assert (summary["patches"], summary["input"], summary["feature"]) == (6, [2, 32, 48, 3], [16])
    assert summary["labels_known"] is True
    d, positions, hidden = 16, 7, 32
    layer = positions * (4 * d * d + 2 * d * hidden) + 2 * positions**2 * d
    stem = (8 * 12) * 8 * (6 * 4 * 4) + (2 * 3) * d * (8 * 4 * 4)
    assert summary["encoder_flops"] == stem + 2 * layer

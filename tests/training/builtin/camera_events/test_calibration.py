"""Calibration uses the tuning half alone, corrects a label that is predicted too rarely, and keeps false alarms few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.builtin.camera_events import LABELS
from training.builtin.camera_events.calibration import choose_biases, with_biases
from training.builtin.camera_events.figures import CasePrediction, as_text, compute_figures
from training.errors import DataError


def prediction(label: str, scores: dict[str, float], *, half: str = "tuning") -> CasePrediction:
    """Return a case of `label` whose logits are 0 but for `scores`."""
    logits = np.array([scores.get(name, 0.0) for name in LABELS], np.float32)
    return CasePrediction(
        film="f.mp4",
        source="clips",
        half=half,
        label=label,
        strength="" if label in ("normal", "cut") else "weak",
        detail="lying still" if label == "covered" else "",
        predicted=LABELS[int(logits.argmax())],
        log_probabilities=logits,
    )


MISSED = [prediction("covered", {"normal": 3.0, "covered": 2.4}), prediction("normal", {"normal": 3.0})]


def test_a_label_that_loses_narrowly_gains_a_bias_and_then_wins() -> None:
    biases = choose_biases(MISSED)
    assert set(biases) == {"covered"}
    assert biases["covered"] > 0.6
    assert [each.predicted for each in with_biases(MISSED, biases)] == ["covered", "normal"]


def test_a_bias_that_would_raise_false_alarms_is_not_chosen() -> None:
    close = [prediction("normal", {"normal": 3.0, "covered": 2.5}) for _ in range(10)]
    assert choose_biases([*MISSED, *close]) == {}


def test_the_held_out_half_does_not_choose() -> None:
    held_out = [prediction("noise", {"normal": 3.0, "noise": 2.5}, half="held-out") for _ in range(10)]
    assert "noise" not in choose_biases([*MISSED, *held_out])
    with pytest.raises(DataError, match="tuning half"):
        choose_biases(held_out)


def test_figures_keep_covers_that_lie_still_apart() -> None:
    figures = compute_figures([*MISSED, prediction("covered", {"covered": 3.0}, half="held-out")])
    assert figures["tuning"]["recall_by_detail"] == {"covered lying still": 0.0}
    assert figures["held-out"]["recall_by_detail"] == {"covered lying still": 1.0}


def test_windows_with_a_cut_choose_no_bias_and_are_counted_apart() -> None:
    cuts = [prediction("cut", {"moved": 1.0}, half="held-out"), prediction("cut", {"covered": 1.0}, half="held-out")]
    others = [*MISSED, prediction("normal", {"normal": 1.0}, half="held-out")]
    assert choose_biases([*others, *[replace(each, half="tuning") for each in cuts]]) == choose_biases(others)
    figures = compute_figures([*others, *cuts])
    assert figures["cuts"] == {"held-out": {"covered": 0.5, "moved": 0.5}, "tuning": {}}
    assert figures["held-out"]["windows"] == 1
    assert figures["with films whose camera is not fixed"]["windows"] == 3
    assert "windows with a cut to another film, held-out: covered 50.0%, moved 50.0%" in as_text(figures)

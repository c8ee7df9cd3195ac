from __future__ import annotations

import numpy as np
import pytest
from support.teaching import make_items

from streamclf.teach.examples import Example
from streamclf.teach.figures import compute_figures
from streamclf.teach.held_out import TeachingData, measure_held_out
from streamclf.teach.taught_head import calibrate, choose_thresholds, combine, output_labels, probabilities_of

pytest.importorskip("sklearn")


def make_data(*, separation: float, groups: int = 12, clips_each: int = 2, windows_each: int = 2) -> TeachingData:
    """Make two labels of random groups: windows of one group are almost equal, as those of one film are."""
    random = np.random.default_rng(5)
    label_of_group = np.arange(groups) % 2
    group = np.repeat(np.arange(groups), clips_each * windows_each)
    centres = random.normal(size=(groups, 3, 20)) + separation * label_of_group[:, None, None]
    windows = centres[group] + 0.01 * random.normal(size=(len(group), 3, 20))
    return TeachingData(
        windows=windows.astype(np.float32),
        labels=label_of_group[group].astype(np.int64),
        clips=np.repeat(np.arange(groups * clips_each), windows_each).astype(np.int32),
        groups=group.astype(np.int32),
        names=("a", "b"),
        parts={"feature": 20},
    )


def figures_of(data: TeachingData) -> tuple[float, tuple[float, float], float | None]:
    held_out = measure_held_out(data, seed=0, on_fold=lambda share: None)
    calibration = calibrate(data, held_out, wants_none=False)
    labels = output_labels(data, calibration, "none")
    probabilities = probabilities_of(combine(held_out.logits, held_out.scores, None, calibration))
    items: list[Example] = make_items(data)
    thresholds = choose_thresholds(data, probabilities)
    figures = compute_figures(data, items, probabilities, labels, thresholds, seed=0)
    return figures.balanced_accuracy, figures.interval, figures.alike[0].accuracy if figures.alike else None


def test_films_of_one_group_are_never_on_both_sides() -> None:
    accuracy, interval, told = figures_of(make_data(separation=0.0))
    assert accuracy < 0.8, "the labels cannot be told from each other; only a divided group would give them away"
    assert interval[0] < 0.5
    assert told is not None


def test_labels_that_differ_are_told() -> None:
    accuracy, interval, told = figures_of(make_data(separation=3.0))
    assert accuracy == 1
    assert 0.6 < interval[0] < 1
    assert interval[1] == 1
    assert told is None


def test_thresholds_lie_between_the_labels() -> None:
    data = make_data(separation=3.0)
    scores = np.where(data.labels == 0, 0.9, 0.2)
    thresholds = choose_thresholds(data, np.stack([scores, 1 - scores], axis=1))
    assert thresholds["a"] == pytest.approx(0.7, abs=0.02), "the middle of 0.5, the lowest threshold, and 0.9"
    assert 0.5 <= thresholds["b"] <= 0.8

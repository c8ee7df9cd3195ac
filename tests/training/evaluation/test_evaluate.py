"""A run and its bundle have the same figures, on validation clips and on clips that training never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.labelled import CLASSES, write_list, write_set

from engines.bundle import load_bundle
from training.errors import DataError, RunError
from training.evaluation.evaluate import evaluate_on, evaluate_run
from training.export.bundle import export_run


def test_run_is_evaluated_on_its_validation_clips(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert evaluate_run(run)["confusion"] == metrics["confusion"]


def test_bundle_and_run_have_the_same_figures_on_unseen_clips(run: Path, films: Path, tmp_path: Path) -> None:
    bundle = export_run(run, tmp_path / "bundle")
    spec = load_bundle(bundle.path).spec
    assert (spec.labels, spec.resize, spec.whole_clips) == (CLASSES, "stretch", "windows")
    assert spec.metrics["clips"] == 6
    unseen = write_set(tmp_path / "unseen", clips=0, validation=2, frames=15)
    by_run = evaluate_on(run, unseen)
    by_bundle = evaluate_on(bundle.path, unseen, windows=0)
    assert by_run["clips"] == by_bundle["clips"] == 6
    assert by_run["confusion"] == evaluate_on(bundle.path, unseen)["confusion"]
    assert by_run["loss"] == pytest.approx(evaluate_on(bundle.path, unseen)["loss"], abs=1e-4)
    assert by_bundle["loss"] == pytest.approx(evaluate_on(run, unseen, windows=0)["loss"], abs=1e-4)
    card = (bundle.path / "README.md").read_text()
    assert "| left | 2 |" in card
    assert "rendered shapes, no real person" in card
    golden = bundle.golden().frames
    for path in (films / "cache").glob("*.npy"):
        assert not any(np.array_equal(golden[0, 0], frame) for frame in np.load(path)[:, :32, :48])


def test_unknown_label_is_named(run: Path, films: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "other.csv", [(films / "left/left_0.mp4", "jump", "", "")])
    with pytest.raises(DataError, match=r"has no label 'jump' \(it has left, right, still\)"):
        evaluate_on(run, path)


def test_folder_without_run_or_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a bundle"):
        evaluate_on(tmp_path, tmp_path / "clips.csv")

"""A run and its bundle have the same figures, on validation clips and on clips that training never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.labelled import CLASSES, write_list, write_set

from engines.bundle import load_bundle
from engines.opening import open_engine
from streamclf.classifier.offline import classify_file
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.render.film_writer import FilmWriter
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


@pytest.mark.parametrize(
    "fields", [{}, {"short_clips": "loop"}, {"whole_clips": "stretch"}], ids=["hold", "loop", "stretch"]
)
def test_classify_gives_a_short_clip_the_figures_of_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    """The clip becomes brighter, so that it matters which of its frames fill the window."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    bundle = make_brightness_bundle(tmp_path / "model", **fields)
    clip = tmp_path / "clips" / "bright" / "a.mp4"
    clip.parent.mkdir(parents=True)
    with FilmWriter(clip) as film:
        for i in range(10):
            film.write(np.full((64, 64, 3), 20 * i, np.uint8), i / 25)
    expected = []
    evaluate_on(bundle.path, tmp_path / "clips", on_clip=lambda found, labels: expected.append(found.probabilities))
    slots = offline_bank_slots(bundle.spec, 4)
    engine = open_engine(bundle, backend="auto", precision="fp32", max_batch=4, bank_slots=slots)
    try:
        result = classify_file(engine, clip)
    finally:
        engine.close()
    assert result.short_clip == next(iter(fields.values()), "hold")
    (window,) = result.windows
    assert window.probabilities == pytest.approx(expected[0], abs=1e-6)
    means = {"hold": 103, "loop": 70, "stretch": 90}
    logit = np.log(window.probabilities[1] / window.probabilities[0]) / 0.1 + 128
    assert logit == pytest.approx(means[result.short_clip], abs=6)

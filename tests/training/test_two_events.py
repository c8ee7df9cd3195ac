"""A model whose labels are independent is trained, exported, evaluated, and serves both labels at once."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from support.clip_recipes import clip_recipe
from support.labelled import write_film
from support.two_events import COMBINATIONS, EVENTS, draw_events, write_events

import streamclf
from engines.bundle import load_bundle
from streamclf.classifier.action_tracker import ActionTracker
from streamclf.cli import _main
from streamclf.config.actions import ActionConfig, StreamActions
from training.evaluation.evaluate import evaluate_on, evaluate_run
from training.evaluation.report import run_evaluate
from training.export.bundle import export_run
from training.export.int8_windows import write_windows
from training.fit.train import train
from training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def recipe_of(folder: Path, **sections: object) -> Recipe:
    data = {"multi_label": True, "find_duplicates": False}
    augment = {"flip": True, "flip_labels": {}, "mixup": 0.1}
    return clip_recipe(folder, **{"data": data, "augment": augment, **sections})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    write_events(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "events"
    optimiser = {"learning_rate": 3e-3, "warmup_steps": 5, "steps": 120, "batch": 16}
    train(recipe_of(folder, optimiser=optimiser, validate_every=60, loss={"label_smoothing": 0}), path)
    return path


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run, tmp_path_factory.mktemp("bundle") / "two-events").path


def test_the_run_learns_both_labels_and_chooses_their_thresholds(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["clips"] == 12
    assert metrics["map"] > 0.9
    assert metrics["macro_f1"] > 0.9
    assert {label: row["clips"] for label, row in metrics["per_class"].items()} == {"lamp": 6, "walker": 6}
    assert all(0 < row["threshold"] < 1 for row in metrics["per_class"].values())
    assert [row["step"] for row in json.loads((run / "history.json").read_text())] == [60, 120]
    assert evaluate_run(run) == {key: value for key, value in metrics.items() if key != "step"}


def test_the_bundle_has_activation_and_thresholds_and_the_card_says_so(run: Path, bundle: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    spec = load_bundle(bundle).spec
    assert (spec.activation, spec.labels) == ("sigmoid", EVENTS)
    assert spec.thresholds == {label: metrics["per_class"][label]["threshold"] for label in EVENTS}
    assert spec.metrics["map"] == pytest.approx(metrics["map"], abs=1e-5)
    card = (bundle / "README.md").read_text()
    assert "Any of: `lamp`, `walker`." in card
    assert "| label | clips | average precision | F1 | recall | precision | threshold |" in card
    assert "truth \\ predicted" not in card


def test_thresholds_stay_as_they_are_on_the_test_split(run: Path, bundle: Path, folder: Path, tmp_path: Path) -> None:
    """They come from the validation clips, also where other thresholds would fit the test clips better."""
    by_run = evaluate_on(run, folder / "clips.csv", split="test")
    by_bundle = evaluate_on(bundle, folder / "clips.csv", split="test")
    chosen = load_bundle(bundle).spec.thresholds
    for result in (by_run, by_bundle):
        assert result["clips"] == 8
        assert {label: row["threshold"] for label, row in result["per_class"].items()} == chosen
    assert by_bundle["map"] > 0.9
    assert by_bundle["loss"] == pytest.approx(by_run["loss"], abs=1e-4)
    result = run_evaluate(
        bundle, folder, split="test", windows=None, backend="auto", precision="fp32", output=tmp_path / "report"
    )
    page = (tmp_path / "report/index.html").read_text()
    assert "threshold" in page
    assert "true: <b>lamp + walker</b>" in page
    assert "true: <b>no label</b>" in page
    assert not (tmp_path / "report/confusion.png").exists()
    assert result["exact"] == by_bundle["exact"]


def test_both_labels_are_served_at_once(bundle: Path, tmp_path: Path) -> None:
    """A film in which first one event, then both and then the other one happen; live actions start from it."""
    parts = [draw_events(events, 7, frames=24) for events in (("lamp",), ("lamp", "walker"), ("walker",))]
    film = write_film(tmp_path / "film.mp4", np.concatenate(parts))
    windows = list(streamclf.classify(film, model=bundle))
    inside = [window.present for window in windows if window.start_s >= 2.4 and window.end_s <= 4.8]
    assert inside
    assert {frozenset(labels) for labels in inside} == {frozenset(EVENTS)}
    spec = load_bundle(bundle).spec
    actions = StreamActions(labels={label: ActionConfig(min_s=0.2, smooth_s=0) for label in EVENTS})
    tracker = ActionTracker.of(actions.with_thresholds(spec.thresholds))
    running: set[str] = set()
    at_once = False
    for window in windows:
        for change in tracker.update(window.probabilities, window.start_s, window.end_s, 0):
            running.add(change.label) if change.phase == "start" else None
            running.discard(change.label) if change.phase == "end" else None
        at_once = at_once or running == set(EVENTS)
    assert at_once
    assert running == {"walker"}


def test_classify_compares_with_several_true_labels(bundle: Path, folder: Path, tmp_path: Path) -> None:
    table, report = tmp_path / "t.csv", tmp_path / "r.html"
    films = [str(folder / f"{'-'.join(events) or 'nothing'}_9.mp4") for events in COMBINATIONS]
    arguments = ["--model", str(bundle), "--labels", str(folder / "clips.csv"), "--csv", str(table)]
    assert _main(["classify", *films, *arguments, "--report", str(report)]) == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    both = [row for row in rows if "lamp-walker" in row["file"]]
    assert {row["label"] for row in both} == set(EVENTS)
    assert {row["true_label"] for row in both} == {"lamp;walker"}
    assert "macro F1" in report.read_text()


def test_int8_keeps_the_labels(bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Windows for calibration have several labels, and `compile` compares the labels that are present."""
    windows = tmp_path / "windows.npz"
    written = write_windows(bundle, folder / "clips.csv", windows, split="val", count=24)
    with np.load(windows) as npz:
        assert npz["labels"].shape == (written["windows"], 2)
        assert {tuple(row) for row in npz["labels"].tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    options = ["--precision", "int8", "--calibration", str(windows), "--validation", str(windows), "--json"]
    assert _main(["compile", str(bundle), *options, "-o", str(tmp_path / "int8")]) == 0
    against = json.loads(capsys.readouterr().out)["against_fp32"]
    assert against["same_label"] > 0.8
    assert against["accuracy_fp32"] > 0.8
    assert load_bundle(tmp_path / "int8").spec.thresholds == load_bundle(bundle).spec.thresholds

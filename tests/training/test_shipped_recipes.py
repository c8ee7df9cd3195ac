"""The shipped recipes run from end to end on small synthetic data in the formats of the real sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.labelled import draw_clip, write_film, write_list, write_volumes
from support.repository import ROOT
from typer.testing import CliRunner

from engines.bundle import load_bundle
from training.__main__ import app
from training.recipe import load_recipe

RECIPES = ROOT / "configs/train"
ACTIONS = ("CricketShot", "PlayingCello", "Punch", "ShavingBeard", "TennisSwing")
SHORT = ["optimiser.steps=2", "validate_every=2", "optimiser.warmup_steps=1", "threads=1", "accelerator=cpu"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def run_command(*arguments: str) -> str:
    """Run a command of `python -m training` and return its output."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", ["organmnist3d-vivit", "organmnist3d-vivit-tutorial"])
def test_organs_run_from_training_to_bundle(name: str, tmp_path: Path) -> None:
    data = write_volumes(tmp_path / "organmnist3d.npz", each=1)
    run, bundle = str(tmp_path / "run"), tmp_path / "bundle"
    overrides = [*SHORT, f"data.path={data}", "optimiser.batch=4", "model.layers=1"]
    if name == "organmnist3d-vivit":
        overrides.append("model.temporal_layers=1")
    run_command("train", str(RECIPES / f"{name}.yaml"), *overrides, "--run", run)
    figures = json.loads(run_command("evaluate", run, "--data", str(data), "--split", "test", "--json"))
    assert figures["clips"] == 11
    assert figures["per_class"]["pancreas"]["clips"] == 1
    run_command("export", run, "-o", str(bundle))
    spec = load_bundle(bundle).spec
    assert len(spec.labels) == 11
    if name == "organmnist3d-vivit":  # the tutorial's run crops volumes, and a bundle cannot
        by_bundle = json.loads(run_command("evaluate", str(bundle), "--data", str(data), "--split", "test", "--json"))
        assert by_bundle["loss"] == pytest.approx(figures["loss"], abs=1e-3)
    assert spec.metrics["clips"] == 11


def test_organ_recipe_uses_every_voxel_and_never_mirrors() -> None:
    recipe = load_recipe(RECIPES / "organmnist3d-vivit.yaml")
    assert recipe.shape.window == 28
    assert (recipe.model.height % 7, recipe.model.width % 7) == (0, 0)
    assert not recipe.augment.flip
    tutorial = load_recipe(RECIPES / "organmnist3d-vivit-tutorial.yaml")
    assert 1 - tutorial.shape.window * tutorial.model.height * tutorial.model.width / 28**3 == pytest.approx(
        0.37, abs=0.01
    )


@pytest.mark.parametrize("backbone", [pytest.param("densenet121", marks=pytest.mark.slow), "test_efficientnet"])
def test_five_actions_run_with_a_frozen_backbone(backbone: str, tmp_path: Path) -> None:
    """DenseNet's export alone takes 20 s, so by default timm's small network for tests takes its place."""
    folder = tmp_path / "ucf101top5"
    for part, groups in (("train", (8, 9)), ("test", (1,))):
        rows = []
        for number, action in enumerate(ACTIONS):
            for group in groups:
                name = f"v_{action}_g{group:02}_c01.avi"
                clip = draw_clip(("left", "right", "still")[number % 3], 10 * number + group, frames=25)
                write_film(folder / part / name, clip, fps=25)
                rows.append((action, name))
        write_list(folder / f"{part}.csv", rows, "tag,video_name")
    run = str(tmp_path / "run")
    overrides = [
        *SHORT, f"data.path={folder}", f"data.cache={tmp_path / 'cache'}", "data.workers=1", "model.weights=null",
        f"model.backbone={backbone}",
        "model.height=32", "model.width=32", "optimiser.frozen_steps=2", "optimiser.batch=4", "windows.views=2",
    ]  # fmt: skip
    run_command("train", str(RECIPES / "ucf101top5-hybrid.yaml"), *overrides, "--run", run)
    notes = json.loads((tmp_path / "run" / "notes.json").read_text())
    assert any("10 of 10 clips are shorter than a window" in note for note in notes)
    figures = json.loads(run_command("evaluate", run, "--data", str(folder), "--split", "test", "--json"))
    assert figures["clips"] == figures["shorter_than_a_window"] == 5
    run_command("export", run, "-o", str(tmp_path / "bundle"))
    by_bundle = json.loads(
        run_command("evaluate", str(tmp_path / "bundle"), "--data", str(folder), "--split", "test", "--json")
    )
    assert by_bundle["loss"] == pytest.approx(figures["loss"], abs=1e-3)

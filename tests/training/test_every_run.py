"""Every command works on the run of every kind of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.clip_recipes import clip_recipe_tree
from support.model_kinds import KINDS
from typer.testing import CliRunner

from engines.bundle import load_bundle
from training.__main__ import app
from training.errors import RecipeError
from training.fit.run_folder import load_run
from training.models import KINDS as EVERY_KIND
from training.recipe import load_recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")

EXPORTED = {"vivit-small-stem", "hybrid", "hybrid-published", "motion"}
"""The kinds whose runs are exported here; tests/training/export/test_every_model.py exports the others' models."""
SMALLER = {"backbone": "test_efficientnet"}


def invoke(*arguments: str | Path) -> str:
    """Run one command of `python -m training`, and return what it prints on stdout."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def tree_of(kind: str, films: Path, **sections: Any) -> dict[str, Any]:
    """Return a recipe of two steps for a model of `tests/support/model_kinds.py`."""
    tree = clip_recipe_tree(films, name=kind, keep="last", optimiser={"steps": 2, "warmup_steps": 0}, **sections)
    tree["model"] = KINDS[kind] | (SMALLER if "backbone" in KINDS[kind] else {})
    return tree


def test_every_kind_of_model_is_covered() -> None:
    assert {settings["kind"] for settings in KINDS.values()} == set(EVERY_KIND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_resumed_evaluated_summarised_and_exported(kind: str, films: Path, tmp_path: Path) -> None:
    """The run's folder holds the recipe with every key; each command parses it again."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(tree_of(kind, films)))
    invoke("train", recipe, "--run", run)
    weights = load_file(run / "model.safetensors")
    resumed = json.loads(invoke("train", run / "recipe.yaml", "--run", run, "--json"))
    again = load_file(run / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights), "a finished run was trained again"
    evaluated = json.loads(invoke("evaluate", run, "--json"))
    assert evaluated["loss"] == pytest.approx(resumed["loss"], abs=1e-5)
    summary = json.loads(invoke("summary", run, "--json"))
    assert summary == json.loads(invoke("summary", recipe, "--json"))
    without_data = ["data.labels=[]", "data.path=null"]
    assert json.loads(invoke("summary", run, *without_data, "--json")) == summary, "the run names its classes"
    _, model = load_run(run)
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    # A second run starts from the first one's weights.
    tree = {**tree_of(kind, films), "start_from": str(run)}
    recipe.write_text(yaml.safe_dump(tree))
    invoke("train", recipe, "optimiser.steps=1", "validate_every=1", "--run", tmp_path / "second")
    if kind not in EXPORTED:
        return
    invoke("export", run, "-o", tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.spec.name == kind
    data = films / "clips.csv"
    served = json.loads(invoke("evaluate", bundle.path, "--data", data, "--backend", "onnxruntime", "--json"))
    assert served["clips"] == 18


def test_the_published_head_keeps_its_parameters_when_its_recipe_is_read_again(tmp_path: Path) -> None:
    """The recipe of a run has every key, among them those that only the other head uses."""
    model = {"kind": "hybrid", "head": "published", "height": 128, "width": 128, "chunks": 20}
    labels = [f"class {number}" for number in range(5)]
    sections = {
        "name": "published",
        "fps": 10,
        "model": model,
        "data": {"kind": "clips", "path": "clips.csv", "labels": labels},
    }
    written = tmp_path / "recipe.yaml"
    written.write_text(
        yaml.safe_dump({**sections, "optimiser": {"learning_rate": 1e-3, "warmup_steps": 0, "steps": 1, "batch": 2}})
    )
    recipe = load_recipe(written)
    written.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(written) == recipe
    assert json.loads(invoke("summary", tmp_path, "--json"))["head_parameters"] == 4_237_321
    with pytest.raises(RecipeError, match=r"model\.dim.*head published has fixed sizes|dim: head published has fixed"):
        load_recipe(written, ["model.dim=128"])

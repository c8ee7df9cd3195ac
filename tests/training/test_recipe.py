"""A recipe's mistakes are told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.repository import ROOT
from typer.testing import CliRunner

from training.__main__ import app
from training.errors import RecipeError
from training.recipe import load_recipe

SHIPPED = ROOT / "configs/train/camera-events.yaml"


def test_the_shipped_recipe_is_valid_and_under_four_megabytes():
    result = CliRunner().invoke(app, ["summary", str(SHIPPED), "--json"])
    assert result.exit_code == 0, result.output
    summary = yaml.safe_load(result.stdout)
    assert summary["megabytes_fp32"] < 4
    assert summary["window_s"] <= 1.6


def test_overrides_reach_their_key():
    recipe = load_recipe(SHIPPED, ["optimiser.steps=7", "data.cache=/tmp/x"])
    assert (recipe.optimiser.steps, recipe.data.cache) == (7, Path("/tmp/x"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimiser.step=7", "optimiser.step=7: unknown key"),
        ("optimiser.steps=many", "optimiser.steps='many'"),
        ("model.chunks=0", "model.chunks=0"),
        ("data.frames=4", "a window has 16 frames"),
        ("processes=3", "multiple of processes=3"),
        ("steps", "key=value"),
        ("name.first=x", "name is a value, not a section"),
    ],
)
def test_a_wrong_override_is_named(override, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(SHIPPED, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"), [("- a\n", "a mapping"), ("a: [", "not YAML"), ("{}", "model: Field required")]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_command_line_ends_with_one_line_and_code_2(tmp_path):
    result = CliRunner().invoke(app, ["train", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "none.yaml: cannot be read" in result.stderr

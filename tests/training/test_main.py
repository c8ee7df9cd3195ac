"""A command that fails prints one line and ends with the right exit code."""

from __future__ import annotations

from pathlib import Path

import yaml
from support.clip_recipes import clip_recipe_tree
from support.labelled import write_list
from typer.testing import CliRunner

from training.__main__ import app


def test_missing_recipe_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "none.yaml: cannot be read" in result.stderr


def test_set_of_one_class_cannot_be_trained_on(films: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "one.csv", [(films / "left/left_0.mp4", "left", "", "")])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(clip_recipe_tree(films, data={"path": str(path)})))
    result = CliRunner().invoke(app, ["train", str(recipe), "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "only one class, 'left'" in result.stderr


def test_recipe_without_data_path_says_how_to_give_it(films: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(clip_recipe_tree(films, data={"path": None})))
    result = CliRunner().invoke(app, ["train", str(recipe), "--run", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "data.path: missing" in result.stderr
    assert "on the command line: data.path=PATH" in result.stderr
    assert CliRunner().invoke(app, ["summary", str(recipe)]).exit_code == 0, "a summary needs no data"

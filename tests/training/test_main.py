"""A command that fails prints one line and ends with the right exit code."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import yaml
from support.clip_recipes import clip_recipe_tree
from support.labelled import write_list
from typer.testing import CliRunner

from training.__main__ import app
from training.errors import DataError


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


def test_corrected_command_follows_a_failed_start(films: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    path = write_list(tmp_path / "one.csv", [(films / "left/left_0.mp4", "left", "", "")])
    recipe.write_text(yaml.safe_dump(clip_recipe_tree(films, optimiser={"steps": 2}, data={"path": str(path)})))
    assert CliRunner().invoke(app, ["train", str(recipe), "--run", str(run)]).exit_code == 1
    assert not run.exists()
    result = CliRunner().invoke(app, ["train", str(recipe), f"data.path={films}/clips.csv", "--run", str(run)])
    assert result.exit_code == 0, result.output


def test_label_that_no_bundle_can_hold_is_refused_before_decoding(films: Path, tmp_path: Path) -> None:
    label = "x" * 2000
    path = write_list(tmp_path / "list.csv", [(films / "left/left_0.mp4", label), (films / "a.mp4", "b")], "path,label")
    recipe, cache = tmp_path / "recipe.yaml", tmp_path / "cache"
    recipe.write_text(yaml.safe_dump(clip_recipe_tree(films, data={"path": str(path), "cache": str(cache)})))
    result = CliRunner().invoke(app, ["train", str(recipe), "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "2000 characters" in result.stderr
    assert not cache.exists()


def test_run_is_not_resumed_with_other_classes(films: Path, tmp_path: Path) -> None:
    rows = [(f"{films}/{label}/{label}_{i}.mp4", label) for label in ("left", "right") for i in range(4)]
    path, recipe = tmp_path / "list.csv", tmp_path / "recipe.yaml"
    tree = clip_recipe_tree(films, optimiser={"steps": 2}, data={"path": str(path)})
    del tree["augment"]  # it names the label `right`
    recipe.write_text(yaml.safe_dump(tree))
    command = ["train", str(recipe), "--run", str(tmp_path / "run")]
    write_list(path, rows, "path,label")
    assert CliRunner().invoke(app, command).exit_code == 0
    write_list(path, [(name, label.upper()) for name, label in rows], "path,label")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "was trained on the classes ['left', 'right'], the data have ['LEFT', 'RIGHT'] now" in result.stderr


def test_output_that_is_a_file_is_one_line(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    result = CliRunner().invoke(app, ["export", str(run), "-o", str(taken / "bundle")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"training: {taken}")
    assert "exists; correct this" in result.stderr


@pytest.mark.parametrize(
    ("biases", "message"),
    [
        (["left=nan"], "--bias left=nan: give a label and a number from -100 to 100"),
        (["left=1e39"], "--bias left=1e39: give a label and a number"),
        (["left"], "--bias left: give a label and a number"),
        (["left=1", "left=2"], "--bias left=2: left has the bias 1 already"),
    ],
)
def test_bias_that_cannot_be_added_is_refused(biases: list[str], message: str, run: Path, tmp_path: Path) -> None:
    given = [option for bias in biases for option in ("--bias", bias)]
    result = CliRunner().invoke(app, ["export", str(run), "-o", str(tmp_path / "bundle"), *given])
    assert result.exit_code == 2
    assert message in result.stderr


def test_error_of_the_engine_is_one_line(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--bundle", str(tmp_path / "none")]
    result = CliRunner().invoke(app, ["camera-events-benchmark", *options])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"training: {tmp_path}/none: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "train recipe.yaml --run run: no space left; free some there or in /",
        ),
        (OSError(errno.EACCES, "Permission denied", "clips/a.mp4"), "clips/a.mp4: Permission denied; correct this"),
    ],
)
def test_error_of_the_disk_is_one_line(
    error: OSError, expected: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("training.fit.train.train", fail)
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(clip_recipe_tree(films)))
    result = CliRunner().invoke(app, ["train", "recipe.yaml", "--run", "run"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert expected in result.stderr


def test_an_error_that_a_signal_caused_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal also ends a process of num_workers, for instance. `run` prints the one line about the signal."""
    monkeypatch.setattr("training.__main__.is_interrupted", lambda: True)
    result = CliRunner().invoke(app, ["download", "no-such-set"])
    assert isinstance(result.exception, DataError)
    assert not result.stderr

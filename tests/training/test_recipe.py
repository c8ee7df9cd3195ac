"""Mistakes in a recipe are reported before anything runs, with the key as the recipe writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.clip_recipes import clip_recipe, clip_recipe_tree
from support.repository import ROOT
from typer.testing import CliRunner

from training.__main__ import app
from training.errors import RecipeError
from training.recipe import load_recipe, parse_recipe

SHIPPED = ROOT / "configs/train/camera-events.yaml"


def test_shipped_camera_events_recipe_is_valid_and_under_four_megabytes() -> None:
    result = CliRunner().invoke(app, ["summary", str(SHIPPED), "--json"])
    assert result.exit_code == 0, result.output
    summary = yaml.safe_load(result.stdout)
    assert summary["megabytes_fp32"] < 4
    assert summary["window_s"] <= 1.6


def test_override_changes_its_key() -> None:
    recipe = load_recipe(SHIPPED, ["optimiser.steps=7", "data.cache=/tmp/x"])
    assert (recipe.optimiser.steps, recipe.data.cache_folder) == (7, Path("/tmp/x"))


def test_override_changes_an_item_of_a_list() -> None:
    films = "data.films=[{path: a.csv}, {path: b.csv}]"
    recipe = load_recipe(ROOT / "configs/train/gestures.yaml", [films, "data.films.1.path=c.csv", "model.dropout=0"])
    assert [part.path for part in recipe.data.films] == [Path("a.csv"), Path("c.csv")]
    with pytest.raises(RecipeError, match=r"data\.films\.2.*: 2 selects no item; the list has items 0 to 1"):
        load_recipe(ROOT / "configs/train/gestures.yaml", [films, "data.films.2.path=c.csv"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.step=7", "optimiser.step=7: unknown key"),
        ("optimiser.steps=many", "optimiser.steps='many'"),
        ("model.chunks=0", "model.chunks=0"),
        ("data.frames=4", "a window has 16 frames"),
        ("model.chunks=2", "a window has 4 frames; the labels need at least 6 at 10 fps"),
        ("processes=3", "multiple of processes=3"),
        ("steps", "key=value"),
        ("name=Box", "use 1 to 64 lower-case letters"),
        ("data={kind: clips, path: x, folds: 5, fold: 5}", ": data: fold=5: folds count from 0"),
        ("data={kind: clips, folds: x}", "data.folds='x'"),
        ("about=caf\udce9", r"about=caf\xe9: not UTF-8, so no recipe can hold it"),
        ("name.first=x", "name is a value, not a section"),
        ("windows.measured=3", "windows: data.kind: camera_events cuts and augments windows in its own way"),
        ("model={kind: conv_transformer, height: 64, width: 64, chunks: 4}", "needs vivit_factorised"),
    ],
)
def test_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(SHIPPED, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n", "a mapping"), ("a: [", "not YAML"), ("{}", "model: missing; add this key")]
)
def test_file_without_a_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"loss": {"patch_keep": 0.5}}, "loss.patch_keep=0.5: only for data.kind: camera_events"),
        ({"data": {"colour": 1}}, "data.colour=1: unknown key"),
        ({"data": {"steps": 99}}, "data.steps=99"),
        ({"data": {"kind": "films"}}, "data"),
        ({"windows": {"span": [1, 0.5]}}, "the smaller first"),
        ({"augment": {"crop": [2, 3]}}, "between 0.1 and 1"),
        ({"data": {"folds": 3, "fold": 3}}, "folds count from 0 to folds - 1"),
    ],
)
def test_wrong_key_is_named_as_the_recipe_writes_it(films: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        clip_recipe(films, **sections)
    assert message in str(caught.value)


OLD_WORD = "token"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"loaders": 2}, "loaders=2: renamed to num_workers"),
        ({"model": {"tokens": 8}}, "model.tokens=8: renamed to chunks"),
        ({"optimiser": {"average": 0.9}}, "optimiser.average=0.9: renamed to ema_decay"),
        ({"model": {f"frames_per_{OLD_WORD}": 2}}, f"model.frames_per_{OLD_WORD}: renamed to frames_per_chunk"),
        ({"loss": {"truth_weight": 0.5}}, "loss.truth_weight=0.5: renamed to aux_weight"),
        ({"data": {"held_back_share": 0.1}}, "data.held_back_share=0.1: renamed to validation_fraction"),
        ({"data": {"held_back_split": "val"}}, "data.held_back_split='val': renamed to validation_split"),
        ({"data": {"kind": "gestures_made"}}, "kind gestures_made was renamed to synthetic_gestures"),
        ({"golden": "held_back"}, "golden='held_back': renamed to validation"),
    ],
)
def test_renamed_key_names_the_new_one(films: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        clip_recipe(films, **sections)
    assert message in str(caught.value)


def test_key_renamed_in_one_kind_of_model_names_the_new_one(films: Path) -> None:
    tree = clip_recipe_tree(films)
    tree["model"] = {"kind": "motion", "height": 64, "width": 64, "frames_per_chunk": 4, "chunks": 4, "window": 7}
    with pytest.raises(RecipeError, match=r"model\.window=7: renamed to patch_size"):
        parse_recipe(tree, where="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\ndata: {kind: clips}\nfps: 1\ndata: {path: x}\n",
            "key 'data' appears twice, again in line 4; line 2",
        ),
        ("name: a\ndata:\n  path: x\n  path: y\n", "key 'path' appears twice, again in line 4; line 3"),
        ("name: caf\xe9\n", "not a text file in UTF-8"),
        ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
    ],
)
def test_recipe_with_a_repeated_section_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1", "optimiser.steps=3", "seed=2"], "'seed=2': replaces 'seed=1', which was given before it"),
        (["optimiser.steps=3", "optimiser={steps: 4}"], "replaces 'optimiser.steps=3'"),
        (["optimiser={steps: 4, steps: 5}"], "'steps' appears twice"),
    ],
)
def test_override_that_replaces_another_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(SHIPPED, overrides)


def test_later_override_may_refine_a_section() -> None:
    section = "optimiser={learning_rate: 1.0e-3, warmup_steps: 1, steps: 4, batch: 8}"
    recipe = load_recipe(SHIPPED, [section, "optimiser.steps=6", "validate_every=2"])
    assert (recipe.optimiser.steps, recipe.optimiser.batch) == (6, 8)


def test_labels_that_yaml_takes_for_booleans_stay_text(films: Path, tmp_path: Path) -> None:
    tree = clip_recipe_tree(films)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert load_recipe(path, ["data.labels=[no, yes, on]"]).data.labels == ("no", "yes", "on")


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf", "1e400", "'1e400'", "true"])
def test_a_number_without_a_limit_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(clip_recipe_tree(tmp_path)))
    with pytest.raises(RecipeError, match=r"optimiser.*weight_decay"):
        load_recipe(path, [f"optimiser.weight_decay={value}"])


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="a pipe, socket or device, not a file"):
        load_recipe(tmp_path / "recipe.yaml")

"""A run's folder is read with checks, and weights are loaded only where they fit."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.clip_recipes import clip_recipe
from support.labelled import write_set

from training.errors import DataError, RunError
from training.fit.run_folder import build_model, load_run, load_weights, read_recipe, starting_run, write_json


def test_fitting_weights_of_other_classes_are_loaded(
    run: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_classes = write_set(tmp_path / "two", clips=2, validation=1, classes=("left", "right"))
    recipe = clip_recipe(films, start_from=str(run), start_strict=False, data={"path": str(two_classes)})
    model = build_model(recipe)
    given = load_file(run / "model.safetensors")
    assert torch.equal(model.state_dict()["encoder.stack.class_token"], given["encoder.stack.class_token"])
    printed = capsys.readouterr().err
    assert "head.classify.bias, head.classify.weight" in printed
    assert f"loaded {len(given) - 2} of {len(given)} tensors" in printed
    with pytest.raises(RunError, match=r"not this model's weights \(.*start_strict: false"):
        build_model(recipe.model_copy(update={"start_strict": True}))
    save_file({"something": torch.zeros(2)}, tmp_path / "else.safetensors")
    with pytest.raises(RunError, match="none of its 1 tensors"):
        build_model(recipe.model_copy(update={"start_from": tmp_path / "else.safetensors"}))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickle_is_refused_without_being_loaded(films: Path, tmp_path: Path, writer: str) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "model.pt"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Malicious()))
    else:
        torch.save({"weights": Malicious()}, path)
    with pytest.raises(RunError, match="a pickle"):
        load_weights(build_model(clip_recipe(films)), path)
    assert not (tmp_path / "executed").exists()


def test_file_without_weights_is_refused(films: Path, tmp_path: Path) -> None:
    model = build_model(clip_recipe(films))
    (tmp_path / "x.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(RunError, match=r"weights cannot be read \(not safetensors"):
        load_weights(model, tmp_path / "x.safetensors")
    with pytest.raises(RunError, match=r"weights cannot be read \(No such file"):
        load_weights(model, tmp_path / "none.safetensors")


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        load_run(tmp_path)


def test_start_that_fails_leaves_no_folder(films: Path, tmp_path: Path) -> None:
    """Ctrl-C during decoding, and any error, before the first checkpoint."""
    recipe = clip_recipe(films)

    def fail(error: BaseException) -> None:
        with starting_run(recipe, tmp_path / "runs/a"):
            write_json(tmp_path / "runs/a/labels.json", ["a"])
            raise error

    for error in (KeyboardInterrupt(), SystemExit(), DataError(), OSError()):
        with pytest.raises(type(error)):
            fail(error)
        assert not (tmp_path / "runs/a").exists()
    with starting_run(clip_recipe(films, seed=2), tmp_path / "runs/a"):
        pass
    assert (tmp_path / "runs/a/recipe.yaml").is_file()


def test_start_that_was_killed_does_not_block_another_recipe(films: Path, tmp_path: Path) -> None:
    with starting_run(clip_recipe(films), tmp_path):
        pass  # SIGKILL leaves the recipe and no weights
    with starting_run(clip_recipe(films, seed=2), tmp_path):
        assert read_recipe(tmp_path).seed == 2
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    with pytest.raises(RunError, match="holds a run of another recipe"), starting_run(clip_recipe(films), tmp_path):
        raise AssertionError
    with pytest.raises(KeyboardInterrupt), starting_run(clip_recipe(films, seed=2), tmp_path):
        raise KeyboardInterrupt
    assert {item.name for item in tmp_path.iterdir()} == {"recipe.yaml", "last.ckpt"}, "a checkpoint is kept"


def test_a_second_training_in_the_same_folder_is_refused(films: Path, tmp_path: Path) -> None:
    """Both would write the same checkpoints. The lock ends with the first training, however that ends."""
    recipe, folder = clip_recipe(films), tmp_path / "runs/a"
    with starting_run(recipe, folder):
        with pytest.raises(RunError, match=r"runs/a: another training writes there"), starting_run(recipe, folder):
            raise AssertionError
        assert read_recipe(folder) == recipe, "the refused start removes nothing"
    with pytest.raises(KeyboardInterrupt), starting_run(recipe, folder):
        raise KeyboardInterrupt
    with starting_run(recipe, folder):
        pass


def test_recipe_that_a_person_wrote_is_kept(films: Path, tmp_path: Path) -> None:
    """`--run .` where the recipe itself is."""
    text = f"# my recipe\n{yaml.safe_dump(clip_recipe(films).model_dump(mode='json'))}"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(DataError), starting_run(clip_recipe(films), tmp_path):
        raise DataError
    with pytest.raises(RunError, match="another recipe"), starting_run(clip_recipe(films, seed=2), tmp_path):
        raise AssertionError
    assert (tmp_path / "recipe.yaml").read_text() == text


def test_folder_that_cannot_be_made_is_named(films: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"file/run: cannot be written \(Not a directory\); give another --run"),
        starting_run(clip_recipe(films), tmp_path / "file/run"),
    ):
        raise AssertionError


def test_start_that_fills_the_disk_leaves_no_folder(films: Path, tmp_path: Path) -> None:
    """A full disk tears best.ckpt, or the recipe; neither can be resumed, so neither blocks another recipe."""
    recipe, folder = clip_recipe(films), tmp_path / "runs/a"

    def fill_disk() -> None:
        with starting_run(recipe, folder):
            (folder / "best.ckpt").write_bytes(b"torn")
            (folder / ".notes.json.partial").write_bytes(b"")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill_disk()
    assert not folder.exists()


def test_weights_in_a_folder_whose_name_is_not_utf8_are_read(run: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9"))
    try:
        shutil.copytree(run, folder)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    load_run(folder)

"""A run's folder is read with checks, and weights are loaded only where they fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.clip_recipes import clip_recipe
from support.labelled import write_set

from training.errors import RunError
from training.fit.run_folder import build_model, load_run, load_weights


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

"""A camera-events run: trained on synthetic footage, resumed, and exported with biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.bundle import load_bundle
from training.errors import LossError, RunError
from training.export.bundle import export_run
from training.fit.lightning_module import ClipModule
from training.fit.run_folder import build_model, load_run, load_weights
from training.fit.train import train
from training.recipe import Recipe, parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    """Return `recipe` with other values of some keys."""
    tree = recipe.model_dump(mode="json")
    for section, values in sections.items():
        tree[section].update(values)
    return parse_recipe(tree, where="test")


def test_recipe_becomes_a_bundle(tiny: Recipe, tmp_path: Path) -> None:
    metrics = train(tiny, tmp_path / "run")
    assert 0 <= metrics["balanced_accuracy"] <= 1
    assert 0 <= metrics["false_alarms"] <= 1
    recipe, model = load_run(tmp_path / "run")
    assert recipe == tiny
    fresh = build_model(tiny)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    bundle = export_run(tmp_path / "run", tmp_path / "bundle", biases={"normal": 0.5})
    loaded = load_bundle(bundle.path)
    assert (loaded.spec.name, loaded.spec.window_s) == ("tiny", pytest.approx(0.6))
    assert set(loaded.spec.metrics) == {"synthetic_balanced_accuracy", "synthetic_false_alarms"}
    golden = loaded.golden()
    with torch.inference_mode():
        logits = model(torch.from_numpy(golden.frames)[None])[0].numpy()
    assert np.allclose(golden.logits - logits, [0.5, 0, 0, 0, 0, 0, 0], atol=1e-5)
    card = (bundle.path / "README.md").read_text()
    assert "Apache-2.0" in card
    assert "added to the biases of the last layer: +0.5 on `normal`" in card


def test_stopped_run_resumes_from_its_last_checkpoint(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(tiny, optimiser={"steps": 4})
    steps: list[int] = []
    original = ClipModule.training_step

    def failing_step(self, batch, index):
        steps.append(self.global_step)
        if len(steps) == 4:
            raise RuntimeError("power cut")
        return original(self, batch, index)

    def counting_step(self, batch, index):
        steps.append(self.global_step)
        return original(self, batch, index)

    monkeypatch.setattr(ClipModule, "training_step", failing_step)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, tmp_path / "run")
    steps.clear()
    monkeypatch.setattr(ClipModule, "training_step", counting_step)
    train(recipe, tmp_path / "run")
    assert steps == [2, 3], "the run resumes from the checkpoint of step 2"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_loss_that_is_not_finite_is_an_error(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "training.models.compact_vivit.FactorisedViViT.features",
        lambda self, frames, keep=None: (
            self.encoder(frames.flatten(0, 1), keep).unflatten(0, frames.shape[:2]) * torch.nan
        ),
    )
    with pytest.raises(LossError, match=r"step 0: the loss is nan .*optimiser\.learning_rate=0\.001"):
        train(tiny, tmp_path / "run")


def test_weights_of_another_size_are_refused(tiny: Recipe, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run")
    other = build_model(changed(tiny, model={"dim": 32}))
    with pytest.raises(RunError, match="not this model's weights"):
        load_weights(other, tmp_path / "run" / "model.safetensors")

"""A whole run in small: made data in, a bundle out; stopped, resumed, and refused where it must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.bundle import load_bundle
from training.errors import LossError, RunError
from training.export.bundle import export_run
from training.fit.lightning_module import ClipModule
from training.fit.run_folder import build_model, load_run, load_weights
from training.fit.train import train
from training.recipe import parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def with_changes(tiny, **sections):
    tree = tiny.model_dump(mode="json")
    for section, values in sections.items():
        tree[section].update(values)
    return parse_recipe(tree, where="test")


def test_from_recipe_to_bundle(tiny, tmp_path):
    metrics = train(tiny, tmp_path / "run")
    assert 0 <= metrics["balanced_accuracy"] <= 1
    recipe, model = load_run(tmp_path / "run")
    assert recipe == tiny
    fresh = build_model(tiny)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    bundle = export_run(tmp_path / "run", tmp_path / "bundle", biases={"normal": 0.5})
    loaded = load_bundle(bundle.path)
    assert (loaded.spec.name, loaded.spec.window_s) == ("tiny", pytest.approx(0.6))
    golden = loaded.golden()
    with torch.inference_mode():
        plain = model(torch.from_numpy(golden.frames)[None])[0].numpy()
    assert np.allclose(golden.logits - plain, [0.5, 0, 0, 0, 0, 0, 0], atol=1e-5)
    assert "Apache-2.0" in (bundle.path / "README.md").read_text()


def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny, tmp_path, monkeypatch):
    recipe = with_changes(tiny, optimiser={"steps": 4})
    step, plain = [], ClipModule.training_step

    def dies(self, batch, index):
        step.append(self.global_step)
        if len(step) == 4:
            raise RuntimeError("power cut")
        return plain(self, batch, index)

    monkeypatch.setattr(ClipModule, "training_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, tmp_path / "broken")
    monkeypatch.setattr(ClipModule, "training_step", plain)
    steps = []
    monkeypatch.setattr(
        ClipModule,
        "training_step",
        lambda self, batch, i: steps.append(self.global_step) or plain(self, batch, i),
    )
    train(recipe, tmp_path / "broken")
    assert steps == [2, 3], "it went on from the checkpoint of step 2"
    assert (tmp_path / "broken" / "model.safetensors").is_file()


def test_a_run_of_another_recipe_is_not_overwritten(tiny, tmp_path):
    train(tiny, tmp_path / "run")
    with pytest.raises(RunError, match="another recipe"):
        train(with_changes(tiny, optimiser={"learning_rate": 0.1}), tmp_path / "run")


def test_a_loss_that_is_not_a_number_stops_and_says_where(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "training.models.compact_vivit.FactorisedViViT.features",
        lambda self, frames, keep=None: (
            self.encoder(frames.flatten(0, 1), keep).unflatten(0, frames.shape[:2]) * torch.nan
        ),
    )
    with pytest.raises(LossError, match=r"step 0: the loss is nan .*optimiser\.learning_rate=0\.001"):
        train(tiny, tmp_path / "run")


def test_weights_of_another_network_are_refused(tiny, tmp_path):
    train(tiny, tmp_path / "run")
    other = build_model(with_changes(tiny, model={"dim": 32}))
    with pytest.raises(RunError, match="not this model's weights"):
        load_weights(other, tmp_path / "run" / "model.safetensors")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="not a run"):
        load_run(tmp_path)

"""Cached features equal the encoder's own, and are encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.clip_recipes import clip_recipe
from support.two_events import write_events

from training.errors import RecipeError
from training.evaluation.evaluate import evaluate_run
from training.fit.run_folder import build_model
from training.fit.session import open_session
from training.fit.train import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def test_features_of_a_frozen_encoder_are_cached(films: Path, tmp_path: Path) -> None:
    recipe = clip_recipe(
        films,
        model={"frames_per_chunk": 1, "chunks": 8},
        data={"cache": str(tmp_path / "cache")},
        windows={"views": 3},
        optimiser={"steps": 4, "frozen_steps": 4},
    )
    save_file(build_model(recipe, 3).state_dict(), tmp_path / "start.safetensors")
    recipe = recipe.model_copy(update={"start_from": tmp_path / "start.safetensors"})
    metrics = train(recipe, tmp_path / "run")
    files = sorted((tmp_path / "cache" / "features").glob("*.npy"))
    assert len(files) == 12 * 3 + 6
    written_ns = [path.stat().st_mtime_ns for path in files]
    session = open_session(recipe)
    again = sorted((tmp_path / "cache" / "features").glob("*.npy"))
    assert [path.stat().st_mtime_ns for path in again] == written_ns, "no clip is encoded twice"
    clip = session.validation.clips.frames(0)
    model = session.module.model.eval()
    with torch.inference_mode():
        features = model.encoder(torch.from_numpy(clip[:, None].copy()))
    batch = next(iter(session.validation))
    assert torch.allclose(batch["features"].float(), features[: len(batch["features"])], atol=5e-3)
    assert evaluate_run(tmp_path / "run")["loss"] == pytest.approx(metrics["loss"], abs=1e-2)


def test_cached_chunks_of_several_frames_equal_the_encoders(films: Path, tmp_path: Path) -> None:
    """Training and validation batches contain the features that the encoder computes from the frames."""
    sections: dict[str, Any] = {
        "model": {"frames_per_chunk": 2, "chunks": 4},
        "data": {"cache": str(tmp_path / "cache"), "steps": 2},
        "windows": {"views": 2, "jitter": 0.0},
        "augment": {"flip": False, "flip_labels": {}, "brightness": 0.0},
        "optimiser": {"steps": 4, "frozen_steps": 4},
    }
    session = open_session(clip_recipe(films, **sections))
    model = session.module.model.eval()
    validation, clips = next(iter(session.validation)), session.validation.clips
    batch, sampler = session.training.sample_batch(np.random.default_rng(3), 4), session.training.sampler
    # Repeat the draws of the batch's first row, and encode the frames themselves.
    rng = np.random.default_rng(3)
    index = session.training.draw_clips(rng, 4)[0]
    rng.integers(2)
    frames = sampler.clips.frames(index)
    first = sampler.frame_indices(rng, len(frames), 2)[::2]
    chunks = np.stack([frames[first], frames[np.minimum(first + 2, len(frames) - 1)]], axis=1)
    clip = clips.frames(0)
    with torch.inference_mode():
        expected = model.encoder(torch.from_numpy(clip[:8].reshape(4, 2, *clip.shape[1:]).copy()))
        assert torch.allclose(validation["features"][:4].float(), expected, atol=5e-3)
        assert torch.allclose(batch["features"][0], model.encoder(torch.from_numpy(chunks)), atol=5e-3)
    for section, keys in (("augment", {"speed": [0.5, 2]}), ("windows", {"views": 2, "short_clips": "loop"})):
        with pytest.raises(RecipeError, match=rf"{section}\..*: with windows.views and model.frames_per_chunk=2 only"):
            clip_recipe(films, **sections | {section: {**sections[section], **keys}})


def test_views_need_a_frozen_backbone(films: Path) -> None:
    with pytest.raises(RecipeError, match=r"windows\.views=3: needs a frozen backbone"):
        clip_recipe(films, windows={"views": 3})


def test_cached_features_keep_several_labels(tmp_path: Path) -> None:
    """A frozen encoder's head learns from cached features of clips with two labels, one or none."""
    write_events(tmp_path / "films", train=2, val=2, test=0)
    recipe = clip_recipe(
        tmp_path / "films",
        data={"multi_label": True, "find_duplicates": False},
        windows={"views": 2},
        augment={"flip": True, "flip_labels": {"lamp": "walker"}, "mixup": 0.0},
        optimiser={"steps": 4, "frozen_steps": 4, "batch": 16},
        model={"frames_per_chunk": 1, "chunks": 8},
    )
    session = open_session(recipe)
    assert session.training is not None
    batches = iter(session.training)
    targets = {tuple(row) for _ in range(4) for row in next(batches)["target"].tolist()}
    assert targets == {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}
    assert session.validation.labels.shape == (8, 2)
    metrics = train(recipe, tmp_path / "run")
    assert 0 <= metrics["map"] <= 1
    assert evaluate_run(tmp_path / "run")["map"] == pytest.approx(metrics["map"])

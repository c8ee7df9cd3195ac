"""Training batches follow seed and step alone, and labels and targets follow the augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.labelled import draw_moving_dot

from engines.arrays import F32, U8
from training.data.augment import AugmentRecipe
from training.data.batches import ClipTrainingBatches, WindowSampler, mixup
from training.data.clips import Clips
from training.data.dataset import ClipDataSet
from training.data.shape import Shape
from training.data.windows import WindowsRecipe
from training.errors import RecipeError
from training.fit import train as fit

SHAPE = Shape(fps=10.0, frames_per_chunk=2, chunks=3, height=60, width=80)


class DotClips(Clips):
    """Two clips, left and right, at twice the model's rate. Clip 0 has the dot's place as auxiliary target."""

    aux_names = ("x", "y", "visible")
    labels = np.array([0, 1])
    names, groups = ("0", "1"), ("", "")

    def __init__(self) -> None:
        self.clip, self.dot = draw_moving_dot(24)

    def key(self, index: int) -> str:
        return str(index)

    def steps(self, index: int) -> int:
        return 2

    def frames(self, index: int) -> U8:
        return self.clip[::-1] if index == 0 else self.clip

    def aux_targets(self, index: int) -> F32 | None:
        if index:
            return None
        return np.hstack([self.dot[::-1], np.ones((24, 1))]).astype(np.float32)


def open_dots(**augment: Any) -> tuple[ClipDataSet, WindowSampler]:
    data = ClipDataSet(labels=("left", "right"), training=DotClips(), validation=DotClips(), odds=np.array([0.9, 0.1]))
    return data, WindowSampler(data.training, data.labels, SHAPE, WindowsRecipe(), AugmentRecipe(**augment))


@pytest.mark.parametrize("key", ["flip", "reverse"])
def test_label_follows_mirroring_and_reversal(key: str) -> None:
    """A window in which the dot moves left has the label `left`, whatever was done to its clip."""
    _, sampler = open_dots(**{key: True, f"{key}_labels": {"left": "right"}})
    for seed in range(12):
        chunks, target, targets = sampler.sample(np.random.default_rng(seed), seed % 2)
        frames = chunks.reshape(-1, 60, 80, 3)
        columns = [frame[..., 0].max(axis=0).argmax() for frame in (frames[0], frames[-1])]
        assert target.tolist() == ([1, 0] if columns[1] < columns[0] else [0, 1])
        if seed % 2 == 0:
            last = frames[1::2]
            places = [frame[..., 0].max(axis=0).argmax() / 80 for frame in last]
            assert np.allclose(targets[:, 0], places, atol=0.03)
            assert (targets[:, 2] == 1).all()
        else:
            assert np.isnan(targets).all()


def test_swap_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(RecipeError, match="'up': no such class"):
        open_dots(flip=True, flip_labels={"left": "up"})


def test_batch_depends_on_seed_and_step_and_balances_classes() -> None:
    data, sampler = open_dots(crop=(0.8, 1), noise=5)
    batches = ClipTrainingBatches(sampler, odds=data.odds, classes=2, seed=3, batch=64, balanced=True, mixup=0)
    first, second = (next(iter(batches)) for _ in range(2))
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert 20 < first["target"][:, 0].sum() < 44, "classes are balanced, though clip 0 has nine tenths of the odds"
    stream = iter(batches)
    next(stream)
    batches.step = 1
    assert np.array_equal(next(stream)["frames"], next(iter(batches))["frames"]), "a resumed run draws the same batch"


def test_a_loader_process_draws_the_share_of_its_training_process(monkeypatch: pytest.MonkeyPatch) -> None:
    data, sampler = open_dots(crop=(0.8, 1), noise=5)
    batches = ClipTrainingBatches(sampler, odds=data.odds, classes=2, seed=3, batch=4, balanced=True, mixup=0)
    drawn = {}
    for number in (0, 1):
        monkeypatch.setattr(fit, "rank", lambda number=number: number)
        monkeypatch.setattr(fit, "world_size", lambda: 2)
        drawn[number] = [next(iter(fit._loader(batches, workers)))["frames"] for workers in (0, 1)]
        assert len(drawn[number][0]) == 2, "two processes share a batch of four windows"
        assert torch.equal(*drawn[number])
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_mixup_uses_one_proportion_for_frames_and_targets() -> None:
    frames = np.stack([np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 200, np.uint8)])
    target = np.eye(2, dtype=np.float32)
    for seed in range(6):
        mixed, mixed_target, aux_targets = mixup(
            np.random.default_rng(seed), 1.0, frames, target, np.zeros((2, 3, 1), np.float32)
        )
        assert mixed.dtype == np.uint8
        assert np.allclose(mixed[:, 0, 0, 0, 0] / 200, mixed_target[:, 1], atol=0.01)
        assert np.isnan(aux_targets).all()

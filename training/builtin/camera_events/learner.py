"""How camera-events learns: made footage, what its chunks are asked for besides the label, and its false alarms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from training.builtin.camera_events import LABELS
from training.builtin.camera_events.dataset import BETWEEN, THUMBNAIL, TRUTHS, Footage, FootageSpec, cut, open_footage
from training.data.batches import Batch, my_part, rank, world
from training.data.recipes import CameraEventsData
from training.errors import RecipeError, RunError
from training.fit.lightning_module import ClipModule
from training.models.compact_vivit import FactorisedViViT, VivitFactorisedRecipe
from training.recipe import Recipe

MEASURED_AT_ONCE = 32
"""Windows."""


def footage_of(recipe: Recipe, *, validation: bool) -> Footage:
    """The recipe's made footage, rendered if need be."""
    data = _data(recipe)
    spec = FootageSpec(
        clips=data.validation_clips if validation else data.clips,
        frames=data.frames,
        fps=recipe.fps,
        height=recipe.model.height,
        width=recipe.model.width,
        window=recipe.model.chunks * recipe.model.frames_per_chunk,
        normal_share=data.normal_share,
        seed=recipe.seed + (1_000_000 if validation else 0),
    )
    return open_footage(spec, data.cache, workers=data.workers)


def _data(recipe: Recipe) -> CameraEventsData:
    if not isinstance(recipe.data, CameraEventsData):
        raise RecipeError(f"data.kind={recipe.data.kind}: camera_events is needed here")
    return recipe.data


class TrainingWindows(IterableDataset[Batch]):
    """Endless batches; which windows a step sees depends on seed and step alone, so resuming repeats nothing."""

    def __init__(self, footage: Footage, recipe: Recipe) -> None:
        self.footage, self.recipe, self.step = footage, recipe, 0
        data = _data(recipe)
        normal, disturbed = np.argwhere(footage.labels == 0), np.argwhere(footage.labels > 0)
        if not len(normal) or not len(disturbed):
            raise RunError(
                f"data.clips={data.clips}: {len(normal)} normal, {len(disturbed)} disturbed windows; make more"
            )
        self.windows = np.concatenate([normal, disturbed])  # (windows, 2): clip, offset's index
        share = data.normal_windows
        self.odds = np.repeat([share / len(normal), (1 - share) / len(disturbed)], [len(normal), len(disturbed)])

    def __iter__(self) -> Iterator[Batch]:
        recipe, footage = self.recipe, self.footage
        while True:
            rng = np.random.default_rng([recipe.seed, 7, self.step, rank()])
            self.step += 1
            chosen = self.windows[rng.choice(len(self.odds), recipe.optimiser.batch // world(), p=self.odds)]
            cuts = [
                cut(rng, footage, clip, footage.spec.offsets[i], recipe.model.frames_per_chunk) for clip, i in chosen
            ]
            frames, truths = (np.stack(part) for part in zip(*cuts, strict=True))
            yield {
                "frames": torch.from_numpy(frames),
                "truths": torch.from_numpy(truths),
                "target": torch.from_numpy(footage.labels[chosen[:, 0], chosen[:, 1]].astype(np.int64)),
            }


class HeldBackWindows(IterableDataset[Batch]):
    """Every decided window of the validation clips once, as it is; each process takes its part."""

    def __init__(self, footage: Footage, recipe: Recipe) -> None:
        self.footage, self.recipe = footage, recipe
        self.windows = np.argwhere(footage.labels >= 0)
        self.labels = footage.labels[footage.labels >= 0].astype(np.int64)
        self.whole = False

    def __iter__(self) -> Iterator[Batch]:
        spec, chunks = self.footage.spec, self.recipe.model.chunks
        mine = np.array(my_part(len(self.windows), whole=self.whole))
        for numbers in np.array_split(mine, max(len(mine) // MEASURED_AT_ONCE, 1)):
            frames = np.stack(
                [
                    self.footage.frames[clip, spec.offsets[i] : spec.offsets[i] + spec.window]
                    for clip, i in self.windows[numbers]
                ]
            )
            yield {
                "frames": torch.from_numpy(frames.reshape(len(numbers) * chunks, -1, *frames.shape[2:])),
                "windows": torch.arange(len(numbers) * chunks).reshape(-1, chunks),
                "clips": torch.from_numpy(numbers),
            }


class CameraEventsModule(ClipModule):
    """Asked, per chunk, how the camera moved and what the picture is like; looks at some of the patches only."""

    def __init__(self, recipe: Recipe, model: FactorisedViViT, *, truth: npt.NDArray[np.int64]) -> None:
        super().__init__(recipe, model, labels=LABELS, truth=truth)
        words = recipe.model
        assert isinstance(words, VivitFactorisedRecipe)  # the recipe allows no other
        self.vivit = [model]  # in a list: it is a part of this module already, as `model`
        self.truths = nn.Linear(words.dim, len(TRUTHS) + THUMBNAIL[0] * THUMBNAIL[1])
        self.between = nn.Linear(words.dim, len(BETWEEN)) if words.changes else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on the label, and regression of what happened in each chunk."""
        (model,), loss, truths = self.vivit, self.recipe.loss, batch["truths"]
        keep = None
        if loss.patch_keep < 1 and self.global_step / self.recipe.optimiser.steps < loss.all_patches_from:
            patches = model.encoder.patches
            keep = torch.randperm(patches)[: max(round(patches * loss.patch_keep), 1)].sort().values
        features = model.features(frames=batch["frames"], keep=keep)
        logits, changes = model.head.with_differences(features)
        said = self.truths(features).float()
        shown = truths[..., : said.shape[-1]]
        known = gap(said[..., : len(TRUTHS)], shown[..., : len(TRUTHS)])
        known = known + gap(said[..., len(TRUTHS) :], shown[..., len(TRUTHS) :])
        if self.between is not None and changes is not None:
            known = known + gap(self.between(changes).float(), truths[..., said.shape[-1] :])
        return {
            "label": F.cross_entropy(logits.float(), batch["target"], label_smoothing=loss.label_smoothing),
            "truth": self.truth_weight * known,
        }

    def judge(self, summed: npt.NDArray[np.float32]) -> dict[str, Any]:
        """With false alarms: windows in which nothing happens, called something else."""
        result = super().judge(summed)
        recall = result["per_class"][LABELS[0]]["recall"]
        return {**result, "false_alarms": 0.0 if recall is None else 1 - recall}


def gap(said: Tensor, truths: Tensor) -> Tensor:
    """How far `said` is from `truths`, where these are not NaN: the mean of a smooth L1."""
    asked = ~torch.isnan(truths)
    off = F.smooth_l1_loss(said, torch.nan_to_num(truths), reduction="none", beta=0.5)
    return (off * asked).sum() / asked.sum().clamp(min=1)

"""Cache the features of a frozen encoder on disk, so that only the head is trained.

Each clip is encoded in a few views. View 0 is the clip itself, the other views are augmented. Each step draws new
times, but views stay the same. For chunks of several frames only the starts are drawn: inside a chunk, frames follow
each other at the clip's own speed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engines.arrays import I64, U8
from training.data.augment import AugmentParams, AugmentRecipe
from training.data.batches import Batch, ClipTrainingBatches, ValidationBatches, WindowSampler, mixup, process_share
from training.data.clip_cache import exclusive_folder, read_array, write_array
from training.data.clips import Clips
from training.data.dataset import ClipDataSet
from training.data.windows import validation_layout
from training.errors import RecipeError
from training.models import ClipModel
from training.recipe import Recipe

ENCODE_BATCH = 32
"""The most chunks that are encoded at once."""


def check_frozen(model: ClipModel) -> None:
    """Raise `RecipeError` where the encoder has weights that are trained: its features would not stay the same."""
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    trained = [name for name, parameter in model.encoder.named_parameters() if id(parameter) not in backbone]
    if trained:
        raise RecipeError(
            f"windows.views: this encoder has trained weights outside its backbone ({', '.join(trained[:3])}); "
            "set windows.views: 0"
        )


def chunks_from(length: int, frames_per_chunk: int, steps: int) -> I64:
    """Return (F, t) frame indices: for each frame of a clip, the chunk that begins there.

    The clip has `length` frames, `steps` for each frame of the model. Past its end the last frame is held. Four
    frames, t=2, steps=2: 02 13 23 33, where 23 and 33 hold the last frame.
    """
    chunks = np.arange(length)[:, None] + steps * np.arange(frames_per_chunk)
    return np.asarray(np.minimum(chunks, length - 1), np.int64)


class FeatureCache:
    """The features of each clip in each view, on disk."""

    def __init__(self, model: ClipModel, recipe: Recipe, folder: Path) -> None:
        self._model, self._recipe, self._folder = model, recipe, folder
        digest = hashlib.sha256()
        for name, tensor in sorted(model.encoder.state_dict().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        shape = recipe.shape
        digest.update(json.dumps([shape.height, shape.width, recipe.augment.model_dump(mode="json")]).encode())
        digest.update(model.encoder.extra_repr().encode())  # distinguishes encoders without weights
        self._digest = digest.hexdigest()
        gpu = recipe.accelerator != "cpu" and torch.cuda.is_available()
        self._device = torch.device("cuda" if gpu else "cpu")

    def augmentations(self, clips: Clips, index: int, views: int) -> list[AugmentParams]:
        """Return the augmentation of clip `index` in each of its views."""
        frames = clips.frames(index)
        recipes = [AugmentRecipe(), *[self._recipe.augment] * (views - 1)]
        return [
            AugmentParams.sample(self._rng(clips, index, view), recipe, frames) for view, recipe in enumerate(recipes)
        ]

    def fill(self, clips: Clips, views: int, split: str) -> None:
        """Encode the views that are missing. A killed call resumes where it stopped."""
        with exclusive_folder(self._folder):
            missing = [
                (index, view)
                for index in range(len(clips.labels))
                for view in range(views)
                if not self._path(clips, index, view).is_file()
            ]
            if not missing:
                return
            encoder = self._model.encoder.to(self._device).eval()
            for count, (index, view) in enumerate(missing, start=1):
                write_array(self._path(clips, index, view), self._encode(encoder, clips, index, view))
                if count % 100 == 0 or count == len(missing):
                    print(f"{split}: encoded {count} of {len(missing)} views", file=sys.stderr, flush=True)
            encoder.cpu()

    def features(self, clips: Clips, index: int, view: int) -> npt.NDArray[Any]:
        """Return (F, *feature) of the chunks that begin at each frame, in half precision, which training can use."""
        return np.asarray(read_array(self._path(clips, index, view)))

    def _encode(self, encoder: Any, clips: Clips, index: int, view: int) -> npt.NDArray[np.float16]:
        shape = self._recipe.shape
        frames = clips.frames(index)
        rng = self._rng(clips, index, view)
        params = AugmentParams.sample(rng, AugmentRecipe() if view == 0 else self._recipe.augment, frames)
        augmented: U8 = params.apply(rng, frames, shape.height, shape.width)
        chunks = chunks_from(len(augmented), shape.frames_per_chunk, clips.steps(index))
        with torch.inference_mode():
            parts = [
                encoder(torch.from_numpy(augmented[part]).to(self._device)).float().cpu()
                for part in np.split(chunks, range(ENCODE_BATCH, len(chunks), ENCODE_BATCH))
            ]
        return np.asarray(torch.cat(parts).numpy(), np.float16)

    def _rng(self, clips: Clips, index: int, view: int) -> np.random.Generator:
        clip_seed = int.from_bytes(hashlib.sha256(clips.key(index).encode()).digest()[:8], "big")
        return np.random.default_rng([self._recipe.seed, 11, view, clip_seed])

    def _path(self, clips: Clips, index: int, view: int) -> Path:
        # View 0 is not augmented, so it does not depend on the seed.
        seed = self._recipe.seed if view else 0
        text = f"{self._digest} {clips.key(index)} {view} {seed}"
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"


class CachedTrainingBatches(ClipTrainingBatches):
    """Training batches of cached features instead of frames."""

    def __init__(self, cache: FeatureCache, sampler: WindowSampler, *, views: int, **options: Any) -> None:
        super().__init__(sampler, **options)
        self._cache, self._views = cache, views
        clips = sampler.clips
        cache.fill(clips, views, "training")
        self._params = [cache.augmentations(clips, index, views) for index in range(len(clips.labels))]

    def sample_batch(self, rng: np.random.Generator, size: int) -> Batch:
        """See `TrainingBatches`."""
        clips = self.sampler.clips
        rows, targets = [], []
        for index in self.draw_clips(rng, size):
            view = int(rng.integers(self._views))
            params = self._params[index][view]
            features = self._cache.features(clips, index, view)
            indices = self.sampler.frame_indices(rng, len(features), clips.steps(index))
            indices = indices[:: self.sampler.shape.frames_per_chunk]  # each chunk's first frame
            rows.append(features[indices[::-1] if params.reversed else indices])
            targets.append(self.sampler.target(index, params))
        features = np.stack(rows).astype(np.float32)
        target = np.stack(targets)
        if self._mixup:
            features, target, _ = mixup(rng, self._mixup, features, target, np.empty(0, np.float32))
        return {"features": torch.from_numpy(features), "target": torch.from_numpy(target)}


class CachedValidationBatches(ValidationBatches):
    """Validation batches of cached features instead of frames; one clip in each."""

    def __init__(self, cache: FeatureCache, data: ClipDataSet, recipe: Recipe) -> None:
        self._cache, self._recipe = cache, recipe
        self.clips = data.validation
        self.labels = data.validation.labels
        cache.fill(data.validation, 1, "validation")

    def __iter__(self) -> Iterator[Batch]:
        for index in process_share(len(self.labels), whole=self.whole):
            features = self._cache.features(self.clips, index, 0)
            layout = validation_layout(len(features), self._recipe.shape, self._recipe.windows)
            first = layout.frames[:: self._recipe.shape.frames_per_chunk]
            yield {
                "features": torch.from_numpy(features[first]),
                "windows": torch.from_numpy(layout.windows),
                "clips": torch.full((len(layout.windows),), index),
            }

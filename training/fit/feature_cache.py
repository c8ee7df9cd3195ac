"""Features of a frozen encoder, kept on disk: each clip is encoded under a few looks, and the head learns from those.

Times are drawn anew in each step; looks are not. Look 0 is the clip as it is. Of chunks of several frames only the
starts are drawn: within one, time goes as it was filmed.
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
from torch.utils.data import IterableDataset

from engines.arrays import I64, U8
from training.data.augment import AugmentParams, AugmentRecipe, draw_look, see
from training.data.batches import Batch, Cutter, TrainingBatches, layout, mix, my_part, world
from training.data.clip_cache import alone, read_array, write_array
from training.data.clips import Clips, DataSet
from training.errors import RecipeError
from training.models import ClipModel
from training.recipe import Recipe

ENCODE_AT_ONCE = 32


def check_frozen(model: ClipModel) -> None:
    """Raise `RecipeError` where the encoder has weights that learn: their features would not stay the same."""
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    free = [name for name, parameter in model.encoder.named_parameters() if id(parameter) not in backbone]
    if free:
        raise RecipeError(
            f"windows.views: this encoder has weights outside its backbone ({', '.join(free[:3])}), which learn; "
            "set windows.views: 0"
        )


def chunks_from(length: int, frames_per_chunk: int, steps: int) -> I64:
    """(F, t) for a clip of `length` frames, `steps` for each of the model's: the chunk that begins with each one.

    Where the clip ends, its last frame is held. Four frames, t=2, steps=2: 02 13 23 33, where 23 and 33 are held.
    """
    chunks = np.arange(length)[:, None] + steps * np.arange(frames_per_chunk)
    return np.asarray(np.minimum(chunks, length - 1), np.int64)


class FeatureStore:
    """The features of any clip under any look, from disk, or encoded and kept there."""

    def __init__(self, model: ClipModel, recipe: Recipe, folder: Path) -> None:
        self._model, self._recipe, self._folder = model, recipe, folder
        digest = hashlib.sha256()
        for name, tensor in sorted(model.encoder.state_dict().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        shape = recipe.shape
        digest.update(json.dumps([shape.height, shape.width, recipe.augment.model_dump(mode="json")]).encode())
        digest.update(model.encoder.extra_repr().encode())  # what an encoder without weights is told apart by
        self._digest = digest.hexdigest()
        gpu = recipe.accelerator != "cpu" and torch.cuda.is_available()
        self._device = torch.device("cuda" if gpu else "cpu")

    def looks(self, clips: Clips, index: int, views: int) -> list[AugmentParams]:
        """How clip `index` is seen in each of its views."""
        frames = clips.frames(index)
        recipes = [AugmentRecipe(), *[self._recipe.augment] * (views - 1)]
        return [draw_look(self._rng(clips, index, view), recipe, frames) for view, recipe in enumerate(recipes)]

    def fill(self, clips: Clips, views: int, what: str) -> None:
        """Encode what is missing; killed, it goes on where it stopped."""
        with alone(self._folder):
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
                    print(f"{what}: encoded {count} of {len(missing)} views", file=sys.stderr, flush=True)
            encoder.cpu()

    def features(self, clips: Clips, index: int, view: int) -> npt.NDArray[Any]:
        """(F, *feature) of the chunks that begin with each frame, in half precision: to learn from, that is enough."""
        return np.asarray(read_array(self._path(clips, index, view)))

    def _encode(self, encoder: Any, clips: Clips, index: int, view: int) -> npt.NDArray[np.float16]:
        shape = self._recipe.shape
        frames = clips.frames(index)
        rng = self._rng(clips, index, view)
        look = draw_look(rng, AugmentRecipe() if view == 0 else self._recipe.augment, frames)
        pictures: U8 = see(rng, look, frames, shape.height, shape.width)
        chunks = chunks_from(len(pictures), shape.frames_per_chunk, clips.steps(index))
        with torch.inference_mode():
            parts = [
                encoder(torch.from_numpy(pictures[part]).to(self._device)).float().cpu()
                for part in np.split(chunks, range(ENCODE_AT_ONCE, len(chunks), ENCODE_AT_ONCE))
            ]
        return np.asarray(torch.cat(parts).numpy(), np.float16)

    def _rng(self, clips: Clips, index: int, view: int) -> np.random.Generator:
        mark = int.from_bytes(hashlib.sha256(clips.key(index).encode()).digest()[:8], "big")
        return np.random.default_rng([self._recipe.seed, 11, view, mark])

    def _path(self, clips: Clips, index: int, view: int) -> Path:
        # The seed matters to looks that are drawn, not to the clip as it is.
        seed = self._recipe.seed if view else 0
        text = f"{self._digest} {clips.key(index)} {view} {seed}"
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"


class CachedTraining(TrainingBatches):
    """Like `TrainingBatches`, of features."""

    def __init__(self, store: FeatureStore, data: DataSet, cutter: Cutter, *, views: int, **options: Any) -> None:
        super().__init__(data, cutter, **options)
        self._store, self._views = store, views
        store.fill(data.training, views, "training")
        self._looks = [store.looks(data.training, index, views) for index in range(len(data.training.labels))]

    def batch(self, rng: np.random.Generator) -> Batch:
        """One step's part for this process."""
        clips = self.cutter.clips
        rows, labels = [], []
        for number in rng.choice(len(self._odds), self._batch // world(), p=self._odds):
            index, view = int(number), int(rng.integers(self._views))
            look = self._looks[index][view]
            features = self._store.features(clips, index, view)
            places = self.cutter.places(rng, len(features), clips.steps(index))
            places = places[:: self.cutter.shape.frames_per_chunk]  # each chunk's first frame
            rows.append(features[places[::-1] if look.reversed else places])
            labels.append(self.cutter.label(int(clips.labels[index]), look))
        features = np.stack(rows).astype(np.float32)
        target = np.eye(self.classes, dtype=np.float32)[labels]
        if self._mixup:
            features, target, _ = mix(rng, self._mixup, features, target, np.empty(0, np.float32))
        return {"features": torch.from_numpy(features), "target": torch.from_numpy(target)}


class CachedHeldBack(IterableDataset[Batch]):
    """Like `HeldBackBatches`, of features."""

    def __init__(self, store: FeatureStore, data: DataSet, recipe: Recipe) -> None:
        self._store, self._recipe = store, recipe
        self.clips = data.held_back
        self.labels = data.held_back.labels
        self.whole = False
        store.fill(data.held_back, 1, "held back")

    def __iter__(self) -> Iterator[Batch]:
        for index in my_part(len(self.labels), whole=self.whole):
            features = self._store.features(self.clips, index, 0)
            laid = layout(len(features), self._recipe.shape, self._recipe.windows)
            first = laid.frames[:: self._recipe.shape.frames_per_chunk]
            yield {
                "features": torch.from_numpy(features[first]),
                "windows": torch.from_numpy(laid.windows),
                "clips": torch.full((len(laid.windows),), index),
            }

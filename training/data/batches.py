"""Batches of windows for training and for validation.

A batch is a dictionary of tensors. A training batch has `frames` (N, T, t, H, W, 3) uint8 or `features` (N, T, *F),
`target` (N, K) and `aux_targets` (N, T, A). A validation batch has the chunks' `frames` (n, t, H, W, 3) or `features`
(n, *F), `windows` (W, T) with chunk numbers, and `clips` (W,) with the index of each window's clip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from engines.arrays import F32, F64, I64, U8
from training.data.augment import AugmentParams, AugmentRecipe, label_swaps
from training.data.clips import Clips, balanced_odds, target_of
from training.data.shape import Shape
from training.data.windows import WindowsRecipe, draw_stretched, draw_window, validation_layout
from training.errors import RecipeError

Batch = dict[str, Tensor]

MAX_CHUNKS = 128
"""How many chunks of validation clips are encoded at once. A single clip with more chunks is still one batch."""


def rank() -> int:
    """Return this process's number among the processes that train together."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Count the processes that train together; 1 before they are connected."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def process_share(total: int, *, whole: bool) -> range:
    """Choose the items of `total` that this process measures: all with `whole`, else its share of them."""
    return range(total) if whole or world_size() == 1 else range(rank(), total, world_size())


class TrainingBatches(IterableDataset[Batch]):
    """Endless training batches. The seed, the step and the process determine a batch, so a resumed run repeats nothing.

    `batch` is the size of a step's batch in all processes that train together.
    """

    step: int = 0
    """The step of the next batch; a resumed run sets it."""
    process: tuple[int, int] | None = None
    """Number and count of the processes that train together. The processes of a loader do not know them otherwise."""

    def __init__(self, *, seed: int, batch: int) -> None:
        self._seed, self._batch = seed, batch

    def __iter__(self) -> Iterator[Batch]:
        number, processes = self.process or (rank(), world_size())
        step, stride = self.step, 1
        if (info := get_worker_info()) is not None:
            step, stride = step + info.id, info.num_workers
        while True:
            rng = np.random.default_rng([self._seed, 7, step, number])
            yield self.sample_batch(rng, self._batch // processes)
            step += stride

    def sample_batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw `size` windows, this process's share of one step."""
        raise NotImplementedError


class ValidationBatches(IterableDataset[Batch]):
    """The validation set, each item once and not augmented."""

    labels: I64
    """(C,) the class of each item; (C, K) of zeros and ones where labels are independent."""
    whole: bool = False
    """Whether this process reads all items, and not only its share of them."""


class WindowSampler:
    """Draw a window of a training clip and its augmentation."""

    def __init__(
        self, clips: Clips, labels: tuple[str, ...], shape: Shape, windows: WindowsRecipe, augment: AugmentRecipe
    ) -> None:
        self.clips, self.shape, self.windows, self.augment = clips, shape, windows, augment
        try:
            self._flipped = label_swaps(augment.flip_labels, labels)
            self._reversed = label_swaps(augment.reverse_labels, labels)
        except ValueError as error:
            raise RecipeError(f"augment: {error}") from None
        self._classes = len(labels)

    def frame_indices(self, rng: np.random.Generator, length: int, steps: int) -> I64:
        """Draw (T * t,) indices into a clip of `length` frames, with `steps` frames for each frame of the model."""
        window = self.shape.window
        if self.windows.fit == "stretch":
            return draw_stretched(rng, length, window=window, span=self.windows.span, jitter=self.windows.jitter)
        return draw_window(
            rng,
            length,
            window=window,
            steps=steps,
            speed=self.augment.speed,
            jitter=self.windows.jitter,
            fill=self.windows.short_clips,
        )

    def sample(self, rng: np.random.Generator, index: int) -> tuple[U8, F32, F32]:
        """Draw a window of clip `index`: (chunks (T, t, H, W, 3), target (K,), auxiliary targets (T, A))."""
        shape, clips = self.shape, self.clips
        frames = clips.frames(index)
        indices = self.frame_indices(rng, len(frames), clips.steps(index))
        params = AugmentParams.sample(rng, self.augment, frames)
        if params.reversed:
            indices = indices[::-1]
        unique, back = np.unique(indices, return_inverse=True)  # a frame that repeats is augmented once
        augmented = params.apply(rng, frames[unique], shape.height, shape.width)
        chunks = augmented[back].reshape(shape.chunks, shape.frames_per_chunk, shape.height, shape.width, 3)
        return chunks, self.target(index, params), self._aux_targets(index, indices, params)

    def target(self, index: int, params: AugmentParams) -> F32:
        """Return (K,): 1 for each label of clip `index` after the augmentation `params`, and 0 for the others."""
        target = target_of(self.clips.labels, index, self._classes)
        if params.flipped:
            target = target[self._flipped]
        return target[self._reversed] if params.reversed else target

    def _aux_targets(self, index: int, indices: I64, params: AugmentParams) -> F32:
        """Return (T, A): the auxiliary targets of each chunk's last frame, NaN where unknown."""
        names = list(self.clips.aux_names)
        last = indices[self.shape.frames_per_chunk - 1 :: self.shape.frames_per_chunk]
        known = self.clips.aux_targets(index)
        if known is None:
            return np.full((self.shape.chunks, len(names)), np.nan, np.float32)
        out = np.array(known[last], np.float32)
        if "x" in names and "y" in names:
            columns = [names.index("x"), names.index("y")]
            out[:, columns] = params.apply_to_points(out[:, columns])
        return out


class ClipTrainingBatches(TrainingBatches):
    """Training batches of windows drawn from clips. `odds` (C,) is the chance of each clip to be drawn."""

    def __init__(
        self,
        sampler: WindowSampler,
        *,
        odds: F64,
        classes: int,
        seed: int,
        batch: int,
        balanced: bool,
        mixup: float,
    ) -> None:
        super().__init__(seed=seed, batch=batch)
        self.sampler, self._mixup = sampler, mixup
        self.odds: F64 = balanced_odds(odds, sampler.clips.labels, classes) if balanced else odds / odds.sum()

    def draw_clips(self, rng: np.random.Generator, size: int) -> Sequence[int]:
        """Draw the clips of `size` windows."""
        return [int(index) for index in rng.choice(len(self.odds), size, p=self.odds)]

    def sample_batch(self, rng: np.random.Generator, size: int) -> Batch:
        """See `TrainingBatches`."""
        windows = [self.sampler.sample(rng, index) for index in self.draw_clips(rng, size)]
        frames, target, aux_targets = (np.stack(column) for column in zip(*windows, strict=True))
        if self._mixup:
            frames, target, aux_targets = mixup(rng, self._mixup, frames, target, aux_targets)
        return {
            "frames": torch.from_numpy(frames),
            "target": torch.from_numpy(target),
            "aux_targets": torch.from_numpy(aux_targets),
        }


def mixup(
    rng: np.random.Generator, alpha: float, inputs: npt.NDArray[Any], target: F32, aux_targets: F32
) -> tuple[npt.NDArray[Any], F32, F32]:
    """Mix every row with another row, all in one proportion (mixup, Zhang et al. 2018).

    Targets are mixed in the same proportion, also those of independent labels. The auxiliary targets of a mixture are
    unknown, so they become NaN.
    """
    share = float(rng.beta(alpha, alpha))
    other = rng.permutation(len(inputs))
    mixed = share * inputs.astype(np.float32) + (1 - share) * inputs[other].astype(np.float32)
    if inputs.dtype == np.uint8:
        mixed = np.rint(mixed)
    mixed_target = (share * target + (1 - share) * target[other]).astype(np.float32)
    return mixed.astype(inputs.dtype), mixed_target, np.full_like(aux_targets, np.nan)


class ClipValidationBatches(ValidationBatches):
    """Every validation clip once, in the windows of `validation_layout`; each process reads its share."""

    def __init__(self, clips: Clips, shape: Shape, windows: WindowsRecipe) -> None:
        self.clips, self.shape, self.windows = clips, shape, windows
        self.labels = clips.labels

    def __iter__(self) -> Iterator[Batch]:
        pending: list[tuple[int, U8, I64]] = []
        for index in process_share(len(self.labels), whole=self.whole):
            frames = self.clips.frames(index)
            layout = validation_layout(len(frames), self.shape, self.windows)
            chunks = frames[layout.frames].reshape(-1, self.shape.frames_per_chunk, *frames.shape[1:])
            if pending and sum(len(item[1]) for item in pending) + len(chunks) > MAX_CHUNKS:
                yield _collate(pending)
                pending = []
            pending.append((index, chunks, layout.windows))
        if pending:
            yield _collate(pending)


def _collate(clips: list[tuple[int, U8, I64]]) -> Batch:
    """Make one validation batch of several clips, each (index, chunks, windows)."""
    starts = np.cumsum([0, *(len(chunks) for _, chunks, _ in clips)])
    windows = np.concatenate([windows + start for (_, _, windows), start in zip(clips, starts[:-1], strict=True)])
    indices = np.concatenate([np.full(len(windows), index) for index, _, windows in clips])
    return {
        "frames": torch.from_numpy(np.concatenate([chunks for _, chunks, _ in clips])),
        "windows": torch.from_numpy(windows),
        "clips": torch.from_numpy(indices),
    }

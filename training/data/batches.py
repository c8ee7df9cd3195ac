"""Batches of windows: drawn from seed and step alone, and the held-back clips, each in several windows.

A batch is a dictionary of tensors. To train: `frames` (N, T, t, H, W, 3) uint8 or `features` (N, T, *F), `target`
(N, K) and `truths` (N, T, A). To measure: `frames` (n, t, H, W, 3) or `features` (n, *F) of chunks, `windows` (W, T)
of chunk numbers, `clips` (W,) of which clip each window is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from engines.arrays import F32, I64, U8
from training.data.augment import AugmentParams, AugmentRecipe, draw_look, see, see_points, swaps
from training.data.clips import Clips, DataSet
from training.data.recipes import Shape, WindowsRecipe
from training.data.windows import Layout, draw_stretched, draw_window, lay_windows, stretch_windows
from training.errors import RecipeError

Batch = dict[str, Tensor]

MAX_CHUNKS = 128
"""Chunks of held-back clips that are encoded at once, more only where one clip has more."""


def rank() -> int:
    """This process's number among those that train together."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together, once they do."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def my_part(total: int, *, whole: bool) -> range:
    """Which of `total` things this process measures: its part, or, where nobody adds the parts up, the whole."""
    return range(total) if whole or world() == 1 else range(rank(), total, world())


def layout(length: int, shape: Shape, windows: WindowsRecipe) -> Layout:
    """How a held-back clip of `length` frames is measured."""
    if windows.fit == "stretch":
        return stretch_windows(
            length, frames_per_chunk=shape.frames_per_chunk, chunks=shape.chunks, count=max(windows.measured, 1)
        )
    return lay_windows(
        length,
        frames_per_chunk=shape.frames_per_chunk,
        chunks=shape.chunks,
        count=windows.measured,
        how=windows.short_clips,
    )


class Cutter:
    """Draws which part of a clip is taken, and how it is seen."""

    def __init__(self, data: DataSet, shape: Shape, windows: WindowsRecipe, augment: AugmentRecipe) -> None:
        self.clips, self.shape, self.windows, self.augment = data.training, shape, windows, augment
        try:
            self._flipped = swaps(augment.flip_labels, data.labels)
            self._reversed = swaps(augment.reverse_labels, data.labels)
        except ValueError as error:
            raise RecipeError(f"augment: {error}") from None

    def places(self, rng: np.random.Generator, length: int, steps: int) -> I64:
        """(T * t,) indices into a clip of `length` frames."""
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
            how=self.windows.short_clips,
        )

    def cut(self, rng: np.random.Generator, index: int) -> tuple[U8, int, F32]:
        """(chunks (T, t, H, W, 3), class, truths (T, A)) of clip `index`."""
        shape, clips = self.shape, self.clips
        frames = clips.frames(index)
        places = self.places(rng, len(frames), clips.steps(index))
        look = draw_look(rng, self.augment, frames)
        if look.reversed:
            places = places[::-1]
        unique, back = np.unique(places, return_inverse=True)  # frames that repeat are seen once
        pictures = see(rng, look, frames[unique], shape.height, shape.width)
        chunks = pictures[back].reshape(shape.chunks, shape.frames_per_chunk, shape.height, shape.width, 3)
        return chunks, self.label(int(clips.labels[index]), look), self._truths(index, places, look)

    def label(self, label: int, look: AugmentParams) -> int:
        """The class that a clip of class `label` is, seen so."""
        if look.flipped:
            label = int(self._flipped[label])
        return int(self._reversed[label]) if look.reversed else label

    def _truths(self, index: int, places: I64, look: AugmentParams) -> F32:
        """(T, A): what is known of each chunk's last frame; NaN where nothing is."""
        names = list(self.clips.truth_names)
        last = places[self.shape.frames_per_chunk - 1 :: self.shape.frames_per_chunk]
        known = self.clips.truths(index)
        if known is None:
            return np.full((self.shape.chunks, len(names)), np.nan, np.float32)
        out = np.array(known[last], np.float32)
        if "x" in names and "y" in names:
            where = [names.index("x"), names.index("y")]
            out[:, where] = see_points(look, out[:, where])
        return out


class TrainingBatches(IterableDataset[Batch]):
    """Endless batches; which windows a step sees depends on seed and step alone, so resuming repeats nothing."""

    def __init__(self, data: DataSet, cutter: Cutter, *, seed: int, batch: int, balanced: bool, mixup: float) -> None:
        self.step = 0
        self.cutter, self.classes = cutter, len(data.labels)
        self._seed, self._batch, self._mixup = seed, batch, mixup
        odds = data.odds
        if balanced:
            of_class = np.bincount(data.training.labels, weights=odds, minlength=self.classes)
            odds = odds / of_class[data.training.labels]
        self._odds = odds / odds.sum()

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        if info is not None:
            cv2.setNumThreads(1)
        step = self.step + (info.id if info else 0)
        while True:
            yield self.batch(np.random.default_rng([self._seed, 7, step, rank()]))
            step += info.num_workers if info else 1

    def batch(self, rng: np.random.Generator) -> Batch:
        """One step's part for this process."""
        size = self._batch // world()
        cuts = [self.cutter.cut(rng, int(index)) for index in rng.choice(len(self._odds), size, p=self._odds)]
        frames, labels, truths = (np.stack(part) for part in zip(*cuts, strict=True))
        target = np.eye(self.classes, dtype=np.float32)[labels]
        if self._mixup:
            frames, target, truths = mix(rng, self._mixup, frames, target, truths)
        return {
            "frames": torch.from_numpy(frames),
            "target": torch.from_numpy(target),
            "truths": torch.from_numpy(truths),
        }


def mix(
    rng: np.random.Generator, alpha: float, inputs: npt.NDArray[Any], target: F32, truths: F32
) -> tuple[npt.NDArray[Any], F32, F32]:
    """mixup (Zhang et al. 2018): every row with another one, in one proportion. Truths of mixtures are not known."""
    share = float(rng.beta(alpha, alpha))
    other = rng.permutation(len(inputs))
    mixed = share * inputs.astype(np.float32) + (1 - share) * inputs[other].astype(np.float32)
    if inputs.dtype == np.uint8:
        mixed = np.rint(mixed)
    blended = (share * target + (1 - share) * target[other]).astype(np.float32)
    return mixed.astype(inputs.dtype), blended, np.full_like(truths, np.nan)


class HeldBackBatches(IterableDataset[Batch]):
    """Every held-back clip once, as it is, in the windows that `layout` lays; each process takes its part."""

    def __init__(self, clips: Clips, shape: Shape, windows: WindowsRecipe) -> None:
        self.clips, self.shape, self.windows = clips, shape, windows
        self.labels = clips.labels
        self.whole = False

    def __iter__(self) -> Iterator[Batch]:
        waiting: list[tuple[int, U8, I64]] = []
        for index in my_part(len(self.labels), whole=self.whole):
            frames = self.clips.frames(index)
            laid = layout(len(frames), self.shape, self.windows)
            chunks = frames[laid.frames].reshape(-1, self.shape.frames_per_chunk, *frames.shape[1:])
            if waiting and sum(len(item[1]) for item in waiting) + len(chunks) > MAX_CHUNKS:
                yield together(waiting)
                waiting = []
            waiting.append((index, chunks, laid.windows))
        if waiting:
            yield together(waiting)


def together(parts: list[tuple[int, U8, I64]]) -> Batch:
    """One batch of several clips' chunks and windows."""
    firsts = np.cumsum([0, *(len(chunks) for _, chunks, _ in parts)])
    windows = np.concatenate([windows + first for (_, _, windows), first in zip(parts, firsts[:-1], strict=True)])
    clips = np.concatenate([np.full(len(windows), index) for index, _, windows in parts])
    return {
        "frames": torch.from_numpy(np.concatenate([chunks for _, chunks, _ in parts])),
        "windows": torch.from_numpy(windows),
        "clips": torch.from_numpy(clips),
    }

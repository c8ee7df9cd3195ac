"""A recipe's data, opened: batches to train on and batches to validate with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from engines.arrays import F64, U8
from training.data.augment import AugmentRecipe
from training.data.batches import (
    ClipTrainingBatches,
    ClipValidationBatches,
    TrainingBatches,
    ValidationBatches,
    WindowSampler,
)
from training.data.clips import Clips
from training.data.shape import Shape
from training.data.windows import WindowsRecipe
from training.errors import RunError


class DataSet(ABC):
    """Labelled windows to train on and to validate with, whatever the kind of data.

    `notes`: sentences about the data that the user should know. `aux_names`: the names of the auxiliary targets.
    """

    labels: tuple[str, ...]
    notes: list[str]
    aux_names: Sequence[str] = ()

    @abstractmethod
    def training_batches(
        self, shape: Shape, *, windows: WindowsRecipe, augment: AugmentRecipe, seed: int, batch: int
    ) -> TrainingBatches:
        """Return endless batches of `batch` windows, which all processes together make."""

    @abstractmethod
    def validation_batches(self, shape: Shape, windows: WindowsRecipe) -> ValidationBatches:
        """Return the batches of the validation set."""

    def golden_candidates(self, shape: Shape, windows: WindowsRecipe) -> Iterator[U8]:
        """Yield validation windows (T, t, H, W, 3) uint8 RGB; a bundle's golden window is chosen from them."""
        for batch in self.validation_batches(shape, windows):
            for window in batch["windows"]:
                yield batch["frames"][window].numpy()


class EncodedDataSet(DataSet):
    """Windows of features, which only a head can learn from: the encoder is frozen, and encodes each chunk once."""

    @abstractmethod
    def encoded_batches(
        self, encoder: nn.Module, *, windows: WindowsRecipe, augment: AugmentRecipe, seed: int, batch: int
    ) -> TrainingBatches:
        """Encode what the cache lacks, and return endless batches of `batch` windows of features."""

    def training_batches(
        self, shape: Shape, *, windows: WindowsRecipe, augment: AugmentRecipe, seed: int, batch: int
    ) -> TrainingBatches:
        """Raise `RunError`: these data need the encoder."""
        raise RunError("this kind of data has batches of features only")


class ClipDataSet(DataSet):
    """Clips to train on and clips to validate with.

    `odds`: (C,) the chance of each training clip to be drawn, before classes are balanced; even by default.
    """

    def __init__(
        self,
        *,
        labels: tuple[str, ...],
        training: Clips,
        validation: Clips,
        odds: F64 | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.labels, self.training, self.validation = labels, training, validation
        clips = len(training.labels)
        self.odds: F64 = np.full(clips, 1 / clips) if odds is None else odds
        self.notes = list(notes)
        self.aux_names = training.aux_names

    def training_batches(
        self, shape: Shape, *, windows: WindowsRecipe, augment: AugmentRecipe, seed: int, batch: int
    ) -> ClipTrainingBatches:
        """Return batches of windows drawn from the training clips."""
        return ClipTrainingBatches(
            WindowSampler(self.training, self.labels, shape, windows, augment),
            odds=self.odds,
            classes=len(self.labels),
            seed=seed,
            batch=batch,
            balanced=windows.balanced,
            mixup=augment.mixup,
        )

    def validation_batches(self, shape: Shape, windows: WindowsRecipe) -> ClipValidationBatches:
        """Return batches of the validation clips' windows."""
        return ClipValidationBatches(self.validation, shape, windows)

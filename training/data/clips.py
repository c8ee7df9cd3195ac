"""What a data set is to the trainer: clips at a known rate, each with a label, some held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.arrays import F32, I64, U8

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of splits as lists and folders spell them, and as we do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a list: where a clip is, what it shows, which part it belongs to and whom it shares a source with."""

    path: str
    label: str
    split: str = ""
    group: str = ""


class Clips(Protocol):
    """Decoded clips in one order for ever."""

    labels: I64
    """(C,) index of each clip's label."""
    names: Sequence[str]
    groups: Sequence[str]
    truth_names: Sequence[str]
    """What is known of every frame besides: names of the A columns of `truths`."""

    def key(self, index: int) -> str:
        """What tells this clip's pixels from any other's."""

    def steps(self, index: int) -> int:
        """How many of a clip's frames there are for each one at the recipe's fps."""

    def frames(self, index: int) -> U8:
        """(F, h, w, 3) uint8 RGB, read-only."""

    def truths(self, index: int) -> F32 | None:
        """(F, A) float32, NaN where unknown; x and y are shares of the picture's width and height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What a recipe trains on and is measured on, and what was noticed while it was read.

    `odds`: (C,) chance of each training clip to be drawn, before classes are balanced.
    """

    labels: tuple[str, ...]
    training: Clips
    held_back: Clips
    odds: npt.NDArray[np.float64]
    notes: list[str] = field(default_factory=list)
    public: bool = False
    """Whether its pictures may be shipped in a bundle: made ones may, people's may not."""

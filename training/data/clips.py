"""Labelled clips, as the trainer reads them, and the rows of the lists that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engines.arrays import F32, F64, I64, U8
from training.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The names that lists and folders give to splits, in lower case, and the name that this package uses for each."""


def split_name(text: str) -> str:
    """Return this package's name of a split; `text` itself where it is no known name."""
    return SPLITS.get(text.strip().lower(), text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a list of clips. Clips that come from the same source have the same `group`.

    `several` has all labels of a clip whose labels are independent, maybe none; `label` is their text then.
    `origin` names the list and the line for messages.
    """

    path: str
    label: str
    several: tuple[str, ...] | None = None
    split: str = ""
    group: str = ""
    origin: str = field(default="", compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the clip: one, unless labels are independent."""
        return (self.label,) if self.several is None else self.several


class Clips(Protocol):
    """Decoded clips in an order that never changes."""

    labels: I64
    """(C,) index of each clip's label; (C, K) of zeros and ones where labels are independent."""
    names: Sequence[str]
    groups: Sequence[str]
    aux_names: Sequence[str]
    """The names of the A columns of `aux_targets`: the values that are known of each frame besides the label."""

    def key(self, index: int) -> str:
        """Return a string that differs for clips with different pixels."""

    def steps(self, index: int) -> int:
        """Return how many frames the clip holds for each frame at the recipe's fps."""

    def frames(self, index: int) -> U8:
        """Return (F, h, w, 3) uint8 RGB, read-only."""

    def aux_targets(self, index: int) -> F32 | None:
        """Return (F, A) float32, NaN where unknown; x and y are shares of the frame's width and height."""


def target_of(labels: I64, index: int, classes: int) -> F32:
    """Return (K,) of zeros and ones for clip `index`; `labels` as in `Clips.labels`."""
    if labels.ndim > 1:
        return np.asarray(labels[index], np.float32)
    target = np.zeros(classes, np.float32)
    target[labels[index]] = 1
    return target


def label_counts(labels: I64, classes: int) -> I64:
    """Return (K,) the number of clips with each label; `labels` as in `Clips.labels`."""
    if labels.ndim > 1:
        return np.asarray(labels.sum(axis=0), np.int64)
    return np.bincount(labels, minlength=classes)


def balanced_odds(odds: F64, labels: I64, classes: int) -> F64:
    """Return the chances (C,) of clips with which all labels are drawn equally often.

    A clip with several labels counts for each of them. Clips without a label count as one more label.
    """
    if labels.ndim == 1:
        balanced: F64 = odds / np.bincount(labels, weights=odds, minlength=classes)[labels]
    else:
        hot = np.concatenate([labels, labels.sum(axis=1, keepdims=True) == 0], axis=1)
        share = odds @ hot
        balanced = odds * (hot @ np.divide(1, share, out=np.zeros_like(share), where=share > 0))
    total: F64 = balanced / balanced.sum()
    return total


class ConcatenatedClips(Clips):
    """The clips of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Clips]) -> None:
        self._sources = list(sources)
        self._starts = np.cumsum([0, *(len(source.labels) for source in sources)])
        self.labels: I64 = np.concatenate([source.labels for source in sources])
        self.names = [name for source in sources for name in source.names]
        self.groups = [group for source in sources for group in source.groups]
        self.aux_names = max((source.aux_names for source in sources), key=len)
        for source in sources:
            if source.aux_names and list(source.aux_names) != list(self.aux_names):
                raise DataError(
                    f"parts: one has the auxiliary targets {list(source.aux_names)}, another {list(self.aux_names)}; "
                    "mix parts that have the same"
                )

    def _locate(self, index: int) -> tuple[Clips, int]:
        """Return the source of clip `index`, and the clip's index there."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[number], index - int(self._starts[number])

    def key(self, index: int) -> str:
        """Return the key that the clip has in its source."""
        source, own_index = self._locate(index)
        return source.key(own_index)

    def steps(self, index: int) -> int:
        """Return the steps that the clip has in its source."""
        source, own_index = self._locate(index)
        return source.steps(own_index)

    def frames(self, index: int) -> U8:
        """Return (F, h, w, 3) from the clip's source."""
        source, own_index = self._locate(index)
        return source.frames(own_index)

    def aux_targets(self, index: int) -> F32 | None:
        """Return (F, A) from the clip's source, or None where it has no targets."""
        source, own_index = self._locate(index)
        return source.aux_targets(own_index)

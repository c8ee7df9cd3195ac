"""The data kind `clips`: video files with labels, checked, decoded and split, with notes about what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from engines.arrays import F32, I64, U8
from engines.printable import printable
from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_area_keys import PictureAreaKeys
from streamclf.sources import Resize
from training.data.base import ClipSection, given_path
from training.data.clip_cache import StoredClip, read_array, store_clips
from training.data.clip_lists import read_rows
from training.data.clips import Clips, Row, label_counts
from training.data.dataset import ClipDataSet
from training.data.decode import DecodeSpec
from training.data.near_duplicates import find_near_duplicates
from training.data.shape import Shape
from training.data.splits import (
    check_classes,
    check_groups,
    check_measurable,
    check_negatives,
    class_names,
    split_by_groups,
    split_by_list,
)

MAX_EXAMPLES = 5
"""How many clips a note names."""
MAX_COMPARED = 20_000
"""The search for near-duplicates compares this many clips of each split, the first ones."""


class ClipsData(ClipSection, PictureAreaKeys):
    """Video files: a CSV list, a folder of classes, or UCF101's lists; see `training.data.clip_lists`."""

    kind: Literal["clips"] = "clips"
    path: Path | None = Field(None, description="a CSV with path,label,split,group, or a folder")
    videos: Path | None = Field(
        None, description="folder that the list's paths are relative to; the list's own folder by default"
    )
    ucf101_list: Literal[1, 2, 3] = Field(1, description="the number of UCF101's or HMDB51's list, of three")
    multi_label: bool = Field(
        False,
        description="a clip may have several labels, or none: in several rows, or in one cell, divided by ;",
    )
    train_split: str = "train"
    validation_split: str = "val"
    folds: int | None = Field(
        None, ge=2, le=100, description="ignore the list's splits; distribute groups over this many folds"
    )
    fold: int = Field(0, ge=0, description="the fold for validation")
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="the share of clips for validation, for lists without splits"
    )
    resize: Resize = Field("stretch", description="how a frame of another shape becomes the model's")
    find_duplicates: bool = Field(True, description="search for near-duplicates between training and validation")

    @model_validator(mode="after")
    def _check_fold(self) -> ClipsData:
        if self.fold and self.fold >= (self.folds or 1):
            raise ValueError(f"fold={self.fold}: folds count from 0 to folds - 1 (folds={self.folds})")
        return self

    @property
    def area(self) -> PictureArea:
        """Return the part of each film's picture that the model sees."""
        return PictureArea(rotate=self.rotate, flip=self.flip, mask=self.mask, region=self.region)

    @property
    def resize_policy(self) -> Resize | None:
        """Return how frames of another shape become the model's."""
        return self.resize

    def given_path(self) -> Path:
        """Return the list or folder. Raises `RecipeError` where the recipe gives none."""
        return given_path(self.path, "a CSV list with the columns path,label,split,group, or a folder of classes,")

    def label_names(self) -> tuple[str, ...]:
        """Return the classes, from the recipe or from the list."""
        path = self.given_path()
        return self.labels or class_names(self._read_rows(path, [])[0])

    @property
    def has_independent_labels(self) -> bool:
        """Tell whether a clip may have several labels, or none."""
        return self.multi_label

    def open(self, shape: Shape, *, seed: int, stretch: bool) -> ClipDataSet:
        """Read the list, check and split it, and decode the clips that the cache lacks."""
        notes: list[str] = []
        rows, folder = self._read_rows(self.given_path(), notes)
        labels = class_names(rows, self.labels)
        training_rows, validation_rows = self.split(rows, seed)
        check_groups(training_rows, validation_rows)
        check_classes((label for row in training_rows for label in row.labels), labels, "the training split")
        if self.multi_label:
            check_negatives(training_rows, labels)
            check_measurable(validation_rows, labels)
        decoder = _Decoder(self, shape, folder=folder, labels=labels, notes=notes)
        in_validation = {label for row in validation_rows for label in row.labels}
        if absent := [name for name in labels if name not in in_validation]:
            decoder.notes.append(
                f"no validation clip of {', '.join(absent)}: how well the model knows it cannot be measured"
            )
        training = decoder.decode("training", training_rows, shape.enlarged(self.train_scale), self.steps)
        readable = np.flatnonzero(label_counts(training.labels, len(labels)))
        check_classes((labels[i] for i in readable), labels, "the training split that can be read")
        validation = decoder.decode(
            "validation", validation_rows, (shape.height, shape.width), self.steps if stretch else 1
        )
        notes = decoder.notes
        if self.find_duplicates:
            notes += near_duplicate_notes(training, validation)
        return ClipDataSet(labels=labels, training=training, validation=validation, notes=notes)

    def _read_rows(self, path: Path, notes: list[str]) -> tuple[list[Row], Path]:
        return read_rows(
            path,
            videos=self.videos,
            ucf101_list=self.ucf101_list,
            notes=notes,
            multi_label=self.multi_label,
            known=self.labels,
        )

    def split(self, rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
        """Split `rows` into (training, validation) as this section says."""
        if self.folds is not None:
            return split_by_groups(rows, folds=self.folds, fold=self.fold, seed=seed)
        if any(row.split for row in rows):
            validation = self.validation_split
            if validation == "val" and {row.split for row in rows} == {"train", "test"}:
                validation = "test"  # UCF101's lists have these two splits
            return split_by_list(rows, self.train_split, validation)
        return split_by_groups(rows, folds=max(round(1 / self.validation_fraction), 2), fold=0, seed=seed)

    def card_text(self) -> str:
        """Name the list and say how it was split."""
        path = self.given_path()
        split = (
            f"fold {self.fold} of {self.folds} is for validation" if self.folds else "whole groups are for validation"
        )
        return f"clips of `{printable(path.parent.name or '.')}/{printable(path.name)}`{self._area_text()}; {split}."

    def _area_text(self) -> str:
        """Say which part of the picture is seen, in words that follow the clips."""
        keys = self.area.keys
        return "".join(f", {key} {json.dumps(value)}" for key, value in keys.items())


def label_array(rows: Sequence[Row], labels: Sequence[str]) -> I64:
    """Return the labels of clips as in `Clips.labels`."""
    if all(row.several is None for row in rows):
        return np.array([labels.index(row.label) for row in rows], np.int64)
    return np.array([[name in row.labels for name in labels] for row in rows], np.int64).reshape(-1, len(labels))


class CachedClips(Clips):
    """Decoded clips in the files of `training.data.clip_cache`; only their names are in memory."""

    aux_names: Sequence[str] = ()

    def __init__(self, paths: Sequence[Path], rows: Sequence[Row], labels: Sequence[str], *, steps: int) -> None:
        self._paths = list(paths)
        self._steps = steps
        self.labels: I64 = label_array(rows, labels)
        self.names = [printable(row.path) for row in rows]
        self.groups = [row.group for row in rows]

    def key(self, index: int) -> str:
        """Return the digest that names the clip's file."""
        return self._paths[index].stem

    def steps(self, index: int) -> int:
        """Return the steps, which are the same for all clips."""
        return self._steps

    def frames(self, index: int) -> U8:
        """Open the clip's file. It is opened anew each time: thousands of open files would be too many."""
        return np.asarray(read_array(self._paths[index]), np.uint8)

    def aux_targets(self, index: int) -> F32 | None:
        """Return None: films have no auxiliary targets."""
        return None


class _Decoder:
    """Decode the splits of one list, and collect notes about them."""

    def __init__(
        self, data: ClipsData, shape: Shape, *, folder: Path, labels: Sequence[str], notes: Sequence[str]
    ) -> None:
        self._data, self._shape, self._folder, self._labels = data, shape, folder, labels
        self.notes = list(notes)

    def decode(self, split: str, rows: Sequence[Row], size: tuple[int, int], steps: int) -> CachedClips:
        """Decode the clips of `rows` to frames of `size` (height, width)."""
        spec = DecodeSpec(
            fps=self._shape.fps,
            frames_per_chunk=self._shape.frames_per_chunk,
            steps=steps,
            height=size[0],
            width=size[1],
            resize=self._data.resize,
            area=self._data.area,
        )
        paths = [self._folder / row.path for row in rows]
        stored = store_clips(paths, spec, self._data.cache, workers=self._data.workers)
        self.notes += decoding_notes(stored, window=self._shape.window, steps=steps, split=split)
        kept = [(row, item.frames) for row, item in zip(rows, stored, strict=True) if item.frames is not None]
        return CachedClips([path for _, path in kept], [row for row, _ in kept], self._labels, steps=steps)


def decoding_notes(stored: Sequence[StoredClip], *, window: int, steps: int, split: str) -> list[str]:
    """Write notes on unreadable, short and damaged clips, and on clips with gaps."""
    notes = []
    unreadable = [item.reason for item in stored if item.frames is None]
    decoded = [item for item in stored if item.frames is not None]
    if unreadable:
        notes.append(
            f"{split}: {len(unreadable)} of {len(stored)} clips cannot be read and are left out: {_few(unreadable)}"
        )
    if short := [item for item in decoded if item.facts["frames"] < window * steps]:
        notes.append(
            f"{split}: {len(short)} of {len(decoded)} clips are shorter than a window (shortest "
            f"{min(item.facts['frames'] for item in short) / steps:.0f} of {window} frames) and are filled up"
        )
    if gaps := [item for item in decoded if item.facts["elsewhere"]]:
        notes.append(f"{split}: {len(gaps)} clips have gaps; only the longest segment of each is used")
    if damaged := [item for item in decoded if item.facts["undecodable"]]:
        notes.append(f"{split}: {len(damaged)} clips have parts that cannot be decoded")
    return notes


def near_duplicate_notes(training: Clips, validation: Clips) -> list[str]:
    """Write a note on validation clips that look like training clips."""
    pairs = find_near_duplicates(
        validation,
        training,
        first_indices=range(min(len(validation.labels), MAX_COMPARED)),
        second_indices=range(min(len(training.labels), MAX_COMPARED)),
    )
    if not pairs:
        return []
    clips = {pair.first for pair in pairs}
    examples = [f"{validation.names[pair.first]} and {training.names[pair.second]}" for pair in pairs]
    return [
        f"{len(clips)} of {len(validation.labels)} validation clips look like a training clip (near-duplicates, or one "
        f"still camera): {_few(examples)}; if they share a source, give them the same group, or the figures will be "
        "too good"
    ]


def _few(items: Sequence[str]) -> str:
    return "; ".join(items[:MAX_EXAMPLES]) + ("; …" if len(items) > MAX_EXAMPLES else "")

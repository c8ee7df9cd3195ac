"""A recipe's `data` section -> clips to train on and clips held back, checked, decoded, and what was noticed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.arrays import F32, I64, U8
from training.data.clip_cache import Stored, read_array, store_clips
from training.data.clip_lists import read_rows
from training.data.clips import Clips, DataSet, Row
from training.data.decode import DecodeSpec
from training.data.near_duplicates import find_twins
from training.data.recipes import ClipRecipe, ClipsData, GesturesMadeData, MixedData, Shape, VolumesData
from training.data.splits import by_groups, by_list, check_classes, check_groups, class_names
from training.data.volumes import VolumeClips, read_volumes, volume_labels
from training.errors import DataError

MAX_TOLD = 5
MAX_COMPARED = 20_000
"""Clips among which twins are looked for; of more, the first so many on each side."""


class StoredClips(Clips):
    """Clips that `training.data.clip_cache` keeps: nothing is in memory but the names."""

    truth_names: Sequence[str] = ()

    def __init__(self, paths: Sequence[Path], rows: Sequence[Row], labels: Sequence[str], *, steps: int) -> None:
        self._paths = list(paths)
        self._steps = steps
        self.labels: I64 = np.array([labels.index(row.label) for row in rows], np.int64)
        self.names = [row.path for row in rows]
        self.groups = [row.group for row in rows]

    def key(self, index: int) -> str:
        """The digest under which it is kept."""
        return self._paths[index].stem

    def steps(self, index: int) -> int:
        """The same for all."""
        return self._steps

    def frames(self, index: int) -> U8:
        """Opened anew each time: thousands of open files would be too many."""
        return np.asarray(read_array(self._paths[index]), np.uint8)

    def truths(self, index: int) -> F32 | None:
        """Films tell nothing but their label."""
        return None


class JoinedClips(Clips):
    """The clips of several sources, one after the other."""

    def __init__(self, parts: Sequence[Clips]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part.labels) for part in parts)])
        self.labels: I64 = np.concatenate([part.labels for part in parts])
        self.names = [name for part in parts for name in part.names]
        self.groups = [group for part in parts for group in part.groups]
        self.truth_names = max((part.truth_names for part in parts), key=len)
        for part in parts:
            if part.truth_names and list(part.truth_names) != list(self.truth_names):
                raise DataError(f"parts: one knows {list(part.truth_names)}, another {list(self.truth_names)}")

    def _at(self, index: int) -> tuple[Clips, int]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[part], index - int(self._starts[part])

    def key(self, index: int) -> str:
        """Its own source's."""
        part, at = self._at(index)
        return part.key(at)

    def steps(self, index: int) -> int:
        """Its own source's."""
        part, at = self._at(index)
        return part.steps(at)

    def frames(self, index: int) -> U8:
        """Its own source's."""
        part, at = self._at(index)
        return part.frames(at)

    def truths(self, index: int) -> F32 | None:
        """Its own source's."""
        part, at = self._at(index)
        return part.truths(at)


def open_data(data: ClipRecipe, shape: Shape, *, seed: int, stretch: bool) -> DataSet:
    """Everything that a recipe trains on. Raises `DataError` for what cannot be trained on.

    `stretch`: clips held back are kept at `steps` times the rate too, so that they can be stretched finely.
    """
    if isinstance(data, ClipsData):
        return _open_clips(data, shape, seed, data.steps if stretch else 1)
    if isinstance(data, VolumesData):
        return _open_volumes(data, shape)
    if isinstance(data, GesturesMadeData):
        return _open_made(data, shape, seed, data.steps if stretch else 1)
    return _open_mixed(data, shape, seed, stretch)


def label_names(data: ClipRecipe) -> tuple[str, ...]:
    """The classes, without decoding anything. Raises `DataError` where neither recipe nor list names them."""
    if isinstance(data, MixedData):
        return label_names(data.parts[0].data)
    if data.labels:
        return data.labels
    if isinstance(data, GesturesMadeData):
        from training.builtin.gestures import LABELS

        return tuple(LABELS)
    if isinstance(data, ClipsData):
        return class_names(read_rows(data.path, ucf101_list=data.ucf101_list)[0])
    return volume_labels(data.path, read_volumes(data.path, data.train_split, keep=None)[1], ())


def _open_clips(data: ClipsData, shape: Shape, seed: int, held_back_steps: int) -> DataSet:
    rows, base = read_rows(data.path, ucf101_list=data.ucf101_list)
    base = data.videos or base
    labels = class_names(rows, data.labels)
    training, held_back = split_rows(rows, data, seed)
    check_groups(training, held_back)
    check_classes(training, labels, "the training split")
    notes: list[str] = []
    if absent := [name for name in labels if name not in {row.label for row in held_back}]:
        notes.append(f"no clip of {', '.join(absent)} is held back: how well that is known cannot be measured")
    height, width = shape.enlarged(data.train_scale)
    first = _decoded(training, base, shape, data, (height, width), data.steps, labels, notes, "training")
    second = _decoded(
        held_back, base, shape, data, (shape.height, shape.width), held_back_steps, labels, notes, "held back"
    )
    if data.find_twins:
        notes += twin_notes(first, second)
    return DataSet(labels=labels, training=first, held_back=second, odds=_even(first), notes=notes)


def split_rows(rows: Sequence[Row], data: ClipsData, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held back), as the recipe says."""
    if data.folds is not None:
        return by_groups(rows, parts=data.folds, part=data.fold, seed=seed)
    if any(row.split for row in rows):
        held_back = data.held_back_split
        splits = {row.split for row in rows}
        if held_back == "val" and splits == {"train", "test"}:
            held_back = "test"  # as UCF101's lists have it
        return by_list(rows, data.train_split, held_back)
    return by_groups(rows, parts=max(round(1 / data.held_back_share), 2), part=0, seed=seed)


def _decoded(
    rows: Sequence[Row],
    base: Path,
    shape: Shape,
    data: ClipsData,
    size: tuple[int, int],
    steps: int,
    labels: Sequence[str],
    notes: list[str],
    part: str,
) -> StoredClips:
    spec = DecodeSpec(
        fps=shape.fps,
        frames_per_chunk=shape.frames_per_chunk,
        steps=steps,
        height=size[0],
        width=size[1],
        resize=data.resize,
    )
    stored = store_clips([base / row.path for row in rows], spec, data.cache, workers=data.workers)
    notes += stored_notes(stored, window=shape.window, steps=steps, part=part)
    kept = [(row, item.frames) for row, item in zip(rows, stored, strict=True) if item.frames is not None]
    check = [row for row, _ in kept]
    if part == "training":
        check_classes(check, labels, "the training split that can be read")
    return StoredClips([path for _, path in kept], check, labels, steps=steps)


def stored_notes(stored: Sequence[Stored], *, window: int, steps: int, part: str) -> list[str]:
    """What somebody should know of clips that were decoded."""
    notes = []
    bad = [item.reason for item in stored if item.frames is None]
    good = [item for item in stored if item.frames is not None]
    if bad:
        notes.append(f"{part}: {len(bad)} of {len(stored)} clips cannot be read and are left out: {_few(bad)}")
    if short := [item for item in good if item.facts["frames"] < window * steps]:
        notes.append(
            f"{part}: {len(short)} of {len(good)} clips are shorter than a window (shortest "
            f"{min(item.facts['frames'] for item in short) / steps:.0f} of {window} frames) and are filled up"
        )
    if gaps := [item for item in good if item.facts["elsewhere"]]:
        notes.append(f"{part}: {len(gaps)} clips have gaps; the longest run without one is taken")
    if damaged := [item for item in good if item.facts["undecodable"]]:
        notes.append(f"{part}: {len(damaged)} clips have parts that cannot be decoded")
    return notes


def twin_notes(first: Clips, second: Clips) -> list[str]:
    """Near-duplicates across the split, said."""
    twins = find_twins(
        second,
        first,
        first_indices=range(min(len(second.labels), MAX_COMPARED)),
        second_indices=range(min(len(first.labels), MAX_COMPARED)),
    )
    if not twins:
        return []
    clips = {pair.first for pair in twins}
    told = [f"{second.names[pair.first]} and {first.names[pair.second]}" for pair in twins]
    return [
        f"{len(clips)} of {len(second.labels)} held-back clips look like a training clip (near-duplicates, or one "
        f"still camera): {_few(told)}; if they share a source, give them one group, or the figures flatter"
    ]


def _few(items: Sequence[str]) -> str:
    return "; ".join(items[:MAX_TOLD]) + ("; …" if len(items) > MAX_TOLD else "")


def _even(clips: Clips) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.full(len(clips.labels), 1 / len(clips.labels))


def _open_volumes(data: VolumesData, shape: Shape) -> DataSet:
    volumes, classes = read_volumes(data.path, data.train_split, keep=data.keep)
    labels = volume_labels(data.path, classes, data.labels)
    counts = Counter(classes.tolist())
    for number, name in enumerate(labels):
        if not counts[number]:
            raise DataError(
                f"class {name!r}: no volume of it in {data.train_split}_labels of {data.path}; is it the whole file?"
            )
    others, other_classes = read_volumes(data.path, data.held_back_split, keep=data.keep)
    volume_labels(data.path, other_classes, labels)
    notes = []
    if volumes.shape[1] != shape.window:
        notes.append(f"volumes have {volumes.shape[1]} slices, a window takes {shape.window} of them")
    mine = {volume.tobytes() for volume in volumes}
    if twins := sum(volume.tobytes() in mine for volume in others):
        notes.append(f"{twins} of {len(others)} held-back volumes are also trained on; the figures flatter")
    size = shape.enlarged(data.train_scale)
    training = VolumeClips(volumes, classes, split=data.train_split, size=size)
    return DataSet(
        labels=labels,
        training=training,
        held_back=VolumeClips(others, other_classes, split=data.held_back_split, size=(shape.height, shape.width)),
        odds=_even(training),
        notes=notes,
    )


def _open_made(data: GesturesMadeData, shape: Shape, seed: int, held_back_steps: int) -> DataSet:
    from training.data.synthetic import open_made  # makers bring much along

    labels = label_names(data)

    def opened(clips: int, first_seed: int, size: tuple[int, int], steps: int) -> Clips:
        return open_made(data, clips=clips, seed=first_seed, fps=shape.fps, size=size, steps=steps, labels=labels)

    training = opened(data.clips, seed, shape.enlarged(data.train_scale), data.steps)
    held_back = opened(data.held_back_clips, seed + 1_000_000, (shape.height, shape.width), held_back_steps)
    return DataSet(labels=labels, training=training, held_back=held_back, odds=_even(training), public=True)


def _open_mixed(data: MixedData, shape: Shape, seed: int, stretch: bool) -> DataSet:
    sets = [open_data(part.data, shape, seed=seed, stretch=stretch) for part in data.parts]
    for other in sets[1:]:
        if other.labels != sets[0].labels:
            raise DataError(
                f"parts: one has the classes {', '.join(sets[0].labels)}, another {', '.join(other.labels)}; give "
                "both the same data.labels"
            )
    whole = sum(part.share for part in data.parts)
    odds = np.concatenate([part.share / whole * item.odds for part, item in zip(data.parts, sets, strict=True)])
    measured = [item.held_back for part, item in zip(data.parts, sets, strict=True) if part.held_back]
    return DataSet(
        labels=sets[0].labels,
        training=JoinedClips([item.training for item in sets]),
        held_back=measured[0] if len(measured) == 1 else JoinedClips(measured),
        odds=odds,
        notes=[note for item in sets for note in item.notes],
        public=all(item.public for part, item in zip(data.parts, sets, strict=True) if part.held_back),
    )


def tell(notes: Sequence[str]) -> None:
    """Notes on stderr, each on its line."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)

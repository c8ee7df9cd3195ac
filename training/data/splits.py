"""Split clips into training and validation: as their list says, or by whole groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from training.data.clips import Row, split_name
from training.data.file_names import as_label
from training.errors import DataError


def class_names(rows: Sequence[Row], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the classes in the order `wanted`, or alphabetically.

    Raises `DataError` where `wanted` and the list do not name the same classes.
    """
    found = {label for row in rows for label in row.labels}
    if not wanted:
        names = tuple(sorted(found))
    else:
        names = tuple(as_label(name) for name in wanted)
        if unknown := found - set(names):
            raise DataError(
                f"label {min(unknown)!r}: in the list, but not among data.labels ({', '.join(names)}); "
                "add it to data.labels or remove its clips"
            )
        if missing := [name for name in names if name not in found]:
            raise DataError(
                f"label {missing[0]!r}: among data.labels, but no clip of the list has it "
                f"(it has {', '.join(sorted(found))}); add clips or remove the label"
            )
    if not names:
        raise DataError("no clip has a label; give clips that have one, and clips that have none")
    if len(names) < 2 and rows[0].several is None:
        raise DataError(f"only one class, {names[0]!r}; give clips of at least two classes")
    return names


def check_groups(training: Sequence[Row], validation: Sequence[Row]) -> None:
    """Raise `DataError` for a group in both splits, because its validation clips would not be unseen."""
    by_group = {row.group: row.path for row in training if row.group}
    for row in validation:
        if row.group in by_group:
            raise DataError(
                f"group {row.group!r}: {by_group[row.group]} is a training clip and {row.path} a validation clip, "
                "but they share a source; put the whole group into one split"
            )


def check_classes(found: Iterable[str], names: Sequence[str], part: str) -> None:
    """Raise `DataError` for a class of `names` that is not among `found`, the labels of all clips in `part`."""
    known = set(found)
    for name in names:
        if name not in known:
            raise DataError(f"class {name!r}: no clip of it in {part}; add some, or give other splits")


def check_negatives(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raise `DataError` for an independent label that all training clips have: it cannot be learned."""
    for name in names:
        if all(name in row.labels for row in rows):
            raise DataError(
                f"label {name!r}: all {len(rows)} training clips have it; add clips without it, or remove the label"
            )


def check_measurable(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raise `DataError` if no independent label has validation clips with it and without it."""
    counts = Counter(label for row in rows for label in row.labels)
    if not any(0 < counts[name] < len(rows) for name in names):
        raise DataError(
            f"{len(rows)} validation clips: each label is in none of them, or in all; add clips with a label and clips "
            "without it, or nothing measures the model"
        )


def split_by_list(rows: Sequence[Row], train: str, validation: str) -> tuple[list[Row], list[Row]]:
    """Return the rows of the two splits named. Raises `DataError` where a split has no rows."""
    splits = [[row for row in rows if row.split == split_name(name)] for name in (train, validation)]
    for name, split in zip((train, validation), splits, strict=True):
        if not split:
            counts = Counter(row.split or "none" for row in rows)
            found = ", ".join(f"{count} in {known}" for known, count in sorted(counts.items()))
            raise DataError(f"split {name!r}: no clip in it ({found}); give data.train_split and data.validation_split")
    return splits[0], splits[1]


def split_by_groups(rows: Sequence[Row], *, folds: int, fold: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Distribute whole groups over `folds` of about equal class shares; fold number `fold` is for validation.

    A clip without a group is a group of its own. Classes stay as even as groups allow: the largest groups are
    distributed first, each to the fold that lacks its classes most. Raises `DataError` where a class has too few
    groups.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.group or f"clip {number}"].append(row)
    groups_of: dict[str, int] = Counter(
        label for clips in groups.values() for label in {label for row in clips for label in _classes_of(row)}
    )
    rarest = min(groups_of, key=lambda label: (groups_of[label], label))
    if groups_of[rarest] < 2 and rarest:
        clips = sum(rarest in _classes_of(row) for row in rows)
        raise DataError(
            f"class {rarest!r}: {clips} clip{'s' if clips > 1 else ''} of one source; at least two sources are needed, "
            "one for training and one for validation"
        )
    order = np.random.default_rng([seed, folds]).permutation(len(groups))
    names = list(groups)
    shuffled = sorted((names[i] for i in order), key=lambda name: -len(groups[name]))
    totals = Counter(label for row in rows for label in _classes_of(row))
    counts: list[Counter[str]] = [Counter() for _ in range(folds)]
    members: list[list[Row]] = [[] for _ in range(folds)]
    for name in shuffled:
        inside = Counter(label for row in groups[name] for label in _classes_of(row))

        def fullness(i: int, inside: Counter[str] = inside) -> tuple[float, int]:
            return sum(count * counts[i][label] / totals[label] for label, count in inside.items()), len(members[i])

        target = min(range(folds), key=fullness)
        counts[target].update(inside)
        members[target] += groups[name]
    validation = members[fold]
    chosen = {id(row) for row in validation}
    return [row for row in rows if id(row) not in chosen], validation


def _classes_of(row: Row) -> tuple[str, ...]:
    """Return the labels of a clip; clips without a label count as a class of their own."""
    return row.labels or ("",)

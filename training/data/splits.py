"""Which clips train and which are held back: as the list says, or drawn by whole groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from training.data.clips import Row
from training.errors import DataError


def class_names(rows: Sequence[Row], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The classes, in the order wanted or of the alphabet. Raises `DataError` for one that is not in the other."""
    found = {row.label for row in rows}
    if not wanted:
        names = tuple(sorted(found))
    else:
        names = tuple(wanted)
        if unknown := found - set(names):
            raise DataError(
                f"label {min(unknown)!r}: in the list, but not among data.labels ({', '.join(names)}); "
                "add it there or take its clips out"
            )
        if missing := [name for name in names if name not in found]:
            raise DataError(
                f"label {missing[0]!r}: among data.labels, but no clip of the list has it "
                f"(it has {', '.join(sorted(found))}); add clips or take it out"
            )
    if len(names) < 2:
        raise DataError(f"one class only, {names[0]!r}; give clips of at least two")
    return names


def check_groups(training: Sequence[Row], held_back: Sequence[Row]) -> None:
    """Raise `DataError` for a group that is on both sides: its held-back clips would not be unseen."""
    mine = {row.group: row.path for row in training if row.group}
    for row in held_back:
        if row.group in mine:
            raise DataError(
                f"group {row.group!r}: {mine[row.group]} trains and {row.path} is held back, though they share a "
                "source; put the whole group into one split"
            )


def check_classes(rows: Sequence[Row], names: Sequence[str], part: str) -> None:
    """Raise `DataError` for a class without a clip."""
    counts = Counter(row.label for row in rows)
    for name in names:
        if not counts[name]:
            raise DataError(f"class {name!r}: no clip of it in {part}; add some, or give other splits")


def by_list(rows: Sequence[Row], train: str, held_back: str) -> tuple[list[Row], list[Row]]:
    """The rows of the two splits named. Raises `DataError` where one has none."""
    parts = [[row for row in rows if row.split == name] for name in (train, held_back)]
    for name, part in zip((train, held_back), parts, strict=True):
        if not part:
            have = Counter(row.split or "none" for row in rows)
            told = ", ".join(f"{count} in {split}" for split, count in sorted(have.items()))
            raise DataError(f"split {name!r}: no clip in it ({told}); give data.train_split and data.held_back_split")
    return parts[0], parts[1]


def by_groups(rows: Sequence[Row], *, parts: int, part: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Deal whole groups into `parts` of about equal class shares; part number `part` is held back.

    A clip without a group is one of its own. Classes stay as even as groups allow: the largest groups are dealt
    first, each to the part that lacks its classes most. Raises `DataError` where a class has too few groups.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.group or f"clip {number}"].append(row)
    of_class: dict[str, int] = Counter(label for clips in groups.values() for label in {row.label for row in clips})
    short = min(of_class, key=lambda label: (of_class[label], label))
    if of_class[short] < 2:
        clips = sum(row.label == short for row in rows)
        raise DataError(
            f"class {short!r}: {clips} clip{'s' if clips > 1 else ''} of one source; at least two are needed, one "
            "to train on and one to hold back"
        )
    order = np.random.default_rng([seed, parts]).permutation(len(groups))
    names = list(groups)
    shuffled = sorted((names[i] for i in order), key=lambda name: -len(groups[name]))
    wanted = Counter(row.label for row in rows)
    filled: list[Counter[str]] = [Counter() for _ in range(parts)]
    dealt: list[list[Row]] = [[] for _ in range(parts)]
    for name in shuffled:
        inside = Counter(row.label for row in groups[name])

        def fullness(i: int, inside: Counter[str] = inside) -> tuple[float, int]:
            return sum(count * filled[i][label] / wanted[label] for label, count in inside.items()), len(dealt[i])

        target = min(range(parts), key=fullness)
        filled[target].update(inside)
        dealt[target] += groups[name]
    held_back = dealt[part]
    kept = {id(row) for row in held_back}
    return [row for row in rows if id(row) not in kept], held_back

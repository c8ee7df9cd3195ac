"""Find films that occur twice, exactly or almost, and form the groups that cross-validation never divides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from engines.arrays import I32, U8
from engines.printable import printable
from streamclf.errors import UsageError
from streamclf.teach.examples import Example
from streamclf.teach.limits import ADJACENT_S

MOST_LEVELS: Final = 5.0
"""A film and its copy in another quality differ by at most so many grey levels, in each part of each picture."""
LEAST_MOTION: Final = 12.0
"""Films in which nothing moves by more grey levels are not compared: all films of a still scene are alike."""


def group_examples(items: Sequence[Example]) -> tuple[I32, list[str]]:
    """Return the group of each clip, (N,), and a line for each pair of films that are almost the same.

    Raises `UsageError` if two labels have the same film.
    """
    sets = _Sets(len(items))
    by_key: dict[str, int] = {}
    for number, item in enumerate(items):
        for key in (f"group {item.row.group}", f"film {item.row.sha256}"):
            sets.join(number, by_key.setdefault(key, number))
    _join_adjacent(items, sets)
    notes = []
    for first, second in _similar_pairs([item.content.thumbs for item in items]):
        one, two = items[first].row, items[second].row
        if one.sha256 == two.sha256:
            continue
        if one.label != two.label:
            raise UsageError(
                f"{printable(one.name)} and {printable(two.name)}: almost the same film with the labels "
                f"{printable(one.label)!r} and {printable(two.label)!r}; keep one of them"
            )
        sets.join(first, second)
        notes.append(f"{printable(one.name)} and {printable(two.name)} are almost the same film, and count as one")
    return np.array([sets.find(number) for number in range(len(items))], np.int32), notes


def check_labels(items: Sequence[Example]) -> None:
    """Raise `UsageError` if one film, or one part of it, is an example of two labels."""
    by_film: dict[str, list[Example]] = defaultdict(list)
    for item in items:
        by_film[item.row.sha256].append(item)
    for same in by_film.values():
        for number, item in enumerate(same):
            for other in same[:number]:
                if other.row.label != item.row.label and _overlap(other, item):
                    raise UsageError(
                        f"{printable(other.row.name)} and {printable(item.row.name)}: the same film with the labels "
                        f"{printable(other.row.label)!r} and {printable(item.row.label)!r}; keep one of them, or mark "
                        "different parts of it"
                    )


def _overlap(one: Example, two: Example) -> bool:
    first, second = one.row.stretch, two.row.stretch
    return first is None or second is None or (first[0] < second[1] and second[0] < first[1])


def _join_adjacent(items: Sequence[Example], sets: _Sets) -> None:
    """Join films of one label, of the service's cameras, that overlap or follow each other at once.

    Films of two labels stay apart: a user who marks what happens gives them in turn, a few seconds after each other.
    """
    timed = sorted(
        (item.row.label, item.row.began, item.row.began + float(item.content.times[-1, 1]), number)
        for number, item in enumerate(items)
        if item.row.began is not None
    )
    for before, after in pairwise(timed):
        if before[0] == after[0] and after[1] - before[2] < ADJACENT_S:
            sets.join(before[3], after[3])


def _similar_pairs(thumbs: Sequence[U8]) -> Iterator[tuple[int, int]]:
    """Yield pairs of clips whose pictures are almost equal, although something moves in them.

    A copy may have one chunk less. Only clips whose first and last pictures agree are compared in full.
    """
    moving = [
        number for number, thumb in enumerate(thumbs) if float(np.ptp(thumb.astype(np.int16), 0).max()) >= LEAST_MOTION
    ]
    by_length: dict[int, list[int]] = defaultdict(list)
    for number in moving:
        by_length[len(thumbs[number])].append(number)
    for length, numbers in by_length.items():
        others = [*numbers, *by_length.get(length + 1, ())]
        firsts = np.stack([thumbs[number][0].ravel() for number in others]).astype(np.int16)
        for place, number in enumerate(numbers):
            near = np.flatnonzero(np.abs(firsts[place + 1 :] - firsts[place]).max(axis=1) <= MOST_LEVELS) + place + 1
            for other in (others[int(index)] for index in near):
                difference = thumbs[number].astype(np.int16) - thumbs[other][:length]
                if float(np.abs(difference).max()) <= MOST_LEVELS:
                    yield min(number, other), max(number, other)


class _Sets:
    """Disjoint sets of numbers."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find(self, number: int) -> int:
        """Return the smallest number of its set."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def join(self, one: int, two: int) -> None:
        """Join the sets of two numbers."""
        first, second = sorted((self.find(one), self.find(two)))
        self._parents[second] = first

"""Say in sentences which examples a taught model lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engines.printable import printable
from streamclf.teach.examples import Example
from streamclf.teach.figures import AlikePair, Figures, LabelFigures
from streamclf.teach.limits import GOOD_CLIPS
from streamclf.units import duration_text

FEW_GROUPS: Final = 5
MIXED: Final = 0.25
"""A wrong clip of which at least this share of windows was right shows its label probably only in part."""
LONG_CLIP_S: Final = 6.0
ONE_SESSION_S: Final = 900.0


def advise_on_pair(pair: AlikePair, figures: Figures, items: Sequence[Example]) -> str:
    """Return a remedy for two labels that are too alike."""
    one, two = (_of(figures, label) for label in pair.labels)
    between = [wrong for wrong in figures.wrong if {wrong.label, wrong.predicted} == set(pair.labels)]
    mixed = [wrong for wrong in between if wrong.right_windows >= MIXED and _seconds(items[wrong.clip]) >= LONG_CLIP_S]
    fewer = min(one, two, key=lambda label: label.groups)
    if len(mixed) > len(between) / 2:
        return (
            f"{len(mixed)} of the {len(between)} wrong clips are right in part: the label probably shows only for some "
            "of their time. Give shorter stretches: NAME_START-ENDs.mp4, or marks.csv"
        )
    if fewer.groups < GOOD_CLIPS:
        return f"Give more clips of {_quoted(fewer.label)}, from other recordings ({fewer.groups} now)"
    return (
        "More clips alone will hardly help: film from another angle, or give a region in which the difference is larger"
    )


def advise(figures: Figures, items: Sequence[Example]) -> list[str]:
    """Return sentences about what to give next, the most important first."""
    lines = []
    low, high = figures.interval
    if not figures.beats_chance:
        lines.append(
            f"The result is not better than chance ({figures.chance:.0%}): 95 % interval {low:.0%} to {high:.0%}. "
            "Check that each film shows its label from beginning to end"
        )
    for pair in figures.alike:
        first, second = map(_quoted, pair.labels)
        lines.append(f"{first} and {second} are too alike. {advise_on_pair(pair, figures, items)}")
    for label in figures.per_label:
        if label.clips < GOOD_CLIPS:
            lines.append(f"{_quoted(label.label)} has {label.clips} clips; {GOOD_CLIPS} or more are better")
        elif label.groups < FEW_GROUPS:
            lines.append(
                f"The {label.clips} clips of {_quoted(label.label)} come from {label.groups} recordings; record it at "
                "other times too"
            )
    lines += _sessions(figures, items)
    return lines


def _sessions(figures: Figures, items: Sequence[Example]) -> list[str]:
    """Name labels whose clips are all from one short time: their figures hold for that light and scene only."""
    lines = []
    for label in figures.per_label:
        times = [item.row.began for item in items if item.row.label == label.label]
        known = [time for time in times if time is not None]
        if len(known) == len(times) and max(known) - min(known) < ONE_SESSION_S:
            lines.append(
                f"All clips of {_quoted(label.label)} are from {duration_text(max(known) - min(known) + 1)} of one "
                "day; other light may change the result: add clips of another time"
            )
    return lines


def _of(figures: Figures, label: str) -> LabelFigures:
    return next(found for found in figures.per_label if found.label == label)


def _seconds(item: Example) -> float:
    return float(item.content.times[-1, 1] - item.content.times[0, 0])


def _quoted(label: str) -> str:
    return f"'{printable(label)}'"

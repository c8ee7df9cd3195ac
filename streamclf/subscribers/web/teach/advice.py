"""Say which examples to add next to a model, from the number, times and labels of those that it has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from streamclf.subscribers.web.teach.library import ExampleFilm
from streamclf.teach.limits import ADJACENT_S, GOOD_CLIPS, MIN_CLIPS, MIN_GROUPS, NONE_FOLDERS

MAX_RATIO: Final = 3.0
SESSION_S: Final = 600.0
"""Examples within this time are taken to show the same scene."""
NIGHT_BEGINS: Final = 20
NIGHT_ENDS: Final = 6


def advise(examples: Mapping[str, Sequence[ExampleFilm]]) -> list[str]:
    """Return the examples to add next, the most important first; empty if none is missing. `examples` are by label."""
    examples = _taught(examples)
    counts = {label: len(found) for label, found in examples.items()}
    advice: list[str] = []
    if not counts:
        return ["Add at least two labels that the model shall distinguish, such as open and shut."]
    if len(counts) == 1:
        (only,) = counts
        advice.append(f"Add a second label, for the pictures that do not show “{only}”.")
    for label, count in sorted(counts.items(), key=lambda each: each[1]):
        if count < MIN_CLIPS:
            advice.append(f"Add at least {_more(MIN_CLIPS - count)} of “{label}”.")
        elif recordings(examples[label]) < MIN_GROUPS:
            advice.append(
                f"Add examples of “{label}” from another moment: all follow each other within {ADJACENT_S:g} s."
            )
    begun = {label: [each.began_s for each in found] for label, found in examples.items()}
    for label, times in begun.items():
        if len(times) >= MIN_CLIPS and max(times) - min(times) < SESSION_S:
            advice.append(f"Add examples of “{label}” from another hour or day: all are from the same ten minutes.")
    nights = {label: any(map(is_night, times)) for label, times in begun.items()}
    if any(nights.values()):
        missing = [label for label, has_night in nights.items() if not has_night and begun[label]]
        advice += [f"Add examples of “{label}” at night: all are from the day." for label in missing]
    for label, count in counts.items():
        if MIN_CLIPS <= count < GOOD_CLIPS:
            advice.append(f"Add {_more(GOOD_CLIPS - count)} of “{label}” for a better model.")
    if min(counts.values()) >= MIN_CLIPS and max(counts.values()) > MAX_RATIO * min(counts.values()):
        most, least = max(counts, key=lambda each: counts[each]), min(counts, key=lambda each: counts[each])
        advice.append(f"Add examples of “{least}”: “{most}” has {counts[most] / counts[least]:.0f} times as many.")
    return advice


def can_train(examples: Mapping[str, Sequence[ExampleFilm]]) -> bool:
    """Return whether there are enough examples to train."""
    taught = _taught(examples)
    return len(taught) >= 2 and all(
        len(found) >= MIN_CLIPS and recordings(found) >= MIN_GROUPS for found in taught.values()
    )


def recordings(examples: Sequence[ExampleFilm]) -> int:
    """Return the number of recordings, as `streamclf teach` counts them: one is held out while others are learned.

    Films of the service that follow each other within seconds are one recording. A film made by hand is one by itself,
    unless it shares the part of its name before `__`.
    """
    by_hand = {each.file.partition("__")[0] if "__" in each.file else each.file for each in examples if not each.info}
    timed = sorted((each.began_s, each.began_s + each.seconds) for each in examples if each.info)
    apart = sum(after[0] - before[1] >= ADJACENT_S for before, after in pairwise(timed))
    return len(by_hand) + (apart + 1 if timed else 0)


def _more(count: int) -> str:
    return "1 more example" if count == 1 else f"{count} more examples"


def _taught(examples: Mapping[str, Sequence[ExampleFilm]]) -> dict[str, Sequence[ExampleFilm]]:
    """Return the labels without the one of films that show none of the others."""
    return {label: found for label, found in examples.items() if label.casefold() not in NONE_FOLDERS}


def is_night(began_s: float) -> bool:
    """Return whether a time is between 20:00 and 6:00 on this machine."""
    hour = datetime.fromtimestamp(began_s).hour
    return hour >= NIGHT_BEGINS or hour < NIGHT_ENDS

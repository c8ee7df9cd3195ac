"""Say which examples a model needs next, from the number, times and labels of those that it has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from streamclf.subscribers.web.teach.library import Example

ENOUGH: Final = 5
"""Examples that each label needs at least; as `streamclf teach` requires."""
GOOD: Final = 10
MAX_RATIO: Final = 3.0
SESSION_S: Final = 600.0
"""Examples within this time are taken to show the same scene."""
NIGHT_BEGINS: Final = 20
NIGHT_ENDS: Final = 6


def advise(examples: Mapping[str, Sequence[Example]]) -> list[str]:
    """Return what to give next, the most important first; empty if nothing is missing. `examples` are by label."""
    counts = {label: len(found) for label, found in examples.items()}
    advice: list[str] = []
    if not counts:
        return ["Name what you want to recognise: at least two labels, like open and shut."]
    if len(counts) == 1:
        (only,) = counts
        advice.append(f"Name a second label: what the camera shows when it is not “{only}”.")
    for label, count in sorted(counts.items(), key=lambda each: each[1]):
        if count < ENOUGH:
            advice.append(f"{ENOUGH - count} more of “{label}”, at least.")
    begun = {label: [each.began_s for each in found] for label, found in examples.items()}
    for label, times in begun.items():
        if len(times) >= ENOUGH and max(times) - min(times) < SESSION_S:
            advice.append(f"All examples of “{label}” are of the same ten minutes: add some of another hour or day.")
    nights = {label: any(map(is_night, times)) for label, times in begun.items()}
    if any(nights.values()):
        missing = [label for label, has_night in nights.items() if not has_night and begun[label]]
        advice += [f"None of “{label}” at night yet." for label in missing]
    for label, count in counts.items():
        if ENOUGH <= count < GOOD:
            advice.append(f"{GOOD - count} more of “{label}” would make the model better.")
    if min(counts.values()) >= ENOUGH and max(counts.values()) > MAX_RATIO * min(counts.values()):
        most, least = max(counts, key=lambda each: counts[each]), min(counts, key=lambda each: counts[each])
        advice.append(f"“{most}” has {counts[most] / counts[least]:.0f} times as many as “{least}”: balance them.")
    return advice


def can_train(examples: Mapping[str, Sequence[Example]]) -> bool:
    """Return whether there are enough examples to train."""
    return len(examples) >= 2 and all(len(found) >= ENOUGH for found in examples.values())


def is_night(began_s: float) -> bool:
    """Return whether a time is between 20:00 and 6:00 on this machine."""
    hour = datetime.fromtimestamp(began_s).hour
    return hour >= NIGHT_BEGINS or hour < NIGHT_ENDS

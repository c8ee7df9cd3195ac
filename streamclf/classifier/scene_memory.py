"""Keep features of a feed's scene while no action hides it, for comparison during such an action. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engines.arrays import F32

SCENES: Final = 2
"""Stretches of the scene to compare the picture with: somebody may stand in front of the camera in one of them."""
_KEPT: Final = 4
"""Stretches that are kept at each interval. The oldest are used: the newest may already show how the cover comes."""
INTERVAL_S: Final = 2.0
"""Media time between the ends of two recent stretches."""
OLD_INTERVAL_S: Final = 20.0
"""The same for old stretches. The oldest one is from 60 to 80 s ago: it may precede a cover that the model missed."""


@dataclass(slots=True)
class SceneMemory:
    """The features of the last stretches of one feed, each (T // 2, *F) float32, with the media time of their ends."""

    _stretches: deque[tuple[float, F32]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _old: deque[tuple[float, F32]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def is_due(self, at_s: float, *, may_be_hidden: bool = False) -> bool:
        """Return whether the stretch that ends at `at_s`, media time, is to be added.

        `may_be_hidden`: a label that hides the scene is probable, but perhaps not enough for an action. Then the
        stretches are `OLD_INTERVAL_S` apart, because each may show a cover. Some are needed, because the light could
        change for hours in this state.
        """
        return _is_due(self._stretches, at_s, OLD_INTERVAL_S if may_be_hidden else INTERVAL_S)

    def add(self, at_s: float, features: F32) -> None:
        """Add the stretch that ends at `at_s`. If the clock has begun again, the others are older than any time."""
        for known in (self._stretches, self._old):
            if known and at_s < known[-1][0]:
                for place, (_, each) in enumerate(known):
                    known[place] = (-math.inf, each)
        if _is_due(self._old, at_s, OLD_INTERVAL_S):
            self._old.append((at_s, features))
        self._stretches.append((at_s, features))

    def clear(self) -> None:
        """Forget all stretches."""
        self._stretches.clear()
        self._old.clear()

    def restore(self, stretches: F32) -> None:
        """Replace all stretches by those of an earlier scene (R, T // 2, *F), which has returned."""
        self.clear()
        self._stretches.extend((-math.inf, features) for features in stretches)

    def before(self, at_s: float) -> F32 | None:
        """Return the oldest stretches that end at `at_s` or earlier, (at most SCENES, T // 2, *F); None without any."""
        found = [features for end_s, features in self._stretches if end_s <= at_s]
        return np.stack(found[:SCENES]) if found else None

    def moments_before(self, at_s: float) -> tuple[float, ...]:
        """Return the media times of the stretches that `before` and `long_before` return."""
        found = [end_s for end_s, _ in self._stretches if end_s <= at_s][:SCENES]
        return (*found, *(self._old[0][:1] if self._old else ()))

    def long_before(self, at_s: float) -> F32 | None:
        """Return the oldest stretch (1, T // 2, *F) if `before` does not return it already; else None."""
        if not self._old or not self._stretches or self._old[0][0] >= min(self._stretches[0][0], at_s):
            return None
        return self._old[0][1][None]


def _is_due(known: deque[tuple[float, F32]], at_s: float, interval_s: float) -> bool:
    newest_s = known[-1][0] if known else -math.inf
    return not newest_s <= at_s < newest_s + interval_s

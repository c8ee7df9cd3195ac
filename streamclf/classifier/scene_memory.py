"""Keep features of a feed's scene while no action hides it, for comparison during such an action. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engines.arrays import F32

SCENES: Final = 3
"""Stretches of the scene to compare the picture with: somebody may stand in front of the camera in one of them."""
INTERVAL_S: Final = 2.0
"""Media time between two stretches."""


@dataclass(slots=True)
class SceneMemory:
    """The features of the last stretches of one feed, each (T // 2, *F) float32, at most `SCENES` + 1 of them.

    `before` returns the oldest ones: the newest may already show how the cover comes.
    """

    _stretches: deque[tuple[float, F32]] = field(default_factory=lambda: deque(maxlen=SCENES + 1))

    def is_due(self, at_s: float) -> bool:
        """Return whether the stretch that ends at `at_s`, media time, is to be added."""
        newest_s = self._stretches[-1][0] if self._stretches else -math.inf
        return not newest_s <= at_s < newest_s + INTERVAL_S

    def add(self, at_s: float, features: F32) -> None:
        """Add the stretch that ends at `at_s`. If the clock has begun again, the others are older than any time."""
        if self._stretches and at_s < self._stretches[-1][0]:
            for place, (_, known) in enumerate(self._stretches):
                self._stretches[place] = (-math.inf, known)
        self._stretches.append((at_s, features))

    def restore(self, stretches: F32) -> None:
        """Replace what is known by an earlier scene (R, T // 2, *F), which has returned."""
        self._stretches.clear()
        self._stretches.extend((-math.inf, features) for features in stretches)

    def before(self, at_s: float) -> F32 | None:
        """Return the oldest stretches that end at `at_s` or earlier, (at most SCENES, T // 2, *F); None without any."""
        found = [features for end_s, features in self._stretches if end_s <= at_s]
        return np.stack(found[:SCENES]) if found else None

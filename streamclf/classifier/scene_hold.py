"""Decide how long an action outlasts its label's probability because the scene has not returned. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from streamclf.classifier.smoothing import smooth

LOST: Final = 0.5
"""From this smoothed share of change on, the picture is not the scene from before the action."""
SMOOTH_S: Final = 0.3
"""Time constant of the smoothing: one window with a hand or a reflection in it must not decide."""
RETURN_S: Final = 0.6
"""Seconds for which the scene must be back."""
RECOGNISED_S: Final = 20.0
"""If the label is probable for this long, the model recognises the cover itself, and not only how it comes."""
COVER_ODDS: Final = 7.4
"""Above this ratio of a label's odds in two pictures (e squared), the one with the greater odds shows a cover."""
LEAST_PROBABILITY: Final = 0.001
"""Smaller probabilities count as this one: between two pictures without a cover, the ratio has no meaning."""
_EPSILON_S = 1e-6


def cover_was_removed(before: float, present: float) -> bool:
    """Return whether the picture before the action shows the cover, and the present picture does not.

    `before` and `present`: the label's probability, 0 to 1, in a window that shows only one of these pictures. Both may
    be low: the label of a cover that lies still is often not probable. A model may miss that a cover comes, and
    recognise only that it goes.
    """
    before, present = max(LEAST_PROBABILITY, before), max(LEAST_PROBABILITY, present)
    return before * (1 - present) > COVER_ODDS * present * (1 - before)


@dataclass(slots=True)
class SceneHold:
    """The hold of one running action. Times are media time in seconds, and never decrease."""

    lost: float | None = None
    """How much the picture differs from the scene, 0 to 1, smoothed; None while it is not compared."""
    since_s: float | None = None
    """When the probability fell below `off` although the scene had not returned; None while nothing is held."""
    was_held: bool = False
    """Whether the action has been held at any time."""
    recognised: float = 0.0
    """The least probability of the label in `RECOGNISED_S` in which it was probable without a break; 0 before."""
    _back_since_s: float | None = None
    _probable_since_s: float | None = None
    _least: float = 0.0

    def measure(self, lost: float | None, elapsed_s: float) -> None:
        """Add one measurement, 0 to 1; NaN changes nothing. None: the picture is not compared any more."""
        if lost is None:
            self.lost = None
        elif math.isfinite(lost):
            self.lost = smooth(self.lost, min(1.0, max(0.0, lost)), elapsed_s, SMOOTH_S)

    def release(self, at_s: float, probability: float) -> None:
        """Record that the label itself is probable enough: nothing is held."""
        self.since_s = self._back_since_s = None
        if self._probable_since_s is None:
            self._probable_since_s, self._least = at_s, probability
        if at_s - self._probable_since_s >= RECOGNISED_S - _EPSILON_S:
            self.recognised = self._least
        else:
            self._least = min(self._least, probability)

    def reason_to_end(self, at_s: float, probability: float, hold_s: float) -> str | None:
        """Return why an action ends whose label is not probable any more; None while it is held.

        The reasons are `below` (it was never held), `scene` (the scene or another one is back) and `hold` (it was held
        for `hold_s`).
        """
        self._probable_since_s = None
        if hold_s <= 0 or self.lost is None:
            return "below"
        is_lost = self.lost >= LOST and not cover_was_removed(self.recognised, probability)
        if self.since_s is None:
            if not is_lost:
                return "scene" if self.was_held else "below"
            self.since_s, self.was_held = at_s, True
        if at_s - self.since_s >= hold_s - _EPSILON_S:
            return "hold"
        if is_lost:
            self._back_since_s = None
            return None
        if self._back_since_s is None:
            self._back_since_s = at_s
        return "scene" if at_s - self._back_since_s >= RETURN_S - _EPSILON_S else None

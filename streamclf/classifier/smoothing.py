"""Smooth values over time. Pure."""

from __future__ import annotations

import math


def smooth(before: float | None, value: float, elapsed_s: float, tau_s: float) -> float:
    """Return the exponential mean after one more value, `elapsed_s` after the mean was `before`.

    The weight depends on the elapsed time, not on the number of values. The first value (`before=None`), and each value
    if the time constant `tau_s` is 0, is taken as it is.
    """
    if before is None or tau_s == 0:
        return value
    return before + (1 - math.exp(-elapsed_s / tau_s)) * (value - before)

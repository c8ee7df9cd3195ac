"""Search the largest number of streams that a machine sustains, with few measurements. Pure."""

from __future__ import annotations

from collections.abc import Callable


def find_capacity(is_sustained: Callable[[int], bool], *, first: int, maximum: int) -> int:
    """Find the largest number up to `maximum` for which `is_sustained` is true; 0 if it is false for 1.

    The search doubles the number, beginning with `first`, until it is too large; then it bisects. It assumes that
    `is_sustained` is true up to some number and false beyond it. If noise breaks this near the edge, the result is less
    exact, but the search still ends.
    """
    good, bad, number = 0, maximum + 1, min(first, maximum)
    while good + 1 < bad:
        if is_sustained(number):
            good = number
        else:
            bad = number
        number = min(2 * good, maximum) if good and bad > maximum else (good + bad) // 2
    return good

"""How many streams are held: doubled until too many, then halved in between. Pure."""

from __future__ import annotations

from collections.abc import Callable


def find_capacity(held: Callable[[int], bool], *, first: int, most: int) -> int:
    """The largest number up to `most` for which `held` is true, by as few calls as possible; 0 where 1 is too many.

    It takes `held` to be true up to some number and false beyond. Noise near the edge costs exactness, not an end.
    """
    good, bad, number = 0, most + 1, min(first, most)
    while good + 1 < bad:
        if held(number):
            good = number
        else:
            bad = number
        number = min(2 * good, most) if good and bad > most else (good + bad) // 2
    return good

"""From a picture sent to a prediction received: which picture was the last one that a window waited for. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPrediction:
    """One prediction as a subscriber had it: media time of its window, and when it came, CLOCK_MONOTONIC."""

    segment: int
    start_s: float
    end_s: float
    at_ns: int


def completing_frame(elapsed_s: float, *, model_rate: Fraction, rate: Fraction) -> int:
    """The number of the picture with which a window was complete, counted from its segment's first.

    `elapsed_s`: from the segment's first picture to the window's end. The window's last sampled point lies one
    interval of the model before its end; sampling takes the nearest picture, of two the earlier, as soon as it
    is there.

    25 pictures/s, a model at 10: a window that ends after 0.4 s has its last point at 0.3 s, between the pictures 7
    (0.28 s) and 8 (0.32 s): it was complete with picture 7.
    """
    point = round(elapsed_s * model_rate) - 1
    return math.ceil(point * rate / model_rate - Fraction(1, 2))


FIRST_SEGMENT = 1
OFF_GRID = 0.01
"""Of an interval of the model: what rounding to microseconds does not explain."""


def latencies_ms(
    heard: Sequence[ReceivedPrediction],
    sent_ns: Sequence[int],
    *,
    lost_first: bool = False,
    model_rate: Fraction,
    rate: Fraction,
    since_ns: int,
    until_ns: int,
) -> list[float]:
    """Milliseconds from the last packet of the completing picture to each prediction that came in this time.

    `sent_ns`: of one connection, from its first picture on. Only windows of the first segment are matched: of a later
    one nobody knows with which picture it began. `lost_first`: its first window was never heard of, so that it must be
    the service's very first segment, whose media time an RTSP connection counts from 0.
    """
    if not heard:
        return []
    first = min(heard, key=lambda each: (each.segment, each.start_s))
    began_s = first.start_s
    if lost_first:
        began_s, points = 0.0, float(first.start_s * model_rate)
        if first.segment != FIRST_SEGMENT or abs(points - round(points)) > OFF_GRID:
            return []
    found = []
    for each in heard:
        if each.segment != first.segment or not since_ns <= each.at_ns < until_ns:
            continue
        number = completing_frame(each.end_s - began_s, model_rate=model_rate, rate=rate)
        if 0 <= number < len(sent_ns) and sent_ns[number]:
            found.append((each.at_ns - sent_ns[number]) / 1e6)
    return found


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The smallest value that `percent` of all do not exceed; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

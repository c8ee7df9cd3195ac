"""Compute the latency of predictions, from the frame that completed the window to the event received. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

FIRST_SEGMENT = 1
OFF_GRID = 0.01
"""In intervals of the model: a start this far from the sampling grid is not explained by rounding to microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPrediction:
    """A prediction as a subscriber received it: its window in media time, and the arrival, CLOCK_MONOTONIC."""

    segment: int
    start_s: float
    end_s: float
    received_ns: int
    fast: bool = False
    """Whether a frame of the window was not decoded exactly."""


def completing_frame(elapsed_s: float, *, model_rate: Fraction, rate: Fraction) -> int:
    """Return the number of the frame that completed a window, counted from the first frame of its segment.

    `elapsed_s` is the time from the segment's first frame to the window's end. The last sampled point of a window lies
    one interval of the model before its end. Sampling picks the nearest frame for it, and of two equally near ones the
    earlier, as soon as that frame has arrived.

    Example: 25 frames/s and a model at 10. A window that ends after 0.4 s has its last point at 0.3 s, between the
    frames 7 (0.28 s) and 8 (0.32 s). It was complete with frame 7.
    """
    point = round(elapsed_s * model_rate) - 1
    return math.ceil(point * rate / model_rate - Fraction(1, 2))


def latencies_ms(
    received: Sequence[ReceivedPrediction],
    sent_ns: Sequence[int],
    *,
    lost_first: bool = False,
    model_rate: Fraction,
    rate: Fraction,
    since_ns: int,
    until_ns: int,
) -> list[float]:
    """Return the milliseconds from the last packet of the completing frame to each prediction received in an interval.

    `sent_ns` holds the send times of one connection's frames, beginning with its first frame; 0 is a dropped frame.
    Only the windows of the first segment are matched: the first frame of a later segment is not known. `lost_first`
    says that the service dropped the first windows, so that the first start time is missing. The first segment must
    then be the very first of the service, and its media time begins at 0, as with an RTSP connection.
    """
    if not received:
        return []
    first = min(received, key=lambda each: (each.segment, each.start_s))
    began_s = first.start_s
    if lost_first:
        began_s, points = 0.0, float(first.start_s * model_rate)
        if first.segment != FIRST_SEGMENT or abs(points - round(points)) > OFF_GRID:
            return []
    latencies = []
    for each in received:
        if each.segment != first.segment or not since_ns <= each.received_ns < until_ns:
            continue
        number = completing_frame(each.end_s - began_s, model_rate=model_rate, rate=rate)
        if 0 <= number < len(sent_ns) and sent_ns[number]:
            latencies.append((each.received_ns - sent_ns[number]) / 1e6)
    return latencies

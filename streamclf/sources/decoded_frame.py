"""Describe what a decoder returns, before it becomes a `Frame` of a source."""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NamedTuple

import av

from streamclf.sources.resize import OrientedFrame

SQUARE: Final = Fraction(1)
"""The pixel shape of most cameras."""


class DecodedFrame(NamedTuple):
    """A frame and its size in display orientation. `pts_ns` is None if the container gives no time stamp.

    `oriented` is None for a skipped frame: it was not decoded, because no consumer needs it. `arrived_ns` is then when
    its data came (CLOCK_MONOTONIC), which is earlier than when it is returned.

    `held_s`: FFmpeg detects the end of a frame only when the next one begins. In a stall it holds the last frame back
    and returns it when its time-out expires, this many seconds old; 0 for all other frames. `wall_ns` is the Unix time
    of the exposure by the camera's clock, if the camera sends it.
    """

    oriented: OrientedFrame | None
    width: int
    height: int
    pts_ns: int | None
    corrupt: bool
    broken: bool = False
    held_s: float = 0.0
    arrived_ns: int = 0
    wall_ns: int | None = None


def oriented(frame: av.VideoFrame, pixel_aspect: Fraction) -> OrientedFrame:
    """Return `frame` with its display orientation: its rotation and the shape of its pixels applied."""
    degrees = getattr(frame, "rotation", 0)
    turns = round(degrees / 90) % 4 if degrees else 0
    width, height = frame.width, frame.height
    if pixel_aspect is not SQUARE:
        width = max(1, round(width * pixel_aspect))
    if turns % 2:
        width, height = height, width
    return OrientedFrame(frame=frame, quarter_turns=turns, width=width, height=height)


def plausible_aspect(aspect: Fraction | None) -> Fraction:
    """Return a pixel's width divided by its height; 1 if it is unknown or implausible."""
    # Some encoders write invalid values; no camera has pixels longer than 4:1.
    return aspect if aspect and aspect != 1 and Fraction(1, 4) <= aspect <= 4 else SQUARE

"""What decoders give, as one should see it, before it becomes a frame of a source."""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NamedTuple

import av

from streamclf.sources.resize import OrientedFrame

SQUARE: Final = Fraction(1)
"""The shape of most cameras' pixels."""


class DecodedFrame(NamedTuple):
    """A picture and its size as one should see it; `pts_ns` is None where the container does not say.

    `oriented` is None for one that was skipped: not decoded, because nobody wants it. Then `arrived_ns` is when its
    data came (CLOCK_MONOTONIC), which is earlier than when it is told of.

    `held_s`: FFmpeg knows that a picture is complete when the next one begins. In a stall it holds the last one back,
    and gives it out, so many seconds old, when its time-out strikes; 0 for all others. `wall_ns`: Unix time at which it
    was taken, by the camera's clock, where the camera says.
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
    """`frame` as one should see it: its rotation and the shape of its pixels."""
    degrees = getattr(frame, "rotation", 0)
    turns = round(degrees / 90) % 4 if degrees else 0
    width, height = frame.width, frame.height
    if pixel_aspect is not SQUARE:
        width = max(1, round(width * pixel_aspect))
    if turns % 2:
        width, height = height, width
    return OrientedFrame(frame=frame, quarter_turns=turns, width=width, height=height)


def sound_aspect(aspect: Fraction | None) -> Fraction:
    """Width of a pixel by its height; 1 where it is not said."""
    # Some encoders write nonsense; no camera has pixels longer than 4:1.
    return aspect if aspect and aspect != 1 and Fraction(1, 4) <= aspect <= 4 else SQUARE

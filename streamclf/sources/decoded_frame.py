"""Describe what a decoder returns, before it becomes a `Frame` of a source."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from streamclf.sources.decoding import Decoding
from streamclf.sources.orientation import UPRIGHT, Orientation
from streamclf.sources.picture_part import SQUARE
from streamclf.sources.resize import OrientedFrame

_QUARTER_TURNS: Final = (
    UPRIGHT,
    Orientation(transposed=True, flip_x=False, flip_y=True),
    Orientation(transposed=False, flip_x=True, flip_y=True),
    Orientation(transposed=True, flip_x=True, flip_y=False),
)
"""The orientations after 0 to 3 quarter turns counter-clockwise."""
_PNG: Final = frozenset({"png", "apng"})
"""The decoders of FFmpeg that attach metadata to side data: the name of an image's colour profile.

`SideDataContainer` lists side data. PyAV 15 to 18.1 frees the metadata of what it has listed (`SideData.metadata` in
av/sidedata/sidedata.py), and FFmpeg frees it again with the frame: the process ends with a segmentation fault.
"""


class DecodedFrame(NamedTuple):
    """A frame and its size in display orientation. `pts_ns` is None if the container gives no time stamp.

    `oriented` is None for a skipped frame: it was not decoded, because no consumer needs it. `arrived_ns` is then when
    its data came (CLOCK_MONOTONIC), which is earlier than when it is returned.

    `held_s`: FFmpeg detects the end of a frame only when the next one begins. In a stall it holds the last frame back
    and returns it when its time-out expires, this many seconds old; 0 for all other frames. `wall_ns` is the Unix time
    of the exposure by the camera's clock, if the camera sends it. `duration_ns` is how long a film shows the frame; 0
    if it does not say so. `repeated`: the image is that of the frame before, which lasts long. `stamp_ns`
    is the time stamp of the frame's packet in the container, before any clock is applied.
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
    duration_ns: int = 0
    repeated: bool = False
    stamp_ns: int | None = None
    decoding: Decoding = "exact"


class OrientationTracker:
    """Follow the display orientation through one video.

    A container's display matrix comes with every frame, that of an SEI message only with the frame that the message
    precedes. So an orientation stays until another one arrives. Some writers send the message once, at the beginning;
    where several key frames had it, a key frame without it ends the orientation.
    """

    def __init__(self, codec: str) -> None:
        """Start upright. `codec`: FFmpeg's name of the decoder."""
        self._lists_side_data = codec not in _PNG
        self._current = UPRIGHT
        self._repeated = 0

    def orient(self, frame: av.VideoFrame, pixel_aspect: Fraction, reduction: int = 1) -> OrientedFrame:
        """Return `frame` with its display orientation: its display matrix and the shape of its pixels applied.

        `reduction`: the factor by which its decoder has reduced it.
        """
        found = _orientation(frame) if self._lists_side_data else _rotation(frame)
        if found is not None:
            self._current = found
            self._repeated += bool(frame.key_frame)
        elif frame.key_frame and self._repeated > 1:
            self._current, self._repeated = UPRIGHT, 0
        width, height = frame.width * reduction, frame.height * reduction
        if pixel_aspect is not SQUARE:
            width = max(1, round(width * pixel_aspect))
        if self._current.transposed:
            width, height = height, width
        return OrientedFrame(
            frame=frame,
            orientation=self._current,
            width=width,
            height=height,
            pixel_aspect=pixel_aspect,
            reduction=reduction,
        )


def _orientation(frame: av.VideoFrame) -> Orientation | None:
    """Return the nearest of the eight orientations to the frame's display matrix; None if it has none.

    FFmpeg attaches the matrix of the container, or of an SEI message or EXIF data in the stream
    (libavutil/display.h: nine int32 in rows; a source pixel (x, y) is shown at (a x + c y, b x + d y)).
    """
    try:
        # `frame.side_data` would refer back to the frame: only the garbage collector would free it, 12 MB for 4K.
        data: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg] # missing in PyAV's stubs
    except ValueError:  # PyAV 18 lists no side data if FFmpeg gives a kind that PyAV does not know, such as EXIF
        return _rotation(frame)
    matrix = np.frombuffer(b"" if data is None else data, np.int32)
    if matrix.size != 9:
        return None
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(transposed=False, flip_x=a < 0, flip_y=d < 0)


def _rotation(frame: av.VideoFrame) -> Orientation | None:
    """Return the orientation without mirroring, which PyAV reads without listing side data; None if it is upright."""
    turns = round(frame.rotation / 90)
    # A matrix of zeros has no angle: PyAV then gives the smallest integer.
    return _QUARTER_TURNS[turns % 4] if turns % 4 and abs(turns) < 4 else None


def plausible_aspect(aspect: Fraction | None) -> Fraction:
    """Return a pixel's width divided by its height; 1 if it is unknown or implausible."""
    # Some encoders write invalid values; no camera has pixels longer than 4:1.
    return aspect if aspect and aspect != 1 and Fraction(1, 4) <= aspect <= 4 else SQUARE

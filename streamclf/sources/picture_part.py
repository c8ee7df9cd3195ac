"""Calculate the pixels of a decoded picture that a `PictureArea` selects.

A region's edges are rounded to even pixels of the decoded picture, which is what encoders of 4:2:0 video can cut
exactly; the picture's own edges stay where they are. So a region shows the same pixels as a film that
`ffmpeg -vf crop=WIDTH:HEIGHT:X:Y` has cropped.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_shapes import EVERYTHING, Point, Rectangle
from streamclf.errors import SourceError
from streamclf.sources.orientation import UPRIGHT, Orientation

MIN_REGION_PIXELS: Final = 16
SQUARE: Final = Fraction(1)
"""The pixel shape of most cameras."""
_TURNS: Final = {
    0: UPRIGHT,
    90: Orientation(transposed=True, flip_x=True, flip_y=False),
    180: Orientation(transposed=False, flip_x=True, flip_y=True),
    270: Orientation(transposed=True, flip_x=False, flip_y=True),
}
"""The orientations after a clockwise rotation."""


class RegionTooSmallError(SourceError):
    """The pictures of a stream are too small for its region."""


class PicturePart(NamedTuple):
    """A rectangle of a decoded picture, and how it is shown.

    `x`, `y`, `columns` and `rows` are pixels as decoded. `width` and `height` are the size in display orientation, with
    the pixels' shape applied. `shown` is the rectangle in shares of the whole picture in display orientation.
    """

    x: int
    y: int
    columns: int
    rows: int
    is_whole: bool
    orientation: Orientation
    width: int
    height: int
    shown: Rectangle


@lru_cache(maxsize=128)
def part_of(
    columns: int, rows: int, area: PictureArea, orientation: Orientation = UPRIGHT, pixel_aspect: Fraction = SQUARE
) -> PicturePart:
    """Return the part of a decoded picture of `columns` by `rows` pixels that `area` selects.

    `orientation` and `pixel_aspect` are the camera's. Raises `RegionTooSmallError` for fewer than 16 pixels.
    """
    turned = orientation.then(orientation_of(area))
    x0, y0, x1, y1 = 0, 0, columns, rows
    if area.region is not None:
        left, top, right, bottom = turned.rectangle_before(area.region)
        x0, x1 = _even(left, columns), _even(right, columns)
        y0, y1 = _even(top, rows), _even(bottom, rows)
    part_columns, part_rows = x1 - x0, y1 - y0
    if area.region is not None and min(part_columns, part_rows) < MIN_REGION_PIXELS:
        raise RegionTooSmallError(_too_small(area.region, (part_columns, part_rows), (columns, rows), turned))
    shown = EVERYTHING if area.region is None else turned.rectangle_after(_shares(x0, y0, x1, y1, columns, rows))
    width, height = max(1, round(part_columns * pixel_aspect)), part_rows
    if turned.transposed:
        width, height = height, width
    is_whole = (part_columns, part_rows) == (columns, rows)
    return PicturePart(x0, y0, part_columns, part_rows, is_whole, turned, width, height, shown)


def _too_small(region: Rectangle, part: tuple[int, int], whole: tuple[int, int], turned: Orientation) -> str:
    """Describe a region that is too small; sizes are (columns, rows) as decoded, and are named as they are shown."""
    (width, height), (columns, rows) = (part[::-1], whole[::-1]) if turned.transposed else (part, whole)
    shares = ", ".join(f"{share:g}" for share in region)
    return (
        f"region [{shares}] is {width}x{height} pixels of a picture of {columns}x{rows}: at least "
        f"{MIN_REGION_PIXELS}x{MIN_REGION_PIXELS}; make the region larger, or let the camera send larger pictures"
    )


def orientation_of(area: PictureArea) -> Orientation:
    """Return the orientation that `rotate` and `flip` give."""
    flip = Orientation(transposed=False, flip_x=area.flip == "horizontal", flip_y=area.flip == "vertical")
    return _TURNS[area.rotate].then(flip)


def shown_point(part: PicturePart, point: Point) -> Point:
    """Return a point of the whole picture, in shares of the part; outside of the part it is below 0 or above 1."""
    left, top, right, bottom = part.shown
    return (point[0] - left) / (right - left), (point[1] - top) / (bottom - top)


def _even(share: float, length: int) -> int:
    """Return the even pixel nearest to `share` of `length`, or `length` itself if that is nearer."""
    exact = share * length
    even = min(2 * int(exact / 2 + 0.5), length)
    return length if length - exact <= abs(even - exact) else even


def _shares(x0: int, y0: int, x1: int, y1: int, columns: int, rows: int) -> Rectangle:
    return x0 / columns, y0 / rows, x1 / columns, y1 / rows

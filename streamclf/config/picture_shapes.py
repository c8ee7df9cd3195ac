"""Check rectangles and polygons in shares of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]
"""Corners (x, y) in shares of the picture."""
Rectangle: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in shares of the picture."""

EVERYTHING: Final[Rectangle] = (0.0, 0.0, 1.0, 1.0)
MAX_MASKS: Final = 20
MAX_CORNERS: Final = 32
_GRID: Final = 32
"""A mask covers everything if it covers the middles of so many by so many parts of the region."""


def check_rectangle(value: object) -> Rectangle:
    """Return `value` as (left, top, right, bottom). Raises `ValueError` if it is no rectangle within the picture."""
    numbers = _numbers(value)
    if numbers is None or len(numbers) != 4:
        raise ValueError("a rectangle is four numbers, [left, top, right, bottom], like [0.2, 0.1, 0.8, 0.9]")
    left, top, right, bottom = (_share(number) for number in numbers)
    if left >= right:
        raise ValueError(f"left={left:g} must be less than right={right:g}; the order is [left, top, right, bottom]")
    if top >= bottom:
        raise ValueError(f"top={top:g} must be less than bottom={bottom:g}; the order is [left, top, right, bottom]")
    return left, top, right, bottom


def check_mask(value: object) -> tuple[Polygon, ...]:
    """Return a list of rectangles and polygons as polygons. Raises `ValueError` if one is not valid."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError("a list of rectangles and polygons, like [[0, 0, 0.2, 0.1]]")
    if value and _numbers(value) is not None:
        raise ValueError("a list of rectangles and polygons; put this one into brackets, like [[0, 0, 0.2, 0.1]]")
    if len(value) > MAX_MASKS:
        raise ValueError(f"{len(value)} rectangles and polygons: at most {MAX_MASKS}")
    return tuple(_check_numbered(number, shape) for number, shape in enumerate(value, 1))


def check_visible(mask: Sequence[Polygon], region: Rectangle | None, key: str = "mask") -> None:
    """Raise `ValueError` if `mask` covers all of the region."""
    left, top, right, bottom = EVERYTHING if region is None else region
    steps = [(2 * i + 1) / (2 * _GRID) for i in range(_GRID)] if mask else []
    for y in steps:
        for x in steps:
            point = (left + x * (right - left), top + y * (bottom - top))
            if not any(_holds(shape, point) for shape in mask):
                return
    if mask:
        raise ValueError(f"{key} covers the whole {'picture' if region is None else 'region'}; leave a part uncovered")


def _check_numbered(number: int, shape: object) -> Polygon:
    try:
        return _check_shape(shape)
    except ValueError as error:
        raise ValueError(f"number {number}: {error}") from None


def _check_shape(value: object) -> Polygon:
    numbers = _numbers(value)
    if numbers is not None:
        left, top, right, bottom = check_rectangle(value)
        return (left, top), (right, top), (right, bottom), (left, bottom)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError("a rectangle [left, top, right, bottom] or a polygon [[x, y], [x, y], [x, y], …]")
    corners: list[Point] = []
    for corner in value:
        pair = _numbers(corner)
        if pair is None or len(pair) != 2:
            raise ValueError("each corner of a polygon is two numbers, [x, y]")
        corners.append((_share(pair[0]), _share(pair[1])))
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()  # some programs repeat the first corner at the end
    if not 3 <= len(corners) <= MAX_CORNERS:
        raise ValueError(f"a polygon of {len(corners)} corners: 3 to {MAX_CORNERS}")
    _check_outline(corners)
    return tuple(corners)


def _check_outline(corners: Sequence[Point]) -> None:
    count = len(corners)
    edges = [(corners[i], corners[(i + 1) % count]) for i in range(count)]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in edges)
    for i, (a, b) in enumerate(edges):
        if a == b:
            raise ValueError(f"corner {i + 1} and the next one are the same point")
        for j in range(i + 2, count - (i == 0)):  # an edge always touches the next one
            if _cross(a, b, *edges[j]):
                raise ValueError(f"the polygon's edges {i + 1} and {j + 1} cross; give the corners in order around it")
    if abs(area) < 1e-9:
        raise ValueError("the polygon has no area; give corners that are not on one line")


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Return whether the segments ab and cd meet."""
    sides = (_side(a, b, c), _side(a, b, d), _side(c, d, a), _side(c, d, b))
    if sides[0] * sides[1] < 0 and sides[2] * sides[3] < 0:
        return True
    ends = zip(sides, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True)
    return any(side == 0 and _between(*points) for side, points in ends)


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _between(a: Point, b: Point, c: Point) -> bool:
    return all(min(a[i], b[i]) <= c[i] <= max(a[i], b[i]) for i in (0, 1))


def _holds(polygon: Polygon, point: Point) -> bool:
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y0 > point[1]) != (y1 > point[1]) and point[0] < x0 + (point[1] - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def _numbers(value: object) -> list[float] | None:
    """Return a list of numbers as floats; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return None
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
        return None
    return [_as_float(item) for item in value]


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _share(number: float) -> float:
    if not 0 <= number <= 1:  # NaN too
        raise ValueError(f"{number:g}: a share of the picture is 0 to 1")
    return number + 0.0  # no negative zero

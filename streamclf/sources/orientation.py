"""Define the eight ways to show a picture: rotations by quarter turns, and mirroring."""

from __future__ import annotations

from typing import Final, NamedTuple

from engines.arrays import U8

_Rectangle = tuple[float, float, float, float]


class Orientation(NamedTuple):
    """One of the eight ways to show an image: transpose it first, then flip it horizontally (x) and vertically (y)."""

    transposed: bool
    flip_x: bool
    flip_y: bool

    def apply(self, image: U8) -> U8:
        """Return a view of `image` (h, w, 3) in display orientation."""
        shown = image.transpose(1, 0, 2) if self.transposed else image
        return shown[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def then(self, after: Orientation) -> Orientation:
        """Return the orientation that first applies this one and then `after`."""
        flip_x, flip_y = (self.flip_y, self.flip_x) if after.transposed else (self.flip_x, self.flip_y)
        return Orientation(
            transposed=self.transposed != after.transposed,
            flip_x=flip_x != after.flip_x,
            flip_y=flip_y != after.flip_y,
        )

    def rectangle_after(self, before: _Rectangle) -> _Rectangle:
        """Return (left, top, right, bottom), in shares of an image, where the oriented image shows it."""
        left, top, right, bottom = before
        if self.transposed:
            left, top, right, bottom = top, left, bottom, right
        return self._flipped(left, top, right, bottom)

    def rectangle_before(self, after: _Rectangle) -> _Rectangle:
        """Return (left, top, right, bottom), in shares of the oriented image, where the image has it."""
        left, top, right, bottom = self._flipped(*after)
        return (top, left, bottom, right) if self.transposed else (left, top, right, bottom)

    def _flipped(self, left: float, top: float, right: float, bottom: float) -> _Rectangle:
        if self.flip_x:
            left, right = 1 - right, 1 - left
        if self.flip_y:
            top, bottom = 1 - bottom, 1 - top
        return left, top, right, bottom


UPRIGHT: Final = Orientation(transposed=False, flip_x=False, flip_y=False)

"""Define the keys that select the part of each picture that a model sees."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from streamclf.config.picture_area import Flip, PictureArea, Rotation
from streamclf.config.picture_shapes import (
    MAX_CORNERS,
    MAX_MASKS,
    Polygon,
    Rectangle,
    check_mask,
    check_rectangle,
    check_visible,
)
from streamclf.config.section import Section

Mask: TypeAlias = Annotated[tuple[Polygon, ...], BeforeValidator(check_mask)]
Region: TypeAlias = Annotated[Rectangle, BeforeValidator(check_rectangle)]


class PictureViewKeys(Section):
    """How a picture is shown before a region is cut out of it."""

    rotate: Rotation = Field(
        0,
        description="Degrees by which the picture is turned clockwise: 0, 90, 180 or 270. The camera's own orientation "
        "is applied before.",
    )
    flip: Flip | None = Field(
        None, description="Mirrors the rotated picture: `horizontal` swaps left and right, `vertical` top and bottom."
    )
    mask: Mask = Field(
        (),
        description="Parts that are painted black before the model, previews or stills show the picture: rectangles "
        "[left, top, right, bottom], and polygons [[x, y], [x, y], [x, y], …], in shares (0 to 1) of the rotated and "
        f"mirrored picture. At most {MAX_MASKS}, with at most {MAX_CORNERS} corners. Films of `clips` are not masked.",
    )


class PictureAreaKeys(PictureViewKeys):
    """The part of each picture that a model sees."""

    region: Region | None = Field(
        None,
        description="The part of the picture that is classified, instead of all of it: [left, top, right, bottom] in "
        "shares (0 to 1) of the rotated and mirrored picture. At least 16 pixels wide and high.",
    )

    @model_validator(mode="after")
    def _check_visible(self) -> PictureAreaKeys:
        check_visible(self.mask, self.region)
        return self

    @property
    def area(self) -> PictureArea:
        """The part of the picture."""
        return PictureArea(rotate=self.rotate, flip=self.flip, mask=self.mask, region=self.region)

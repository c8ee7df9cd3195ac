"""Define the part of each picture that a model sees: rotation, mirroring, masks and one region."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

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

Rotation: TypeAlias = Literal[0, 90, 180, 270]
Flip: TypeAlias = Literal["horizontal", "vertical"]
Mask: TypeAlias = Annotated[tuple[Polygon, ...], BeforeValidator(check_mask)]
Region: TypeAlias = Annotated[Rectangle, BeforeValidator(check_rectangle)]


class PictureView(Section):
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


class PictureArea(PictureView):
    """The part of each picture that a model sees."""

    region: Region | None = Field(
        None,
        description="The part of the picture that is classified, instead of all of it: [left, top, right, bottom] in "
        "shares (0 to 1) of the rotated and mirrored picture. At least 16 pixels wide and high.",
    )

    @model_validator(mode="after")
    def _check_visible(self) -> PictureArea:
        check_visible(self.mask, self.region)
        return self

    @property
    def without_region(self) -> PictureArea:
        """The whole picture, rotated, mirrored and masked, as people see it."""
        return self if self.region is None else self.model_copy(update={"region": None})


WHOLE: Final = PictureArea()

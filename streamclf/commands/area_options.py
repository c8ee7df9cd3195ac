"""Read the options that choose a part of the picture: --region, --mask, --rotate and --flip."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_area_keys import PictureAreaKeys
from streamclf.errors import UsageError, plain_fault


def parse_area(*, region: str | None, masks: Sequence[str] | None, rotate: int, flip: str | None) -> PictureArea:
    """Return the part of the picture that the options choose. Raises `UsageError`, which names the option.

    A region is LEFT,TOP,RIGHT,BOTTOM. A mask is the same, or X,Y of three or more corners.
    """
    keys: dict[str, object] = {"rotate": rotate, "flip": flip}
    if region is not None:
        keys["region"] = _numbers("--region", region)
    if masks:
        keys["mask"] = [_shape(text) for text in masks]
    try:
        return PictureAreaKeys.model_validate(keys).area
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{first['loc'][0]}" if first["loc"] else "--mask"
        value = f" {keys[str(first['loc'][0])]}" if first["loc"] in (("rotate",), ("flip",)) else ""
        raise UsageError(f"{option}{value}: {plain_fault(first['msg'])}") from None


def _shape(text: str) -> list[float] | list[list[float]]:
    numbers = _numbers("--mask", text)
    if len(numbers) == 4:
        return numbers
    if len(numbers) < 6 or len(numbers) % 2:
        raise UsageError(
            f"--mask {text}: {len(numbers)} numbers; give four for a rectangle, LEFT,TOP,RIGHT,BOTTOM, or two for each "
            "corner of a polygon, X,Y,X,Y,X,Y"
        )
    return [numbers[place : place + 2] for place in range(0, len(numbers), 2)]


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(f"{option} {text}: numbers with commas between them, like 0.2,0.1,0.8,0.9") from None

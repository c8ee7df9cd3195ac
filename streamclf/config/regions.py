"""Define the named regions of a stream, each of which is classified by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, model_validator

from streamclf.config.classify import ClassifyConfig
from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_area_keys import PictureAreaKeys, Region
from streamclf.config.picture_shapes import check_visible
from streamclf.net.names import STREAM_NAME_PATTERN

MAX_REGIONS: Final = 16


class RegionConfig(ClassifyConfig):
    """One named region of a stream: its part of the picture, and how it is classified."""

    region: Region = Field(
        description="The part of the picture: [left, top, right, bottom] in shares (0 to 1) of the rotated and "
        "mirrored picture."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_short_form(cls, values: Any) -> Any:
        """Take a list for the region alone."""
        return {"region": values} if isinstance(values, list | tuple) else values


Regions: TypeAlias = Annotated[
    dict[Annotated[str, Field(pattern=STREAM_NAME_PATTERN)], RegionConfig], Field(max_length=MAX_REGIONS)
]


def check_regions(area: PictureAreaKeys, regions: Mapping[str, RegionConfig]) -> None:
    """Raise `ValueError` if one region is given as well as several, or the mask covers all of one."""
    if area.region is not None and regions:
        raise ValueError(
            "region and regions exclude each other; for the whole picture beside others, add it to regions, "
            "like whole: [0, 0, 1, 1]"
        )
    for name, each in regions.items():
        check_visible(area.mask, each.region, f"regions.{name}: mask")


def region_area(area: PictureAreaKeys, regions: Mapping[str, RegionConfig], name: str | None) -> PictureArea:
    """Return the part of the picture that the region `name` shows; None for a stream without named regions."""
    region = area.region if name is None else regions[name].region
    return PictureArea(rotate=area.rotate, flip=area.flip, mask=area.mask, region=region)

"""Describe the part of each picture that a model sees: rotation, mirroring, masks and one region.

A capture process uses this module, and loads no pydantic for it. `picture_area_keys` has the keys of the configuration.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from streamclf.config.picture_shapes import Polygon, Rectangle, check_mask, check_rectangle, check_visible

Rotation: TypeAlias = Literal[0, 90, 180, 270]
Flip: TypeAlias = Literal["horizontal", "vertical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureArea:
    """The part of each picture that a model sees; the keys are those of the configuration."""

    rotate: Rotation = 0
    flip: Flip | None = None
    mask: tuple[Polygon, ...] = ()
    region: Rectangle | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that the configuration would refuse; a mask may have rectangles."""
        if self.rotate not in get_args(Rotation):
            raise ValueError(f"rotate={self.rotate}: 0, 90, 180 or 270")
        if self.flip is not None and self.flip not in get_args(Flip):
            raise ValueError(f"flip={self.flip}: horizontal or vertical")
        object.__setattr__(self, "mask", check_mask(self.mask))
        if self.region is not None:
            object.__setattr__(self, "region", check_rectangle(self.region))
        check_visible(self.mask, self.region)

    @property
    def without_region(self) -> PictureArea:
        """The whole picture, rotated, mirrored and masked, as people see it."""
        return self if self.region is None else replace(self, region=None)

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that differ from their defaults, for JSON and YAML."""
        return {key: _as_lists(value) for key, value in asdict(self).items() if value != getattr(WHOLE, key)}


def _as_lists(value: Any) -> Any:
    return [_as_lists(each) for each in value] if isinstance(value, tuple) else value


WHOLE: Final = PictureArea()

"""Change how a stream shows its picture: rotation, mirroring, masks and regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from streamclf.config.picture_area import Flip, Rotation
from streamclf.config.picture_area_keys import Mask, PictureViewKeys, Region
from streamclf.config.picture_shapes import Polygon, Rectangle
from streamclf.config.service import ServiceConfig
from streamclf.config.stream import StreamConfig, StreamName
from streamclf.config.yaml_edit import remove_value, set_value
from streamclf.config.yaml_text import parse_yaml
from streamclf.errors import ConfigError
from streamclf.subscribers.web.settings.edits import ConfigEdit

UNNAMED: Final = ""
"""Name of a single region that has no name: the key `region` of a stream."""
_DIGITS: Final = 4


class SetArea(ConfigEdit):
    """Set rotation, mirroring, all masks and all regions of a stream. Only keys that change are written."""

    change: Literal["set_area"] = "set_area"
    stream: StreamName
    rotate: Rotation = 0
    flip: Flip | None = None
    mask: Mask = ()
    regions: dict[Annotated[str, Field(max_length=64)], Region] = Field(
        default_factory=dict,
        max_length=16,
        description="Regions by name. A single one may have an empty name: then its events name no region.",
    )

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"Set the regions and masks of the stream {self.stream}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text with the keys that differ from the present ones."""
        if config is None:
            raise ConfigError("the file has an error; correct it first")
        if self.stream not in config.streams:
            raise ConfigError(f"streams.{self.stream}: no such stream in the file")
        if UNNAMED in self.regions and len(self.regions) > 1:
            raise ConfigError("a region without a name must be the only one; give each region a name")
        present = config.streams[self.stream]
        before = text
        for key, value, written in (
            ("rotate", self.rotate, self.rotate),
            ("flip", self.flip, self.flip),
            ("mask", _rounded_mask(self.mask), _mask_text(self.mask)),
        ):
            now = getattr(present, key)
            if (_rounded_mask(now) if key == "mask" else now) != value:
                text = self._set_or_remove(text, key, written)
        text = self._apply_regions(text, present)
        if text == before:
            raise ConfigError(f"streams.{self.stream}: these are the present values; change one of them first")
        return text

    def _set_or_remove(self, text: str, key: str, value: Any) -> str:
        """Set a key of the stream; its default is written only where `defaults` has another value."""
        place = ["streams", self.stream, key]
        default = PictureViewKeys.model_fields[key].get_default()
        if value != (list(default) if isinstance(default, tuple) else default):
            return set_value(text, place, value)
        if key in _section(text, "streams", self.stream):
            text = remove_value(text, place)
        if key in _section(text, "defaults"):
            if value is None:
                raise ConfigError(f"streams.{self.stream}.{key}: comes from defaults; edit the file by hand")
            return set_value(text, place, value)
        return text

    def _apply_regions(self, text: str, present: StreamConfig) -> str:
        now = regions_of(present)
        removed = [name for name in now if name not in self.regions]
        if UNNAMED in removed:
            text = remove_value(text, ["streams", self.stream, "region"])
        named = [name for name in removed if name != UNNAMED]
        if named and not [name for name in self.regions if name in now and name != UNNAMED]:
            text = remove_value(text, ["streams", self.stream, "regions"])
            named = []
        for name in named:
            text = remove_value(text, ["streams", self.stream, "regions", name])
        for name, region in self.regions.items():
            if name in now and _rounded(now[name]) == _rounded(region):
                continue
            place = ["streams", self.stream, *(["region"] if name == UNNAMED else ["regions", name])]
            if isinstance(_value(text, place), Mapping):
                place.append("region")
            text = set_value(text, place, _rounded(region))
        return text


def regions_of(stream: StreamConfig) -> dict[str, Rectangle]:
    """Return the regions of a stream by name; a single one without a name has the name `UNNAMED`."""
    if stream.region is not None:
        return {UNNAMED: stream.region}
    return {name: each.region for name, each in stream.regions.items()}


def _mask_text(mask: Sequence[Polygon]) -> list[Any]:
    """Return a mask as the file has it: a rectangle as four numbers."""
    return [_as_rectangle(shape) or [_rounded(corner) for corner in shape] for shape in mask]


def _as_rectangle(shape: Polygon) -> list[int | float] | None:
    """Return a polygon that is an upright rectangle as [left, top, right, bottom]; None for another one."""
    (left, top), (right, bottom) = (min(shape), max(shape))
    is_upright = len(shape) == 4 and set(shape) == {(left, top), (right, top), (right, bottom), (left, bottom)}
    return _rounded((left, top, right, bottom)) if is_upright else None


def _rounded_mask(mask: Sequence[Polygon]) -> list[list[list[int | float]]]:
    return [[_rounded(corner) for corner in shape] for shape in mask]


def _rounded(shares: Sequence[float]) -> list[int | float]:
    rounded = [round(share, _DIGITS) for share in shares]
    return [int(share) if share == int(share) else share for share in rounded]


def _value(text: str, keys: Sequence[str]) -> Any:
    value = parse_yaml(text).value
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _section(text: str, *keys: str) -> Mapping[str, Any]:
    value = _value(text, keys)
    return value if isinstance(value, Mapping) else {}

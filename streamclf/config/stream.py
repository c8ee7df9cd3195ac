"""Define one named stream: its source, and how it is classified."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from engines.printable import printable
from streamclf.config.classify import ClassifyConfig
from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_area_keys import PictureAreaKeys
from streamclf.config.regions import MAX_REGIONS, Regions, check_regions, region_area
from streamclf.config.source import SourceConfig
from streamclf.net.names import MAX_NAME_CHARS, STREAM_NAME_PATTERN

StreamName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]


class StreamConfig(ClassifyConfig, PictureAreaKeys, SourceConfig):
    """One named stream: its source, and how it is classified."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="Name for people, shown by outlets such as Home Assistant: any text on one line. If not set, the "
        "stream's key.",
    )

    enabled: bool = Field(
        True,
        description="`false` pauses the stream: it stays in the configuration, but nothing reads its source. Its state "
        "is `offline`, with `paused: true`.",
    )

    regions: Regions = Field(
        default_factory=dict,
        description="Several parts of the picture by name, instead of all of it: each has predictions and actions of "
        "its own. A region is a list [left, top, right, bottom], or a section with the key `region` and those of "
        "`streams` that concern classification (hop, models, actions, unknown_below, motion_gate, adaptive, "
        f"max_staleness_ms); keys that it does not set follow the stream. At most {MAX_REGIONS}.",
    )

    @model_validator(mode="after")
    def _check_regions(self) -> StreamConfig:
        check_regions(self, self.regions)
        return self

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if printable(value) != value:
            raise ValueError(f"{value!r}: holds a control character or a line break; give text on one line")
        if not value.strip():
            raise ValueError("blank; give a text, or leave name out")
        return value.strip()

    @property
    def area(self) -> PictureArea:
        """The part of the picture: with named regions, the whole picture as people see it."""
        return region_area(self, self.regions, None)

    @property
    def source(self) -> SourceConfig:
        """The keys of `SourceConfig` alone, for the capture process."""
        return SourceConfig.model_construct(**{key: getattr(self, key) for key in SourceConfig.model_fields})

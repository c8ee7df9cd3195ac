"""Define the keys with which an outlet sends the pictures of clips, or links to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import Field, PlainSerializer, field_validator, model_validator

from streamclf.config.own_secret import OwnSecret
from streamclf.config.section import Section
from streamclf.config.units import Duration
from streamclf.net.urls import UrlError, split_url

DEFAULT_PICTURE_BYTES: Final = 300_000
MAX_PICTURE_BYTES: Final = 4_000_000
_LINK_EXAMPLE: Final = "http://host:8080"

JobDuration: TypeAlias = Annotated[
    Duration, PlainSerializer(lambda seconds: f"{seconds:.3f}s", return_type=str, when_used="json")
]
"""A duration that is written like a `Duration`, also in the jobs of processes."""


class PictureKeys(Section):
    """The keys of an outlet that sends pictures."""

    clips: Path | None = Field(
        None,
        description="Path of the folder with the clips, whose pictures are sent. If not set, the folder of the "
        "service's own clips.",
    )
    picture_bytes: int = Field(
        DEFAULT_PICTURE_BYTES,
        ge=0,
        le=MAX_PICTURE_BYTES,
        description="Largest size of a picture in bytes; a larger one is made smaller. 0 sends no pictures.",
    )
    first_picture: bool | None = Field(
        None,
        description="Also send a picture at the start of an action, taken within about a second of it, since the film "
        "is complete only later. If not set: yes if the outlet sends pictures, and not links.",
    )
    link: str | None = Field(
        None,
        max_length=2048,
        description="Address of the page (outlet `web`), like http://192.168.1.5:8080. If set, links to the page are "
        "sent instead of pictures.",
    )
    link_token: OwnSecret | None = Field(
        None,
        description="Token of the page, which signs the links, like `${PAGE_TOKEN}`. If not set, that of the "
        "service's own outlet `web`.",
    )
    link_token_file: Path | None = Field(None, description="Path of a file with this token, instead of `link_token`.")
    link_valid: JobDuration = Field(
        "1d",
        validate_default=True,
        description="Time for which a link works without a login: a number and s, m, h, d or w.",
    )

    @field_validator("link")
    @classmethod
    def _check_link(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = split_url(value, example=_LINK_EXAMPLE)
        except UrlError as error:
            raise ValueError(str(error)) from None
        is_plain = parts.username is None and parts.path in ("", "/") and not parts.query and not parts.fragment
        if parts.scheme not in ("http", "https") or not is_plain or not value.isascii() or " " in value:
            raise ValueError(f"give the address of the page alone, like {_LINK_EXAMPLE}")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_one_link_token(self) -> PictureKeys:
        if self.link_token is not None and self.link_token_file is not None:
            raise ValueError("give link_token or link_token_file, not both")
        return self

    @property
    def sends_pictures(self) -> bool:
        """Whether the outlet can send pictures, or links to them."""
        return self.picture_bytes > 0 and (self.link is not None or self.clips is not None)

    @property
    def sends_first_pictures(self) -> bool:
        """Whether the outlet sends a picture at the start of an action."""
        if self.first_picture is not None:
            return self.first_picture and self.picture_bytes > 0
        return self.sends_pictures and self.link is None

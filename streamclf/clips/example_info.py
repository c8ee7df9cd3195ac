"""Describe an example film in its own metadata: where it comes from, and which part of the picture it is about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import av
import av.error
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from streamclf.events.types import Probability, StreamName
from streamclf.events.views import Label
from streamclf.sources.ffmpeg_options import SCRIPTS

MAX_INFO_CHARS: Final = 64 * 1024
MAX_SECONDS: Final = 1e6
_OPENING: Final = {
    # A playlist with the name of an .mp4 file must lead to no other file, pipe or address.
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - SCRIPTS - {"hls", "applehttp", "image2"})),
}


def _check_began(began: datetime) -> datetime:
    """Refuse times that other clocks and time zones cannot express: metadata may hold any."""
    if not 1971 <= began.year < 2200:
        raise ValueError("not a time between 1971 and 2200")
    return began


class ExampleInfo(BaseModel):
    """One example film. `began` is the wall-clock time of its first picture.

    `area` is the part of the film's own pictures that it is about, as keys of
    `streamclf.config.picture_area_keys.PictureAreaKeys`; None for the whole picture. The film itself always has the
    whole picture; one that the service has encoded is rotated and masked already, so its `area` is a region at most.
    `top` and `margin` are the prediction that was not certain, for a film that was kept because of it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    stream: StreamName
    began: Annotated[AwareDatetime, AfterValidator(_check_began)]
    seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)]
    region: StreamName | None = None
    area: dict[str, Any] | None = None
    model_name: str | None = None
    top: tuple[tuple[Label, Probability], ...] = ()
    margin: Probability | None = None


class FilmFacts(BaseModel):
    """The length of a film, and its description where this project has made it."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    info: ExampleInfo | None = None


def area_in_film(area: Mapping[str, Any] | None, *, encoded: bool) -> dict[str, Any] | None:
    """Return the part of a film's own pictures, for a part of the camera's picture.

    `encoded`: the service has encoded the film, from pictures that are rotated, mirrored and masked already.
    """
    kept = {key: value for key, value in (area or {}).items() if not encoded or key == "region"}
    return kept or None


def read_film_facts(path: Path) -> FilmFacts | None:
    """Return the facts of a film; None for a file that has no video."""
    try:
        with av.open(f"file:{path}", "r", options=_OPENING) as container:
            if not container.streams.video:
                return None
            text = container.metadata.get("comment", "")
            seconds = (container.duration or 0) / 1_000_000
    except (av.error.FFmpegError, OSError, ValueError, IndexError):
        return None
    info = None
    if text.startswith("{") and len(text) <= MAX_INFO_CHARS:
        try:
            info = ExampleInfo.model_validate_json(text)
        except ValidationError:
            info = None
    return FilmFacts(seconds=round(max(0.0, seconds), 3), info=info)


def read_example_info(path: Path) -> ExampleInfo | None:
    """Return the description of an example film; None for a film that was not saved as an example."""
    facts = read_film_facts(path)
    return None if facts is None else facts.info

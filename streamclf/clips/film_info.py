"""Describe a film for its event, its metadata and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeAlias

import av
import av.error
import orjson
from pydantic import TypeAdapter, ValidationError

from streamclf.clips.names import ClipName
from streamclf.errors import ClipError
from streamclf.events.types import MAX_FILM_ACTIONS
from streamclf.events.views import ActionKey, ModelName, RegionName, qualified, view_keys

MAX_POINTS: Final = 2000
"""Probabilities that the metadata of a film holds. Updates come once a second, and a film lasts an hour at most."""
MAX_METADATA_BYTES: Final = 1 << 20


class Point(NamedTuple):
    """The smoothed probability of an action's label at a media time, from an event of the action."""

    at_s: float
    label: str
    probability: float
    region: str | None = None
    model_name: str | None = None

    @property
    def kind(self) -> ActionKey:
        """The kind of action that the point belongs to."""
        return ActionKey(self.region, self.model_name, self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmAction:
    """One action in a film. `start` is the offset of its start event, None if that is unknown."""

    label: str
    started_s: float
    start: int | None
    peak: float
    ended_s: float | None = None
    """None while it runs."""
    region: RegionName | None = None
    model_name: ModelName | None = None

    @property
    def kind(self) -> ActionKey:
        """The view and the label of the action."""
        return ActionKey(self.region, self.model_name, self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmInfo:
    """One complete film. `start_s` and `end_s` are media times, `began` is the wall-clock time of the first picture.

    `actions` has at least one action, in the order of their starts; the first one names the film. `epoch` is that of
    the journal in which the offsets are. `points` has the probabilities of all actions, in the order of time.
    """

    name: ClipName
    began: datetime
    start_s: float
    end_s: float
    actions: tuple[FilmAction, ...]
    epoch: str
    part: int = 1
    last: bool = True
    codec: str = "h264"
    points: tuple[Point, ...] = ()
    note: str | None = None
    encoded: bool = False
    """Whether the service has encoded the film from pictures, which are rotated and masked already."""

    @property
    def label(self) -> str:
        """The label of the action that names the film."""
        return self.actions[0].label

    @property
    def peak(self) -> float:
        """The highest probability of this action so far."""
        return self.actions[0].peak

    @property
    def best(self) -> Point | None:
        """The most probable point of the film's own action within the film; None if no event lies within it."""
        kind = self.actions[0].kind
        inside = [each for each in self.points if each.kind == kind and self.start_s <= each.at_s <= self.end_s]
        return max(inside, key=lambda each: each.probability, default=None)

    def to_json(self) -> str:
        """Return this description for the film's metadata; `parse_film_info` is the inverse.

        Points of the view without names have three values, as in earlier versions.
        """
        return orjson.dumps(self, default=lambda point: point[:3] if point[3:] == (None, None) else [*point]).decode()

    @property
    def title(self) -> str:
        """The name of the film for people, like `door: gate · covered`."""
        first = self.actions[0]
        return f"{self.name.stream}: {qualified(first.kind.view, first.label)}"

    def event_body(self, *, size: int, pictures: Pictures) -> dict[str, Any]:
        """Return the body of the event `clip`, for a film of `size` bytes."""
        return {
            "label": self.label,
            "action": self.actions[0].start,
            "actions": [each.start for each in self.actions if each.start is not None][:MAX_FILM_ACTIONS],
            "action_epoch": self.epoch,
            "part": self.part,
            "last": self.last,
            "began": self.began.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "start_s": round(self.start_s, 6),
            "end_s": round(self.end_s, 6),
            "file": self.name.film,
            "still": pictures.still,
            "drawn": pictures.drawn,
            "bytes": size,
            "codec": self.codec,
            "probability": self.peak,
            "note": self.note,
            **view_keys(self.actions[0]),
        }


class Pictures(NamedTuple):
    """The paths of a film's pictures relative to the folder of the clips; None where there is none."""

    still: str | None = None
    drawn: str | None = None


AfterFilm: TypeAlias = Callable[[Path, FilmInfo], Pictures]
"""Called with the complete film (an absolute path) and its description, before its event is posted.

It runs in the writer's thread. An exception that it raises is logged, and the film is announced without pictures.
"""

_ADAPTER: Final = TypeAdapter(FilmInfo)


def parse_film_info(text: str) -> FilmInfo:
    """Read the description in the metadata of a film. Raises `ClipError` for anything else."""
    if len(text) > MAX_METADATA_BYTES:
        raise ClipError(f"metadata of {len(text)} characters: at most {MAX_METADATA_BYTES}")
    try:
        info = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ClipError(f"not the metadata of a clip: {error.error_count()} faults") from None
    if not info.actions:
        raise ClipError("not the metadata of a clip: it names no action")
    return info


def read_film_info(film: IO[bytes]) -> FilmInfo:
    """Read the description in the metadata of a complete film. Raises `ClipError` for a file that has none."""
    try:
        with av.open(film, "r", format="mp4") as container:
            text = container.metadata.get("comment", "")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ClipError(f"not a film: {error}") from error
    return parse_film_info(text)

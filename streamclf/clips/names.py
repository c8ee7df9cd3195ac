"""Name the files of a clip: `STREAM/YYYY-MM-DD/HHMMSS-mmm-LABEL.mp4`, in UTC, and its pictures beside it.

A clip of a region or of a named model has these names after the label.

All files of a clip have the same stem, which ends at the first dot. Names hold ASCII letters, digits, `_` and `-` only,
so that they mean the same in a URL, in a shell and on every file system.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from streamclf.net.names import valid_stream_name

FILM: Final = ".mp4"
STILL: Final = ".jpg"
DRAWN: Final = ".drawn.jpg"
STAR: Final = ".star"
UNFINISHED: Final = ".part"
"""A file that is being written has a hidden name: `.NAME.part`."""
MAX_SLUG_CHARS: Final = 48
MAX_VIEW_CHARS: Final = 12
"""Characters of the name of a region, and of a model, in the name of a file; the film's metadata has them in full."""
MAX_PATH_CHARS: Final = 256
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_STEM: Final = re.compile(r"\d{6}-\d{3}-[A-Za-z0-9_-]{1,80}")
_FILE: Final = re.compile(rf"({_STEM.pattern})((?:\.[a-z0-9]{{1,16}}){{1,2}})", re.ASCII)
_OUTSIDE_SLUG: Final = re.compile(r"[^A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True, order=True)
class ClipName:
    """The place of a clip in the folder. Names sort by day, then by time, across streams."""

    day: str
    stem: str
    stream: str

    @property
    def film(self) -> str:
        """The path of the film, relative to the folder, with `/`."""
        return self.path(FILM)

    @property
    def still(self) -> str:
        """The path of the still without drawings."""
        return self.path(STILL)

    @property
    def drawn(self) -> str:
        """The path of the still with label and probability drawn on it."""
        return self.path(DRAWN)

    @property
    def began_s(self) -> float | None:
        """When the first picture was taken, in seconds since 1970; None if the name holds no valid time."""
        try:
            began = datetime.strptime(f"{self.day} {self.stem[:6]}.{self.stem[7:10]}+0000", "%Y-%m-%d %H%M%S.%f%z")
        except ValueError:
            return None
        return began.timestamp()

    def path(self, suffix: str) -> str:
        """Return the path of the clip's file with this suffix, like `.mp4`, relative to the folder."""
        return f"{self.stream}/{self.day}/{self.stem}{suffix}"


def clip_name(stream: str, began: datetime, label: str, number: int = 1, view: Sequence[str] = ()) -> ClipName:
    """Name a clip of `label` whose first picture was taken at `began`; a `number` above 1 makes a taken name unique.

    `view` has the names of the region and the model.
    """
    began = began.astimezone(timezone.utc)
    names = "".join(f"-{name[:MAX_VIEW_CHARS]}" for name in view)
    tail = f"-{number}" if number > 1 else ""
    stem = f"{began:%H%M%S}-{began.microsecond // 1000:03d}-{label_slug(label)}{names}{tail}"
    return ClipName(f"{began:%Y-%m-%d}", stem, stream)


def label_slug(label: str) -> str:
    """Return the part of a file name that stands for any label: at most 48 letters, digits, `_` and `-`.

    Accents are removed. A label without a Latin letter or a digit becomes `action`: the film's metadata has it in full.
    """
    plain = unicodedata.normalize("NFKD", label[:512]).encode("ascii", "ignore").decode()
    return _OUTSIDE_SLUG.sub("-", plain).strip("-")[:MAX_SLUG_CHARS].strip("-") or "action"


def parse_clip_path(path: str) -> tuple[ClipName, str] | None:
    """Return the clip and the suffix of a path from outside, like `.mp4`; None if it cannot be the path of a clip."""
    parts = path.split("/") if len(path) <= MAX_PATH_CHARS else []
    if len(parts) != 3 or not valid_stream_name(parts[0]) or not valid_day(parts[1]):
        return None
    name = parse_file_name(parts[2])
    return None if name is None else (ClipName(parts[1], name[0], parts[0]), name[1])


def parse_file_name(name: str) -> tuple[str, str] | None:
    """Return the stem and the suffix of a file's name; None if it is no name of a clip's file."""
    match = _FILE.fullmatch(name)
    return None if match is None else (match[1], match[2])


def valid_day(name: str) -> bool:
    """Return whether `name` is the name of a day's folder."""
    return name.isascii() and _DAY.fullmatch(name) is not None

"""When a log begins a new file, and which old ones stay: `--rotate 100MB --rotate 1d --keep 30`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamclf.config.service import DURATION, DURATION_S
from streamclf.errors import UsageError

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)(KB|MB|GB|KiB|MiB|GiB)")
_UNIT_BYTES: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_LEAST_BYTES: Final = 1000
_LEAST_S: Final = 1.0
_MOST: Final = 10**13


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """None is no limit."""

    max_bytes: int | None = None
    max_age_s: float | None = None
    keep: int | None = None
    """Complete files that stay, besides the one that is written."""

    def due(self, size: int, more: int, age_s: float) -> bool:
        """Whether `more` bytes belong into a new file, when the present one has `size` and is `age_s` old."""
        if size == 0:
            return False
        too_large = self.max_bytes is not None and size + more > self.max_bytes
        return too_large or (self.max_age_s is not None and age_s >= self.max_age_s)


def parse_rotation(limits: Sequence[str], keep: int | None) -> Rotation:
    """`["100MB", "1d"]` and how many files stay. Raises `UsageError` naming what is wrong."""
    max_bytes: int | None = None
    max_age_s: float | None = None
    for text in limits:
        if (size := _SIZE.fullmatch(text)) and max_bytes is None:
            max_bytes = int(_limited(text, float(size[1]) * _UNIT_BYTES[size[2]], _LEAST_BYTES, "1KB"))
        elif (age := DURATION.match(text)) and max_age_s is None:
            max_age_s = _limited(text, float(age[1]) * DURATION_S[age[2]], _LEAST_S, "1s")
        else:
            raise UsageError(f"rotate={text}: one size like 100MB, one age like 12h or 1d, or both")
    if keep is not None and not limits:
        raise UsageError(f"keep={keep}: only together with --rotate")
    if keep is not None and keep < 1:
        raise UsageError(f"keep={keep}: at least 1: the newest complete file says where to go on")
    return Rotation(max_bytes=max_bytes, max_age_s=max_age_s, keep=keep)


def _limited(text: str, value: float, least: float, least_text: str) -> float:
    if not least <= value <= _MOST:
        raise UsageError(f"rotate={text}: at least {least_text}, at most 10000GB")
    return value


def completed(path: Path) -> list[Path]:
    """The complete files of the log `path`, `events.000001.jsonl` and so on, oldest first."""
    return sorted_by_number(path.parent, re.compile(rf"{re.escape(path.stem)}\.(\d{{6,}}){re.escape(path.suffix)}"))


def next_name(path: Path) -> Path:
    """What the file that is written now is called when it is complete."""
    known = completed(path)
    number = int(known[-1].suffixes[-2].removeprefix(".")) + 1 if known else 1
    return path.with_name(f"{path.stem}.{number:06}{path.suffix}")


def sorted_by_number(directory: Path, name: re.Pattern[str]) -> list[Path]:
    """Files in `directory` whose whole name matches, by the number that is the pattern's first group."""
    found = [(int(match[1]), each) for each in directory.iterdir() if (match := name.fullmatch(each.name))]
    return [each for _, each in sorted(found)]


def drop_oldest(files: Sequence[Path], keep: int | None) -> None:
    """Remove all but the newest `keep`."""
    for old in files[: max(0, len(files) - keep)] if keep is not None else []:
        old.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Bring names to disk: a file that is renamed or new may else be gone after a power failure."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

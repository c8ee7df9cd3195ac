"""Decide when a log begins a new file and which old files stay: `--rotate 100MB --rotate 1d --keep 30`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamclf.config.units import match_duration, match_size
from streamclf.errors import UsageError

_MIN_BYTES: Final = 1000
_MIN_AGE_S: Final = 1.0
_MAX_LIMIT: Final = 10**13
"""Largest size in bytes (10,000 GB); the same number limits ages, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The limits of one log file. None means no limit."""

    max_bytes: int | None = None
    max_age_s: float | None = None
    keep: int | None = None
    """Number of complete files to keep, in addition to the current one."""

    def is_due(self, size: int, added: int, age_s: float) -> bool:
        """Return whether `added` bytes need a new file; the current file has `size` bytes and is `age_s` old.

        An empty file is never rotated.
        """
        if size == 0:
            return False
        is_too_large = self.max_bytes is not None and size + added > self.max_bytes
        return is_too_large or (self.max_age_s is not None and age_s >= self.max_age_s)


def parse_rotation(limits: Sequence[str], keep: int | None) -> Rotation:
    """Parse limits like `["100MB", "1d"]` and the number of files to keep. Raises `UsageError`."""
    max_bytes: int | None = None
    max_age_s: float | None = None
    for text in limits:
        if max_bytes is None and (size := match_size(text)) is not None:
            max_bytes = int(_checked(text, size, _MIN_BYTES, "1KB"))
        elif max_age_s is None and (age_s := match_duration(text)) is not None:
            max_age_s = _checked(text, age_s, _MIN_AGE_S, "1s")
        else:
            raise UsageError(f"rotate={text}: give one size like 100MB, one age like 12h or 1d, or both")
    if keep is not None and not limits:
        raise UsageError(f"keep={keep}: only together with --rotate")
    if keep is not None and keep < 1:
        raise UsageError(f"keep={keep}: at least 1, because the newest complete file holds the position")
    return Rotation(max_bytes=max_bytes, max_age_s=max_age_s, keep=keep)


def _checked(text: str, value: float, minimum: float, minimum_text: str) -> float:
    if not minimum <= value <= _MAX_LIMIT:
        raise UsageError(f"rotate={text}: at least {minimum_text}, at most 10000GB")
    return value


def complete_files(path: Path) -> list[Path]:
    """List the complete files of the log `path`, oldest first: `events.000001.jsonl`, `events.000002.jsonl`, …"""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{6,}}){re.escape(path.suffix)}")
    found = [(int(match[1]), each) for each in path.parent.iterdir() if (match := name.fullmatch(each.name))]
    return [each for _, each in sorted(found)]


def next_name(path: Path) -> Path:
    """Return the name that the current file `path` gets when it is complete."""
    known = complete_files(path)
    number = int(known[-1].suffixes[-2].removeprefix(".")) + 1 if known else 1
    return path.with_name(f"{path.stem}.{number:06}{path.suffix}")


def remove_oldest(files: Sequence[Path], keep: int | None) -> None:
    """Remove all but the newest `keep` of `files`, which are sorted oldest first. None keeps all."""
    for old in files[: max(0, len(files) - keep)] if keep is not None else []:
        old.unlink(missing_ok=True)

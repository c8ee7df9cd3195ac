"""Define the file of a log: its format, when it begins a new file, and how much stays: `rotate: 100MB`, `keep: 90d`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    keep_s: float | None = None
    """Age beyond which the log removes events: an SQLite log each one, a log in JSON lines whole complete files."""
    keep_bytes: int | None = None
    """Size beyond which the log removes its oldest events: of an SQLite log, or of all files in JSON lines together."""

    def is_due(self, size: int, added: int, age_s: float) -> bool:
        """Return whether `added` bytes need a new file; the current file has `size` bytes and is `age_s` old.

        An empty file is never rotated.
        """
        if size == 0:
            return False
        is_too_large = self.max_bytes is not None and size + added > self.max_bytes
        return is_too_large or (self.max_age_s is not None and age_s >= self.max_age_s)

    def for_lines(self) -> Rotation:
        """Return the limits of a log in JSON lines, which is removed file by file.

        If they name no size or age for a new file, it begins after a tenth of what is kept.
        """
        if self.max_bytes is not None or self.max_age_s is not None:
            return self
        return replace(
            self,
            max_bytes=None if self.keep_bytes is None else self.keep_bytes // _FILES,
            max_age_s=None if self.keep_s is None else self.keep_s / _FILES,
        )


_FILES: Final = 10
SQLITE_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
JSONL_SUFFIXES: Final = (".jsonl", ".ndjson")
_EXPORTED_SUFFIXES: Final = (".csv", ".parquet")


def check_log_file(path: Path, rotation: Rotation) -> None:
    """Raise `UsageError` for a log without a known suffix, or with limits that its format does not have."""
    if path.suffix in SQLITE_SUFFIXES:
        if rotation.max_bytes or rotation.max_age_s:
            raise UsageError(f"{path}: a SQLite log is one file; rotate a .jsonl log instead")
    elif path.suffix in JSONL_SUFFIXES:
        if rotation.keep_bytes is not None and 2 * (rotation.max_bytes or 0) > rotation.keep_bytes:
            raise UsageError(f"{path}: keep_size must be at least twice the size in rotate: files are removed whole")
    elif path.suffix in _EXPORTED_SUFFIXES:
        raise UsageError(
            f"{path}: a log is a .db or .jsonl file; log to {path.stem}.db, "
            f"then export it with: streamclf query {path.stem}.db -o {path.name}"
        )
    else:
        raise UsageError(f"{path}: ends in {path.suffix or 'no suffix'}; give a name that ends in .db or .jsonl")


def parse_rotation(limits: Sequence[str], keep: int | str | None, keep_bytes: int | None = None) -> Rotation:
    """Parse limits like `["100MB", "1d"]`, and how much to keep: a number of files or an age like `90d`, and bytes.

    Raises `UsageError`.
    """
    max_bytes: int | None = None
    max_age_s: float | None = None
    for text in limits:
        if max_bytes is None and (size := match_size(text)) is not None:
            max_bytes = int(_checked(text, size, _MIN_BYTES, "1KB"))
        elif max_age_s is None and (age_s := match_duration(text)) is not None:
            max_age_s = _checked(text, age_s, _MIN_AGE_S, "1s")
        else:
            raise UsageError(f"rotate={text}: give one size like 100MB, one age like 12h or 1d, or both")
    if isinstance(keep, str) and not keep.isdecimal():
        keep_s = match_duration(keep)
        if keep_s is None:
            raise UsageError(f"keep={keep}: an age like 90d, or with rotate a number of files")
        keep_s = _checked(keep, keep_s, _MIN_AGE_S, "1s", key="keep")
        return Rotation(max_bytes=max_bytes, max_age_s=max_age_s, keep_s=keep_s, keep_bytes=keep_bytes)
    keep = None if keep is None else int(keep)
    if keep is not None and not limits:
        raise UsageError(f"keep={keep}: a number of files needs rotate; give an age like 90d, or keep_size")
    if keep is not None and keep < 1:
        raise UsageError(f"keep={keep}: at least 1, because the newest complete file holds the position")
    return Rotation(max_bytes=max_bytes, max_age_s=max_age_s, keep=keep, keep_bytes=keep_bytes)


def _checked(text: str, value: float, minimum: float, minimum_text: str, *, key: str = "rotate") -> float:
    if not minimum <= value <= _MAX_LIMIT:
        raise UsageError(f"{key}={text}: at least {minimum_text}, at most 10000GB")
    return value

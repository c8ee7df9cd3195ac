"""Name, list and remove the complete files of a log in JSON lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


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


def surplus(
    files: Sequence[tuple[int, float]], *, keep: int | None, keep_bytes: float | None, oldest_s: float | None
) -> int:
    """Return how many of the oldest files are too many, too large together, or too old.

    `files` holds (bytes, time of the last change in seconds since 1970), oldest first. The newest file always stays,
    because it may hold the position. None means no limit.
    """
    removed = 0 if keep is None else max(0, len(files) - keep)
    total = sum(size for size, _ in files[removed:])
    while removed < len(files) - 1:
        size, changed_s = files[removed]
        is_too_large = keep_bytes is not None and total > keep_bytes
        if not is_too_large and (oldest_s is None or changed_s >= oldest_s):
            break
        total -= size
        removed += 1
    return removed

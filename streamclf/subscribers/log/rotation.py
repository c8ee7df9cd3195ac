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


def remove_oldest(files: Sequence[Path], keep: int | None) -> None:
    """Remove all but the newest `keep` of `files`, which are sorted oldest first. None keeps all."""
    for old in files[: max(0, len(files) - keep)] if keep is not None else []:
        old.unlink(missing_ok=True)

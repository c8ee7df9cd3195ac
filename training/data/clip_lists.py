"""Read labelled clips in every format: CSV files, folders named for classes, and published sets' lists."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from engines.printable import printable
from streamclf.sources.film_files import VIDEO_SUFFIXES, is_system_file
from training.data.class_folders import read_class_folders
from training.data.clips import SPLITS, Row
from training.data.csv_lists import read_table
from training.data.file_names import as_label, exists
from training.data.published_lists import clips_by_stem, read_published_lists, read_something
from training.errors import DataError

MAX_CLIPS = 1_000_000
LABEL_SEPARATOR = ";"
"""The separator of several labels in one cell of a list, where labels are independent."""


def read_rows(
    path: Path,
    *,
    videos: Path | None = None,
    ucf101_list: int = 1,
    notes: list[str] | None = None,
    multi_label: bool = False,
    known: Collection[str] = (),
) -> tuple[list[Row], Path]:
    """Read all rows of `path`. Also returns the folder that their paths are relative to: `videos`, where it is given.

    `path` is one of:

    - a CSV with the columns path and label, and optionally split and group, or a folder with `clips.csv`
    - a folder with `train.csv` and `test.csv` or `val.csv`, as UCF101's 5-class subset and Kinetics have
    - a folder with or beside the official lists of UCF101, HMDB51 (`ucf101_list` chooses one of three) or
      Something-Something v2
    - a folder with one folder for each class, or with such folders inside folders named train, val and test

    With `multi_label` a clip may have several labels, or none: in several rows, or in one cell, with semicolons between
    them. A cell that is one of the `known` labels is one label.

    `notes` gets sentences about files and rows that are left out. Raises `DataError` that names the file, the line
    and the remedy.
    """
    collected: list[str] = []
    rows, base = _read(path, videos, ucf101_list, collected, multi_label)
    if multi_label:
        rows = [replace(row, several=_split_labels(row.label, known)) for row in rows]
    if not rows:
        raise DataError(
            f"{printable(path)}: no clip in it; clips are files that end in {', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    if len(rows) > MAX_CLIPS:
        raise DataError(f"{printable(path)}: {len(rows)} clips, at most {MAX_CLIPS}; divide it into several lists")
    check_labels(rows)
    if not multi_label:
        collected += _joined_label_notes(rows)
    rows = merge_duplicates(rows, collected)
    if notes is not None:
        notes += map(printable, collected)
    return rows, base


def _joined_label_notes(rows: Sequence[Row]) -> list[str]:
    """Write a note where a label looks like several others in one cell."""
    labels = {row.label for row in rows}
    joined = [
        label
        for label in sorted(labels)
        if LABEL_SEPARATOR in label and any(as_label(part) in labels for part in label.split(LABEL_SEPARATOR))
    ]
    if not joined:
        return []
    return [
        f"{len(joined)} labels with a semicolon, such as {joined[0]!r}, are one label each; if they mean several "
        "labels of a clip, give data.multi_label: true"
    ]


def _split_labels(text: str, known: Collection[str]) -> tuple[str, ...]:
    parts = [text] if text in known else text.split(LABEL_SEPARATOR)
    return tuple(dict.fromkeys(label for part in parts if (label := as_label(part))))


def _read(path: Path, videos: Path | None, number: int, notes: list[str], multi_label: bool) -> tuple[list[Row], Path]:
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)[:200]}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if is_file:
        base = videos or path.parent
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise DataError(f"{printable(path)}: a film, not a list; give a CSV list or the folder with all classes")
        if path.suffix.lower() == ".json":
            return read_something(path, clips_by_stem(base)), base
        return read_table(path, base, notes, may_lack_label=multi_label), base
    if not is_folder:
        raise DataError(f"{printable(path)}: no such file or folder; give a CSV list or a folder of class names")
    base = videos or path
    tables = [(file, split) for file in sorted(path.glob("*.csv")) if (split := _table_split(file))]
    if tables and (path / "clips.csv").is_file():
        raise DataError(f"{path}: has clips.csv and {tables[0][0].name}; give one of them as data.path")
    if tables:
        return [row for file, split in tables for row in _split_table(file, split, base, notes, multi_label)], base
    if (path / "clips.csv").is_file():
        return read_table(path / "clips.csv", base, notes, may_lack_label=multi_label), base
    if (published := read_published_lists(path, videos, number, notes)) is not None:
        return published
    if videos is not None:
        raise DataError(f"{printable(path)}: holds no list, so data.videos={printable(videos)} has no use; remove it")
    return read_class_folders(path, notes), path


def check_labels(rows: Sequence[Row]) -> None:
    """Raise `DataError` for one class that is written in two ways.

    Such labels differ only in case, spaces, invisible characters, or the zeros of a number (`1`, `01`, `1.0`).
    """
    counts = Counter(label for row in rows for label in row.labels)
    first: dict[str, str] = {}
    for label in counts:
        other = first.setdefault(_plain_label(label), label)
        if other != label:
            example = next(row for row in rows if label in row.labels)
            place = example.origin or printable(example.path)
            raise DataError(
                f"labels {other!r} ({counts[other]} clips) and {label!r} ({counts[label]} clips, first {place}): they "
                "differ only in case, spaces, invisible characters or zeros; write them in the same way"
            )


def _plain_label(label: str) -> str:
    visible = "".join(character for character in label if unicodedata.category(character) != "Cf")
    plain = re.sub(r"[\s_]+", " ", visible).strip().casefold()
    return f"{float(plain):g}" if re.fullmatch(r"\d{1,6}(\.0+)?", plain) else plain


def merge_duplicates(rows: Sequence[Row], notes: list[str]) -> list[Row]:
    """Return each clip once, where labels are independent with those of all its rows.

    Raises `DataError` for a clip with two labels otherwise, and for one in two splits or groups.
    """
    first: dict[str, Row] = {}
    repeated: list[str] = []
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is row:
            continue
        for key in ("label", "split") if row.several is None else ("split", "group"):
            if getattr(other, key) != getattr(row, key):
                raise DataError(
                    f"{printable(row.path)}: {key} {getattr(other, key)!r} ({other.origin}) and "
                    f"{getattr(row, key)!r} ({row.origin}); a clip has one {key}: remove a row"
                    + (", or give data.multi_label: true" if key == "label" else "")
                )
        if row.several is not None:
            first[row.path] = replace(other, several=tuple(dict.fromkeys((*other.labels, *row.labels))))
            continue
        repeated.append(row.path)
    if repeated:
        names = ", ".join(map(printable, repeated[:5])) + (", …" if len(repeated) > 5 else "")
        notes.append(f"{len(repeated)} rows repeat a clip and are left out: {names}")
    return list(first.values())


def _table_split(path: Path) -> str:
    """Return the split that a CSV's name gives, such as `train.csv` or `kinetics-400_val.csv`; "" for other names."""
    if is_system_file(path.name):
        return ""
    found = {SPLITS[word] for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def _split_table(path: Path, split: str, base: Path, notes: list[str], multi_label: bool) -> list[Row]:
    """Read `train.csv`. In UCF101's 5-class subset its paths are relative to the folder `train` beside it."""
    own, found = base / path.stem, list[str]()
    rows = read_table(path, base, found, split=split, may_lack_label=multi_label)
    if not own.is_dir() or any(exists(base / row.path) for row in rows[:20]):
        notes += found
        return rows
    rows = read_table(path, own, notes, split=split, may_lack_label=multi_label)
    return [replace(row, path=f"{path.stem}/{row.path}") for row in rows]

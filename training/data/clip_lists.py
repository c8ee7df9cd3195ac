"""Read lists of clips: CSV files, folders named for classes, and UCF101's lists. All become the same rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from streamclf.sources.images import natural_key
from training.data.clips import SPLITS, Row
from training.errors import DataError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
MAX_CLIPS = 1_000_000
MAX_LIST_BYTES = 256 << 20

PATH_COLUMNS, LABEL_COLUMNS = ("path", "video_name", "file", "video"), ("label", "tag", "class")
UCF101_NAME = re.compile(r"v_(?P<label>\w+?)_g(?P<group>\d+)_c\d+\.\w+$")
UCF101_LINE = re.compile(r"(?P<path>(?P<label>[^/\\\s]+)/\S+?)(?:\s+\d+)?$")


def read_rows(path: Path, *, ucf101_list: int = 1) -> tuple[list[Row], Path]:
    """Read all rows of `path`. Also returns the folder that their paths are relative to.

    `path` is one of:

    - a CSV with the columns path and label, and optionally split and group
    - a folder with `train.csv` and `test.csv` or `val.csv` (columns video_name and tag), as in UCF101's 5-class subset
    - a folder with UCF101's own `trainlist01.txt` and `testlist01.txt`; `ucf101_list` chooses one of the three pairs
    - a folder with one folder for each class, or with such folders inside folders named train, val and test

    Raises `DataError` that names the file, the line and the remedy.
    """
    if path.is_file():
        rows, base = _table(path), path.parent
    elif not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give a CSV list or a folder of class names")
    elif tables := [file for file in sorted(path.glob("*.csv")) if file.stem.lower() in SPLITS]:
        rows, base = [row for file in tables for row in _split_table(file)], path
    elif (path / "clips.csv").is_file():
        rows, base = _table(path / "clips.csv"), path
    elif (lists := sorted(path.rglob(f"*list{ucf101_list:02}.txt"))) and any(
        file.name.startswith("train") for file in lists
    ):
        rows, base = [row for file in lists for row in _ucf101(file)], path
    else:
        rows, base = _folders(path), path
    if not rows:
        raise DataError(f"{path}: no clip in it; clips are files that end in {', '.join(sorted(VIDEO_SUFFIXES))}")
    if len(rows) > MAX_CLIPS:
        raise DataError(f"{path}: {len(rows)} clips, at most {MAX_CLIPS}; divide it into several lists")
    return rows, base


def _table(path: Path, split: str = "") -> list[Row]:
    """Read a CSV with a header. Rows without a split of their own get `split`."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes, at most {MAX_LIST_BYTES}; is it a list of clips?")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            path_column = _column(path, columns, PATH_COLUMNS)
            label_column = _column(path, columns, LABEL_COLUMNS)
            rows = []
            for line in reader:
                name, label = (line[path_column] or "").strip(), (line[label_column] or "").strip()
                if not name or not label:
                    raise DataError(
                        f"{path}, line {reader.line_num}: {path_column}={name!r}, {label_column}={label!r}; give both"
                    )
                own_split = (line.get("split") or split).strip()
                group = (line.get("group") or "").strip() or _group(name)
                rows.append(Row(path=name, label=label, split=_split(path, own_split), group=group))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV list ({error}); the first line names the columns") from error
    return rows


def _column(path: Path, columns: Sequence[str], known: Sequence[str]) -> str:
    for name in known:
        if name in columns:
            return name
    raise DataError(
        f"{path}: no column {' or '.join(known)} in {', '.join(columns) or 'an empty file'}; "
        "the first line names the columns: path,label,split,group"
    )


def _split(path: Path, name: str) -> str:
    """Return this package's name of a split; "" for none."""
    if not name:
        return ""
    known = SPLITS.get(name.lower())
    if known is None:
        raise DataError(f"{path}: split={name!r}; one of {', '.join(SPLITS)}")
    return known


def _group(name: str) -> str:
    """Return the group in the name of a UCF101 file, the same for files of one source; "" for other names."""
    found = UCF101_NAME.search(name)
    return f"{found['label']}-g{found['group']}" if found else ""


def _split_table(path: Path) -> list[Row]:
    """Read `train.csv`. In UCF101's 5-class subset its paths are relative to the folder `train` beside it."""
    rows = _table(path, split=SPLITS[path.stem.lower()])
    if not (path.parent / path.stem).is_dir():
        return rows
    return [Row(path=f"{path.stem}/{row.path}", label=row.label, split=row.split, group=row.group) for row in rows]


def _ucf101(path: Path) -> list[Row]:
    """Read `trainlist01.txt` (path and number) or `testlist01.txt` (path): the path's folder is the class."""
    split = "train" if path.name.startswith("train") else "test"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = UCF101_LINE.match(line.strip())
        if found is None:
            raise DataError(f"{path}, line {number}: {line[:80]!r} is not Class/video.avi; use UCF101's own lists")
        rows.append(Row(path=found["path"], label=found["label"], split=split, group=_group(found["path"])))
    return rows


def _folders(path: Path) -> list[Row]:
    """Read `class/clip.mp4`, or `train/class/clip.mp4` where every folder has a split's name."""
    children = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    if children and all(child.name.lower() in SPLITS for child in children):
        splits = [(SPLITS[child.name.lower()], child) for child in children]
    else:
        splits = [("", path)]
    rows = []
    for split, split_folder in splits:
        for folder in sorted(
            item for item in split_folder.iterdir() if item.is_dir() and not item.name.startswith(".")
        ):
            clips = _videos(folder)
            if not clips:
                raise DataError(f"{folder}: no clip of class {folder.name!r} in it; add some or remove the folder")
            rows += [
                Row(
                    path=str(clip.relative_to(path)),
                    label=folder.name,
                    split=split,
                    group=_group(clip.name),
                )
                for clip in clips
            ]
    return rows


def _videos(folder: Path) -> list[Path]:
    found: Iterable[Path] = (item for item in folder.rglob("*") if item.suffix.lower() in VIDEO_SUFFIXES)
    return sorted((item for item in found if item.is_file()), key=lambda item: natural_key(str(item)))

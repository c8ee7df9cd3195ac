"""Find and read the official lists of UCF101, HMDB51 and Something-Something v2, below or beside the clips."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from engines.printable import printable
from streamclf.sources.film_files import VIDEO_SUFFIXES, is_system_file
from training.data.clips import SPLITS, Row
from training.data.file_names import as_label, exists
from training.data.published_names import ucf101_group
from training.errors import DataError

UCF101_LIST = re.compile(r"(?P<split>train|test|val|validation)list(?P<number>\d\d)\.txt")
UCF101_LINE = re.compile(r"(?P<path>(?P<label>[^/\\\s]+)/\S+?)(?:\s+\d+)?$")
HMDB51_LIST = re.compile(r"(?P<label>.+)_test_split(?P<number>\d)\.txt")
HMDB51_LINE = re.compile(r"(?P<name>\S.*?)\s+(?P<use>[012])$")
HMDB51_USES = {"1": "train", "2": "test"}
"""Clips with the number 0 are in neither split."""
SOMETHING_LIST = re.compile(r"(?:something-something-v2-)?(?P<split>train|validation|test)\.json")
LIST_FOLDER = re.compile(r"list|split|label|annotation", re.IGNORECASE)
"""Folders beside the clips whose names match are searched for lists, such as ucfTrainTestlist."""
MAX_LIST_BYTES = 256 << 20
MAX_WALKED = 1_000_000
MAX_WALKED_BESIDE = 10_000
SAMPLED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """The files of one published set's lists."""

    kind: str
    files: list[Path]

    @property
    def folder(self) -> Path:
        """Return the folder with the lists."""
        return self.files[0].parent


def read_published_lists(
    path: Path, videos: Path | None, number: int, notes: list[str]
) -> tuple[list[Row], Path] | None:
    """Read the official lists of the set in the folder `path`; None where there are none.

    Lists are searched below `path` and beside it. Those beside it count only if they name clips in `path`. `number`
    chooses one of the three pairs of UCF101 and HMDB51. Also returns the folder that the rows are relative to.
    Raises `DataError`.
    """
    for folders, beside in ((_below(path), False), (_beside(path), True)):
        lists = find_lists(folders, number)
        if lists is None:
            continue
        rows = read_lists(lists, videos or path, number)
        near = [] if beside else [lists.folder, *_children(path), *_children(path.absolute().parent)]
        base = _base(rows, [videos] if videos else [path, *near])
        if base is None and (moved := _by_name(rows, videos or path)):
            rows, base = moved, videos or path
        if base is None and beside:
            continue
        notes.append(f"the clips and their splits are those of {printable(lists.files[0])}")
        if base is not None:
            rows = _present_classes(rows, base, notes)
        return rows, base or videos or path
    return None


def find_lists(folders: Iterator[tuple[Path, list[str]]], number: int) -> Lists | None:
    """Return the lists in the first of `folders` that has some. Raises `DataError` where it lacks list `number`."""
    for folder, names in folders:
        for kind, pattern in (("ucf101", UCF101_LIST), ("hmdb51", HMDB51_LIST), ("something", SOMETHING_LIST)):
            found = [(name, match) for name in names if (match := pattern.fullmatch(name))]
            if kind == "something":
                found = [item for item in found if _is_something(folder / item[0])]
                chosen = [name for name, _ in found]
            else:
                chosen = [name for name, match in found if int(match["number"]) == number]
                if kind == "ucf101" and not any(name.startswith("train") for name, _ in found):
                    continue
            if found and not chosen:
                numbers = sorted({int(match["number"]) for _, match in found})
                raise DataError(
                    f"{folder}: no list {number}, only {', '.join(map(str, numbers))}; give data.ucf101_list"
                )
            if chosen:
                return Lists(kind=kind, files=[folder / name for name in sorted(chosen)])
    return None


def read_lists(lists: Lists, videos: Path, number: int) -> list[Row]:
    """Read all rows of `lists`. Raises `DataError` that names the file and the line."""
    if lists.kind == "something":
        clips = clips_by_stem(videos)
        return [row for file in lists.files for row in read_something(file, clips)]
    read = _ucf101 if lists.kind == "ucf101" else _hmdb51
    return [row for file in lists.files for row in read(file)]


def clips_by_stem(folder: Path) -> dict[str, str]:
    """Return the paths of all clips below `folder`, relative to it, by their names without suffix."""
    found: dict[str, str] = {}
    for parent, names in _walk(folder):
        for name in names:
            clip = parent / name
            if clip.suffix.lower() in VIDEO_SUFFIXES:
                found.setdefault(clip.stem, str(clip.relative_to(folder)))
    return found


def read_something(path: Path, clips: dict[str, str]) -> list[Row]:
    """Read a JSON list of Something-Something v2, whose label is the template without brackets.

    The test list has no labels, and gives no rows.
    """
    try:
        items = json.loads(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); use the published list") from error
    match = SOMETHING_LIST.fullmatch(path.name)
    split = SPLITS[match["split"]] if match else ""
    if not isinstance(items, list) or not all(isinstance(item, dict) and "id" in item for item in items):
        raise DataError(
            f"{path}: not a list of Something-Something v2, which is a JSON list of objects with id and template; give "
            "a CSV list with the columns path,label,split,group"
        )
    rows = []
    for item in items:
        if "template" not in item:
            continue
        label = as_label(re.sub(r"[\[\]]", "", str(item["template"])))
        name = str(item["id"])
        rows.append(Row(path=clips.get(name, f"{name}.webm"), label=label, split=split, origin=path.name))
    return rows


def _is_something(path: Path) -> bool:
    """Tell whether a JSON file begins like a list of Something-Something v2."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).lstrip()
    except OSError:
        return False
    return head.startswith(b"[") and b'"id"' in head


def _ucf101(path: Path) -> Iterator[Row]:
    """Read `trainlist01.txt` (path and number) or `testlist01.txt` (path): the path's folder is the class."""
    match = UCF101_LIST.fullmatch(path.name)
    assert match is not None  # only such files are read
    for number, line in _lines(path):
        found = UCF101_LINE.match(line.replace("\\", "/"))
        if found is None:
            raise DataError(f"{path}, line {number}: {line[:80]!r} is not Class/video.avi; use UCF101's own lists")
        yield Row(
            path=found["path"],
            label=as_label(found["label"]),
            split=SPLITS[match["split"]],
            group=ucf101_group(found["path"]),
            origin=f"{path.name}, line {number}",
        )


def _hmdb51(path: Path) -> Iterator[Row]:
    """Read `brush_hair_test_split1.txt`: each line is a file of the class, and 1 (train), 2 (test) or 0 (unused)."""
    match = HMDB51_LIST.fullmatch(path.name)
    assert match is not None  # only such files are read
    for number, line in _lines(path):
        found = HMDB51_LINE.match(line)
        if found is None:
            raise DataError(f"{path}, line {number}: {line[:80]!r} is not 'video.avi 1'; use HMDB51's own lists")
        if split := HMDB51_USES.get(found["use"]):
            label = match["label"]
            origin = f"{path.name}, line {number}"
            yield Row(path=f"{label}/{found['name']}", label=as_label(label), split=split, origin=origin)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes, at most {MAX_LIST_BYTES}; is it a list of clips?")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _walk(folder: Path, limit: int = MAX_WALKED) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders at and below `folder`, upper ones first, with the names of their files, at most `limit`."""
    waiting, walked = deque([folder]), 0
    while waiting and walked < limit:
        current = waiting.popleft()
        try:
            with os.scandir(current) as entries:
                items = sorted((e for e in entries if not is_system_file(e.name)), key=lambda entry: entry.name)
        except OSError:
            continue
        walked += len(items)
        yield current, [item.name for item in items if not item.is_dir(follow_symlinks=False)]
        waiting += [current / item.name for item in items if item.is_dir(follow_symlinks=False)]


def _below(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders below `path` that may have lists."""
    yield from _walk(path)


def _beside(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder above `path`, and the folders beside it that are named for lists."""
    parent = path.absolute().parent
    yield parent, [item.name for item in _items(parent) if item.is_file()]
    for folder in _children(parent):
        if LIST_FOLDER.search(folder.name):
            yield from _walk(folder, MAX_WALKED_BESIDE)


def _items(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_system_file(e.name)), key=lambda entry: entry.name)
    except OSError:
        return []


def _children(folder: Path) -> list[Path]:
    return [Path(item.path) for item in _items(folder) if item.is_dir()]


def _base(rows: Sequence[Row], candidates: Sequence[Path]) -> Path | None:
    """Return the first of `candidates` that has some of the listed clips."""
    sample = [row.path for row in rows[:: max(len(rows) // SAMPLED, 1)]]
    for folder in candidates:
        if any(exists(folder / name) for name in sample):
            return folder
    return None


def _by_name(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Return `rows` with the paths that their clips have below `folder`: converted, or without folders of classes.

    The list is empty where no clip is found. A row whose clip is absent keeps its path.
    """
    clips = clips_by_stem(folder)
    paths = [clips.get(PurePosixPath(row.path).stem) for row in rows]
    if not any(paths):
        return []
    return [replace(row, path=path or row.path) for row, path in zip(rows, paths, strict=True)]


def _present_classes(rows: Sequence[Row], base: Path, notes: list[str]) -> list[Row]:
    """Return the rows whose class has a folder; a part of the classes is often copied without the others."""
    folders = {str(PurePosixPath(row.path).parent) for row in rows}
    absent = {folder for folder in folders if not exists(base / folder)}
    if absent:
        names = ", ".join(printable(name) for name in sorted(absent)[:5]) + (", …" if len(absent) > 5 else "")
        notes.append(f"{len(absent)} of {len(folders)} listed classes have no folder and are left out: {names}")
    return [row for row in rows if str(PurePosixPath(row.path).parent) not in absent]

"""Read a folder with one folder for each class, also within folders named train, val and test."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from engines.printable import printable
from streamclf.errors import SourceError
from streamclf.sources.file import is_animated_webp
from streamclf.sources.film_files import VIDEO_SUFFIXES, is_system_file
from streamclf.sources.images import natural_key
from training.data.clips import SPLITS, Row
from training.data.file_names import as_label
from training.data.published_names import ucf101_group
from training.errors import DataError

MAX_FILES = 10_000_000
MAX_SHOWN = 5
SPLIT_FOLDER = re.compile(
    rf"(?:(?:videos?|clips?|data)[ _-]?)?(?P<split>{'|'.join(SPLITS)})(?:[ _-]?(?:set|data|split|videos?|clips?))?",
    re.IGNORECASE,
)
"""Names of folders that hold a split: `train`, `Test_Set`, `videos_val`."""
SPLIT_WORDS = frozenset({*SPLITS, "eval", "evaluation", "fold", "holdout", "split", "subset"})


class FolderScan:
    """The clips below a folder, and counts of everything else in it.

    Links are followed, but no folder is visited twice, so links that lead in a circle end.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.others: Counter[str] = Counter()
        self.other_names: list[str] = []
        self.links: list[str] = []
        self.hidden = 0
        self._files = 0
        self._visited: dict[tuple[int, int], str] = {_identity(root): "."}
        self.folders, self.direct = self._list(root)
        for folder in self.folders:
            self._visit(folder, is_class=True)
        self.clips = {folder.name: self._clips(folder) for folder in self.folders}
        """The clips below each folder in `root`, as parts of their paths relative to `root`, in natural order."""

    def describe_others(self) -> str:
        """Return the number of files of each suffix that are no clips, such as `12 .txt, 1 .json`."""
        return ", ".join(f"{count} {suffix}" for suffix, count in self.others.most_common(MAX_SHOWN))

    def notes(self) -> list[str]:
        """Return sentences about everything that is not used."""
        notes = []
        if self.direct:
            names = [path.name for path in self.direct]
            notes.append(f"{len(names)} clips outside the folders of classes are left out: {_few(names)}")
        if self.others:
            total = self.others.total()
            notes.append(
                f"{total} files are no clips and are left out ({self.describe_others()}): {_few(self.other_names)}"
            )
        if self.hidden:
            notes.append(f"{self.hidden} hidden files or folders of the operating system are left out")
        if self.links:
            notes.append(f"{len(self.links)} links to folders that are read already are left out: {_few(self.links)}")
        return notes

    def _list(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the folders and the clips directly in `folder`, and count the rest."""
        folders, clips = [], []
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{printable(folder)}: cannot be read ({error.strerror}); give read permission") from error
        for entry in found:
            path = folder / entry.name
            self._files += 1
            if self._files > MAX_FILES:
                raise DataError(f"{printable(self.root)}: over {MAX_FILES} files; give a folder of clips only")
            is_folder = _is_folder(entry)
            suffix = PurePosixPath(entry.name).suffix.lower()
            is_clip = suffix in VIDEO_SUFFIXES or (suffix == ".webp" and _is_animated(path))
            if is_system_file(entry.name):
                self.hidden += is_folder or is_clip
            elif is_folder:
                folders.append(path)
            elif is_clip:
                clips.append(path)
            else:
                self.others[suffix or "without suffix"] += 1
                if len(self.other_names) < MAX_SHOWN + 1:
                    self.other_names.append(str(path.relative_to(self.root)))
        return folders, clips

    def _clips(self, folder: Path) -> list[tuple[str, ...]]:
        waiting, found = [folder], []
        while waiting:
            folders, clips = self._list(waiting.pop())
            found += [clip.relative_to(self.root).parts for clip in clips]
            waiting += [child for child in folders if self._visit(child)]
        return sorted(found, key=lambda parts: natural_key("/".join(parts)))

    def _visit(self, folder: Path, *, is_class: bool = False) -> bool:
        """Return whether `folder` is visited for the first time."""
        identity, name = _identity(folder), str(folder.relative_to(self.root))
        if identity not in self._visited:
            self._visited[identity] = name
            return True
        if is_class:
            raise DataError(
                f"{printable(folder)}: the same folder as {printable(self.root / self._visited[identity])}; "
                "remove the link"
            )
        self.links.append(name)
        return False


def read_class_folders(path: Path, notes: list[str]) -> list[Row]:
    """Read `class/clip.mp4`, `train/class/clip.mp4` or `class/train/clip.mp4`.

    `notes` gets sentences about files that are left out. Raises `DataError` where folders of splits and of classes
    are mixed, and for a class without clips.
    """
    scan = FolderScan(path)
    filled = [name for name, clips in scan.clips.items() if clips]
    if not filled:
        _refuse_without_clips(scan)
    splits = {name: split_of_folder(name) for name in scan.clips}
    if any(splits.values()) and all(splits[name] for name in filled):
        rows = _split_folders(scan, {name: split for name, split in splits.items() if split}, notes)
    else:
        _check_mixture(scan, filled, [name for name in filled if splits[name]])
        _check_classes(scan, scan.clips, depth=1)
        rows = _class_rows(scan)
    deep = [row.path for row in rows if row.path.count("/") > (2 if row.split else 1)]
    if deep:
        notes.append(f"{len(deep)} clips are in folders below a class's folder; their label is the class: {_few(deep)}")
    notes += scan.notes()
    return rows


def split_of_folder(name: str) -> str:
    """Return the split whose clips a folder holds; "" for other folders."""
    found = SPLIT_FOLDER.fullmatch(name.strip())
    return SPLITS[found["split"].lower()] if found else ""


def _split_folders(scan: FolderScan, splits: dict[str, str], notes: list[str]) -> list[Row]:
    rows, direct = [], []
    for name, split in splits.items():
        if not scan.clips[name]:
            raise DataError(f"{scan.root / name}: no clip in it; add some or remove the folder")
        _check_classes(scan, {name: scan.clips[name]}, depth=2)
        for parts in scan.clips[name]:
            if len(parts) == 2:
                direct.append("/".join(parts))
            else:
                rows.append(_row(scan, parts, folder=parts[1], split=split))
    if not rows:
        raise DataError(
            f"{printable(scan.root)}: clips are directly in {', '.join(splits)}; put them into one folder for each "
            f"class, such as {next(iter(splits))}/CLASS/clip.mp4"
        )
    if direct:
        notes.append(f"{len(direct)} clips outside the folders of classes are left out: {_few(direct)}")
    if others := [folder for folder in scan.clips if folder not in splits]:
        notes.append(f"folders without clips are left out: {_few(others)}")
    return rows


def _check_mixture(scan: FolderScan, filled: Sequence[str], named: Sequence[str]) -> None:
    """Raise `DataError` where some folders look like splits and others do not, or their names are not known."""
    like = [name for name in filled if set(re.split(r"[^a-z]+", name.lower())) & SPLIT_WORDS]
    has_classes = [name for name in named if any(len(parts) > 2 for parts in scan.clips[name])]
    if len(like) == len(filled) > 1 or len(named) > 1 or has_classes:
        others = [name for name in filled if name not in named]
        raise DataError(
            f"{printable(scan.root)}: {', '.join(map(printable, named or like))} looks like a split, but "
            f"{_few(others)} does not name one of {', '.join(SPLITS)}; put folders of classes into folders with these "
            "names, or give a CSV list"
        )
    if len(filled) == 1 and len({parts[1] for parts in scan.clips[filled[0]] if len(parts) > 2}) > 1:
        raise DataError(
            f"{printable(scan.root)}: its only folder with clips is {printable(filled[0])}, which has folders itself; "
            f"give data.path={printable(scan.root / filled[0])}"
        )


def _class_rows(scan: FolderScan) -> list[Row]:
    """Return the rows of `class/clip.mp4`, or of `class/train/clip.mp4` where all clips are in such folders."""
    clips = [parts for found in scan.clips.values() for parts in found]
    splits = [split_of_folder(parts[1]) if len(parts) > 2 else "" for parts in clips]
    if any(splits) and not all(splits):
        inside = "/".join(clips[next(number for number, split in enumerate(splits) if split)])
        outside = "/".join(clips[splits.index("")])
        raise DataError(
            f"{printable(scan.root)}: {printable(inside)} is in a split's folder, but {printable(outside)} is not; "
            "put all clips into folders of splits, or give a CSV list"
        )
    return [_row(scan, parts, folder=parts[0], split=split) for parts, split in zip(clips, splits, strict=True)]


def _row(scan: FolderScan, parts: Sequence[str], *, folder: str, split: str) -> Row:
    label = as_label(folder)
    if not label or printable(label) != label:
        raise DataError(
            f"{printable(scan.root)}: the folder '{printable(folder)}' cannot be a label; rename it in UTF-8, with "
            "printable characters"
        )
    return Row(path="/".join(parts), label=label, split=split, group=ucf101_group(parts[-1]))


def _check_classes(scan: FolderScan, clips: dict[str, list[tuple[str, ...]]], *, depth: int) -> None:
    """Raise `DataError` for a class's folder without clips."""
    for name, found in clips.items():
        if depth == 1:
            folders, used = [scan.root / name], {name for _ in found}
        else:
            with os.scandir(scan.root / name) as entries:
                folders = [scan.root / name / e.name for e in entries if _is_folder(e) and not is_system_file(e.name)]
            used = {parts[1] for parts in found if len(parts) > 2}
        for folder in folders:
            if folder.name not in used:
                others = f" (other files here: {scan.describe_others()})" if scan.others else ""
                raise DataError(
                    f"{printable(folder)}: no clip of class '{printable(folder.name)}' in it{others}; add some or "
                    "remove the folder"
                )


def _refuse_without_clips(scan: FolderScan) -> None:
    """Raise the `DataError` for a folder whose folders hold no clips."""
    if scan.direct:
        raise DataError(
            f"{printable(scan.root)}: {len(scan.direct)} clips are directly in it; put them into one folder for each "
            "class, or give a CSV list"
        )
    for folder in scan.folders:
        if not split_of_folder(folder.name):
            _check_classes(scan, {folder.name: []}, depth=1)
    others = f" but {scan.describe_others()}" if scan.others else ""
    suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
    raise DataError(f"{printable(scan.root)}: no clip in it{others}; clips are files that end in {suffixes}")


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be read ({error.strerror})") from error
    return status.st_dev, status.st_ino


def _is_animated(path: Path) -> bool:
    try:
        return is_animated_webp(path)
    except (SourceError, OSError):
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:MAX_SHOWN])) + (", …" if len(names) > MAX_SHOWN else "")

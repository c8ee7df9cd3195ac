"""Find the clips of each label in a folder: films in one subfolder for each label, and stretches of longer films."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import ValidationError

from engines.bundle import MAX_LABEL_CHARS
from engines.printable import path_text, printable
from engines.regular_file import NotRegularFileError, open_regular
from streamclf.clips.example_info import read_example_info
from streamclf.clips.example_labels import read_label
from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_area_keys import PictureAreaKeys
from streamclf.errors import SourceError, UsageError
from streamclf.sources.file import is_animated_webp
from streamclf.sources.film_files import VIDEO_SUFFIXES, is_system_file, natural_order
from streamclf.sources.images import SUFFIXES as IMAGE_SUFFIXES
from streamclf.teach.limits import MAX_CLIPS, MAX_LABELS

MARKS_FILE: Final = "marks.csv"
MARK_COLUMNS: Final = ("file", "start_s", "end_s", "label")
MAX_MARKS_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 200_000
"""The most files and folders that are read below the folder."""
LEAST_IMAGES: Final = 2
"""A folder with at least so many images, and without films, is one clip."""
_STRETCH: Final = re.compile(r"(?:^|[ _@-])(\d{1,6}(?:\.\d{1,6})?)-(\d{1,6}(?:\.\d{1,6})?)s$")
"""The end of a file's name that gives a stretch in seconds: `porch_12.5-18s.mp4`."""
_GROUP_MARK: Final = "__"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClip:
    """A film, or a stretch of one, that shows `label` from its beginning to its end.

    `name`: the path of the file below the folder, for messages. `group`: clips of one group are one recording; the
    file's own name where nothing else is known. `stretch`: (start, end) in seconds of the film; None for all of it.
    `began`: the wall-clock time of the film's first picture, in seconds since 1970, where the film gives it.
    """

    path: Path
    name: str
    label: str
    group: str
    stretch: tuple[float, float] | None = None
    began: float | None = None
    area: PictureArea | None = None
    """The part of the picture that the film is about, where an example of the page gives it."""

    @property
    def is_images(self) -> bool:
        """Return whether the clip is a folder of images."""
        return self.path.is_dir()


@dataclass(slots=True)
class FoundClips:
    """The clips of a folder by label, in natural order. `faults`: a line for each thing that is passed over."""

    clips: list[LabelledClip] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the number of clips of each label."""
        counts: dict[str, int] = {}
        for clip in self.clips:
            counts[clip.label] = counts.get(clip.label, 0) + 1
        return counts


def find_clips(root: Path) -> FoundClips:
    """Find the clips below `root`. Raises `UsageError` for a folder that cannot be taught from.

    The name of a subfolder is the label of all films in it and below. A film in a folder below the label's belongs to
    the group with that folder's name, else to the part of its name before `__`. `marks.csv` gives stretches of films
    anywhere below `root`; these films are used for their stretches alone.
    """
    if not root.is_dir():
        raise UsageError(f"{path_text(root)}: no such folder; give a folder with one subfolder of films for each label")
    found = FoundClips()
    walk = _Walk(found)
    folders, films = walk.read(root)
    marked = _read_marks(root, found)
    for folder in folders:
        if (folder / "spec.json").is_file():
            found.faults.append((folder.name, "this folder is a bundle, and no label"))
            continue
        label = _as_label(root, read_label(folder))
        paths = [path for path in walk.below(folder) if path not in marked]
        if not paths and not _has_marked(folder, marked):
            raise UsageError(
                f"{path_text(folder)}: no film in it; add films of {printable(folder.name)!r}, or remove the folder"
            )
        found.clips += [clip for path in paths if (clip := _clip(root, path, label, found)) is not None]
    found.clips += [clip for clips in marked.values() for clip in clips]
    loose = [path for path in films if path not in marked]
    if not found.clips:
        where = f"{len(loose)} films are directly in it; put them" if loose else "no film in it; put films"
        raise UsageError(f"{path_text(root)}: {where} into one subfolder for each label, such as open/ and shut/")
    for path in loose:
        found.faults.append((path.name, "this film is in no folder of a label"))
    if len(found.clips) > MAX_CLIPS:
        raise UsageError(
            f"{path_text(root)}: {len(found.clips)} clips; at most {MAX_CLIPS}: leave some out, or train a model"
        )
    if len(found.counts()) > MAX_LABELS:
        raise UsageError(
            f"{path_text(root)}: {len(found.counts())} labels; at most {MAX_LABELS}: leave some out, or train a model"
        )
    return found


class _Walk:
    """Read the folders below the root, each once; bounded in the number of entries."""

    def __init__(self, found: FoundClips) -> None:
        self._found = found
        self._visited: set[tuple[int, int]] = set()
        self._entries = 0

    def read(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the folders and the films directly in `folder`."""
        folders, films, _ = self._scan(folder)
        return folders, films

    def below(self, folder: Path) -> Iterator[Path]:
        """Yield the films in `folder` and below it, and the folders of images."""
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            folders, films, images = self._scan(here)
            yield from films
            if not films and len(images) >= LEAST_IMAGES:
                yield here
            waiting += reversed(folders)

    def _scan(self, folder: Path) -> tuple[list[Path], list[Path], list[str]]:
        folders, films, images = list[Path](), list[Path](), list[str]()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._visited:
                self._found.faults.append((path_text(folder), "a link to a folder that is read already"))
                return folders, films, images
            self._visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._entries += 1
                    if self._entries > MAX_ENTRIES:
                        raise UsageError(f"{path_text(folder)}: over {MAX_ENTRIES} files; give a folder of clips only")
                    self._sort(folder / entry.name, folders, films, images)
        except OSError as error:
            self._found.faults.append((path_text(folder), f"cannot be read ({error.strerror}); check its permissions"))
        return sorted(folders, key=natural_order), sorted(films, key=natural_order), images

    def _sort(self, path: Path, folders: list[Path], films: list[Path], images: list[str]) -> None:
        if is_system_file(path.name):
            return
        suffix = PurePosixPath(path.name).suffix.lower()
        try:
            if path.is_dir():
                folders.append(path)
            elif suffix in VIDEO_SUFFIXES and not path.is_file():  # opening a pipe would wait for ever
                self._found.faults.append((path_text(path), "not a regular file"))
            elif suffix in VIDEO_SUFFIXES and not path.stat().st_size:  # reading some files of /proc would wait, too
                self._found.faults.append((path_text(path), "an empty file"))
            elif suffix in VIDEO_SUFFIXES or (suffix == ".webp" and is_animated_webp(path)):
                films.append(path)
            elif suffix in IMAGE_SUFFIXES:
                images.append(path.name)
        except (OSError, ValueError, SourceError):  # a link to itself; reading a film reports its own faults
            self._found.faults.append((path_text(path), "cannot be read"))


def _as_label(root: Path, text: str) -> str:
    """Return the label of a folder or a mark in composed form. Raises `UsageError` if it cannot be one."""
    label = unicodedata.normalize("NFC", text).strip()
    if not label or any("\ud800" <= char <= "\udfff" for char in label):
        raise UsageError(f"{path_text(root)}: the name {printable(text)!r} cannot be a label; rename it in UTF-8")
    if len(label) > MAX_LABEL_CHARS:
        raise UsageError(
            f"{path_text(root)}: the label {printable(label):.40}… has over {MAX_LABEL_CHARS} characters; shorten it"
        )
    return label


def _clip(root: Path, path: Path, label: str, found: FoundClips) -> LabelledClip | None:
    """Describe a film; None, with a fault, if its metadata give a part of the picture that cannot be used."""
    times = None if path.is_dir() else _STRETCH.search(path.stem)
    stretch = None if times is None else (float(times[1]), float(times[2]))
    if stretch is not None and stretch[1] <= stretch[0]:
        raise UsageError(
            f"{path_text(path)}: the stretch in its name ends before it begins; write START-END in seconds"
        )
    name, group, info = _name(root, path), _group(root, path), None if path.is_dir() else read_example_info(path)
    if info is None:
        return LabelledClip(path=path, name=name, label=label, group=group, stretch=stretch)
    try:
        area = None if info.area is None else PictureAreaKeys.model_validate(info.area).area
    except ValidationError:
        found.faults.append((name, "its metadata give a part of the picture that cannot be used; save it again"))
        return None
    began = info.began.timestamp() + (0.0 if stretch is None else stretch[0])
    return LabelledClip(path=path, name=name, label=label, group=group, stretch=stretch, began=began, area=area)


def _name(root: Path, path: Path) -> str:
    return path_text(path.relative_to(root))


def _group(root: Path, path: Path) -> str:
    """Return the recording that a film belongs to: its folder below the label's, or the prefix of its name."""
    parts = path.relative_to(root).parts
    if len(parts) > 2:
        return path_text("/".join(parts[1:-1]))
    prefix, mark, _ = path.name.partition(_GROUP_MARK)
    return path_text(prefix if mark and prefix else path.relative_to(root))


def _has_marked(folder: Path, marked: dict[Path, list[LabelledClip]]) -> bool:
    return any(folder in path.parents for path in marked)


def _read_marks(root: Path, found: FoundClips) -> dict[Path, list[LabelledClip]]:
    """Return the marked stretches by film. Raises `UsageError` with the line that cannot be used."""
    path = root / MARKS_FILE
    marked: dict[Path, list[LabelledClip]] = {}
    if not path.exists():
        return marked
    rows = csv.reader(io.StringIO(_read_text(path), newline=""), skipinitialspace=True)
    try:
        for fields in rows:
            where = f"{path_text(path)}, line {rows.line_num}"
            if not any(fields) or [name.strip().casefold() for name in fields] == list(MARK_COLUMNS):
                continue
            film, clip = _mark(root, where, fields)
            if not os.path.isfile(film):  # noqa: PTH113 - Path.is_file raises for a name that is too long
                found.faults.append((clip.name, f"{MARKS_FILE} names this film, which does not exist"))
                continue
            marked.setdefault(film, []).append(clip)
    except csv.Error as error:
        raise UsageError(f"{path_text(path)}, line {rows.line_num}: not a CSV list ({error}); check it") from error
    for film, clips in marked.items():
        _check_overlaps(film, clips)
    return marked


def _mark(root: Path, where: str, fields: Sequence[str]) -> tuple[Path, LabelledClip]:
    if len(fields) != len(MARK_COLUMNS):
        raise UsageError(f"{where}: {len(fields)} fields; give {','.join(MARK_COLUMNS)}")
    name, start, end, label = (field.strip() for field in fields)
    try:
        stretch = (float(start), float(end))
    except ValueError:
        raise UsageError(f"{where}: start_s={start!r:.40}, end_s={end!r:.40}; give seconds of the film") from None
    if not 0 <= stretch[0] < stretch[1] < 1e7:
        raise UsageError(f"{where}: from {start} s to {end} s; the end must come after the start")
    if not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise UsageError(f"{where}: file={name!r:.80}; give a path below {path_text(root)}")
    film = root / next((form for form in _forms(name) if os.path.isfile(root / form)), name)  # noqa: PTH113
    return film, LabelledClip(
        path=film, name=_name(root, film), label=_as_label(root, label), group=_name(root, film), stretch=stretch
    )


def _forms(name: str) -> tuple[str, ...]:
    return name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)


def _check_overlaps(film: Path, clips: list[LabelledClip]) -> None:
    """Raise `UsageError` where marks give two labels to the same stretch of a film."""
    ordered = sorted(clips, key=lambda clip: clip.stretch or (0, 0))
    for before, after in pairwise(ordered):
        assert before.stretch is not None
        assert after.stretch is not None
        if after.stretch[0] < before.stretch[1] and after.label != before.label:
            raise UsageError(
                f"{path_text(film)}: {MARKS_FILE} gives {printable(before.label)!r} and {printable(after.label)!r} to "
                f"the same stretch ({after.stretch[0]:g} s); a stretch can have one label"
            )


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_MARKS_BYTES + 1)
        if len(data) > MAX_MARKS_BYTES:
            raise UsageError(f"{path_text(path)}: over {MAX_MARKS_BYTES >> 20} MiB; is it a list of marks?")
        return data.decode("utf-8-sig")
    except (OSError, NotRegularFileError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path_text(path)}: cannot be read ({reason})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path_text(path)}: not UTF-8 text; save the list as CSV in UTF-8") from None

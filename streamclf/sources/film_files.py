"""Tell films from other files by their names, and find the films below folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from streamclf.errors import SourceError
from streamclf.sources.file import is_animated_webp
from streamclf.sources.images import natural_key

VIDEO_SUFFIXES = frozenset(
    {
        ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265",
        ".hevc", ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
        ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
    }
)  # fmt: skip

SYSTEM_NAMES = frozenset(
    {
        "$recycle.bin", "#recycle", "#snapshot", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx",
        "__pycache__", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found", "recycler", "system volume information",
        "thumbs.db",
    }
)  # fmt: skip
"""Files and folders of operating systems and network disks, in lower case. They hold no clips of a data set."""
MAX_ENTRIES: Final = 1_000_000
"""The most files and folders that one command reads below the folders it is given."""
MAX_FILMS: Final = 100_000
"""The most films that one command reads."""


def is_system_file(name: str) -> bool:
    """Tell whether a file or folder is hidden, as `._a.mp4` of macOS is, or belongs to an operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


@dataclass(slots=True)
class FoundFilms:
    """The films of a command, in the order given; those of a folder in natural order. `faults`: a line for each."""

    films: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def find_films(given: Sequence[Path]) -> FoundFilms:
    """List the files of `given`, and in place of each folder the films below it, each film once.

    A film below a folder is a file with one of `VIDEO_SUFFIXES`, or an animated WebP. A file that is given itself
    may have any name. Links are followed, but no folder is read twice. Raises `SourceError` beyond `MAX_FILMS`.
    """
    found = FoundFilms()
    walk = _Walk(found.faults)
    listed = {path for path in given if not _is_folder(path)}
    for path in given:
        if not _is_folder(path):
            found.films.append(path)
            continue
        films = [film for film in walk.films_below(path) if film not in listed]
        listed.update(films)
        found.films += films
        if len(found.films) > MAX_FILMS:
            raise SourceError(f"{path}: over {MAX_FILMS} films; give one part of the folder at a time")
    return found


class _Walk:
    """Read folders, each once; `faults` gets a line for each one that gives no film."""

    def __init__(self, faults: list[str]) -> None:
        self._faults = faults
        self._visited: set[tuple[int, int]] = set()
        self._entries = 0

    def films_below(self, root: Path) -> list[Path]:
        waiting, films, faults = [root], list[Path](), len(self._faults)
        known = len(self._visited)
        while waiting:
            folders, here = self._read(waiting.pop())
            films += here
            waiting += reversed(folders)
        if not films and len(self._faults) == faults and len(self._visited) > known:
            self._faults.append(f"{root}: no video file in it or below; video files end in .mp4, .mkv, .mov and so on")
        return films

    def _read(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the folders and the films directly in `folder`."""
        folders, films = list[Path](), list[Path]()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._visited:
                return folders, films
            self._visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._entries += 1
                    if self._entries > MAX_ENTRIES:
                        raise SourceError(f"{folder}: over {MAX_ENTRIES} files; give one part of the folder at a time")
                    if is_system_file(entry.name):
                        continue
                    path = folder / entry.name
                    if _is_folder(path):
                        folders.append(path)
                    elif _is_film(path):
                        films.append(path)
        except OSError as error:
            self._faults.append(f"{folder}: cannot be read ({error.strerror}); check its permissions")
        return sorted(folders, key=natural_order), sorted(films, key=natural_order)


def natural_order(path: Path) -> tuple[object, str]:
    """Return a key that sorts paths by name in natural order: `clip2` before `clip10`."""
    return natural_key(path.name), path.name


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a link to itself, or a name that is too long
        return False


def _is_film(path: Path) -> bool:
    suffix = PurePosixPath(path.name).suffix.lower()
    if suffix == ".webp":
        try:
            return is_animated_webp(path)
        except (SourceError, OSError):
            return False
    return suffix in VIDEO_SUFFIXES

"""Read and change the folder of clips: list, open, star and delete clips. Several processes use it at the same time.

Paths come from events, which are untrusted, and other programs may put anything into the folder. Every access opens the
folders of stream and day without following links, and works on regular files whose names are those of clips. All else
in the folder is ignored and never changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final

from engines.printable import printable
from streamclf.clips.names import (
    DRAWN,
    FILM,
    STAR,
    STILL,
    UNFINISHED,
    ClipName,
    parse_clip_path,
    parse_file_name,
    valid_day,
)
from streamclf.errors import ClipError
from streamclf.net.names import valid_stream_name

MAX_STREAM_FOLDERS: Final = 4096
MAX_DAY_FOLDERS: Final = 4096
"""Of one stream."""
MAX_DAY_FILES: Final = 100_000
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClip:
    """The files of one clip as they were when its folder was read."""

    name: ClipName
    suffixes: frozenset[str]
    bytes: int
    """The size of all its files."""
    modified_s: float
    """When its newest file was written, in seconds since 1970."""

    @property
    def has_film(self) -> bool:
        """Whether the film is complete. A film that is being written has no visible name."""
        return FILM in self.suffixes

    @property
    def is_starred(self) -> bool:
        """Whether the clip is kept for ever."""
        return STAR in self.suffixes

    @property
    def has_still(self) -> bool:
        """Whether there is a still without drawings."""
        return STILL in self.suffixes

    @property
    def has_drawn(self) -> bool:
        """Whether there is a still with drawings."""
        return DRAWN in self.suffixes


class ClipFolder:
    """The folder in which a service stores its clips. Methods raise `ClipError` if it cannot be read or changed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def days(self) -> list[tuple[str, str]]:
        """Return each day and stream that has a folder, oldest day first. A folder that does not exist has none."""
        if not self.root.exists():
            return []
        found = []
        with self._translated(), self._directory() as root:
            for stream in _folders(root, MAX_STREAM_FOLDERS):
                if valid_stream_name(stream):
                    with contextlib.suppress(OSError), self._directory(stream) as inner:  # removed, or not readable
                        found += [(day, stream) for day in _folders(inner, MAX_DAY_FOLDERS) if valid_day(day)]
        return sorted(found)

    def clips_of_day(self, day: str, stream: str) -> list[StoredClip]:
        """Return the clips of a stream that began on `day`, oldest first, also those that have pictures only."""
        files: dict[str, dict[str, os.stat_result]] = {}
        try:
            with self._translated(), self._directory(stream, day) as fd, os.scandir(fd) as entries:
                for entry in islice(entries, MAX_DAY_FILES):
                    name = parse_file_name(entry.name)
                    if name is not None and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            files.setdefault(name[0], {})[name[1]] = entry.stat(follow_symlinks=False)
        except MissingClipError:
            return []
        return [
            StoredClip(
                name=ClipName(day, stem, stream),
                suffixes=frozenset(stats),
                bytes=sum(each.st_size for each in stats.values()),
                modified_s=max(each.st_mtime for each in stats.values()),
            )
            for stem, stats in sorted(files.items())
        ]

    def changed_ns(self, day: str, stream: str) -> int | None:
        """Return when a file was last added to the folder of a day or removed from it; None if there is no folder."""
        try:
            with self._translated(), self._directory(stream, day) as fd:
                return os.fstat(fd).st_mtime_ns
        except MissingClipError:
            return None

    def remove_unfinished(self, day: str, stream: str, before_s: float) -> int:
        """Remove hidden films that were last written before `before_s`, which a killed process left; return how many.

        A process that starts recovers those of its own stream. This is for streams that were removed.
        """
        removed = 0
        with contextlib.suppress(MissingClipError), self._translated(), self._directory(stream, day) as fd:
            with os.scandir(fd) as entries:
                hidden = [
                    e for e in islice(entries, MAX_DAY_FILES) if e.name.startswith(".") and e.name.endswith(UNFINISHED)
                ]
            for entry in hidden:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and _modified_s(entry.name, fd) < before_s:
                        os.unlink(entry.name, dir_fd=fd)
                        removed += 1
        return removed

    def remove_empty(self, day: str, stream: str) -> None:
        """Remove the folder of a day if it is empty, and that of the stream if this was its last day."""
        with contextlib.suppress(OSError), self._directory() as root:
            os.rmdir(f"{stream}/{day}", dir_fd=root)
            os.rmdir(stream, dir_fd=root)

    def newest(self, stream: str | None = None) -> Iterator[StoredClip]:
        """Yield the clips with a film, of one stream or all, newest first; read one day at a time."""
        days: dict[str, list[str]] = {}
        for day, each in self.days():
            if stream in (None, each):
                days.setdefault(day, []).append(each)
        for day in sorted(days, reverse=True):
            of_day = [clip for each in days[day] for clip in self.clips_of_day(day, each) if clip.has_film]
            yield from sorted(of_day, key=lambda clip: clip.name, reverse=True)

    def find(self, path: str) -> StoredClip:
        """Return the clip that has the file `path`, a path from outside. Raises `MissingClipError`."""
        name, _ = _parse(path)
        for clip in self.clips_of_day(name.day, name.stream):
            if clip.name == name:
                return clip
        raise _missing(path)

    def open(self, path: str) -> IO[bytes]:
        """Open a film or a picture for reading, by a path from outside. Raises `MissingClipError`."""
        name, suffix = _parse(path)
        with self._translated(), self._directory(name.stream, name.day) as directory:
            fd = os.open(name.stem + suffix, _FILE, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _missing(path)
        return os.fdopen(fd, "rb")

    def resolve(self, path: str) -> Path:
        """Return the absolute path of a film or a picture, for a library that opens it. Raises `MissingClipError`."""
        with self.open(path):
            return self.root.resolve() / path

    def read_picture(self, path: str, max_bytes: int) -> bytes:
        """Return the content of a picture. Raises `MissingClipError`, and `ClipError` if it is larger."""
        with self.open(path) as file, self._translated():
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ClipError(f"{printable(path)}: more than {max_bytes} bytes; raise the limit of pictures")
        return data

    def star(self, path: str, *, is_starred: bool = True) -> None:
        """Keep the clip with the file `path` for ever, or not any more. Raises `MissingClipError`."""
        name, _ = _parse(path)
        with self._translated(), self._directory(name.stream, name.day) as directory:
            os.stat(name.stem + FILM, dir_fd=directory, follow_symlinks=False)
            if is_starred:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                os.close(os.open(name.stem + STAR, flags, 0o644, dir_fd=directory))
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name.stem + STAR, dir_fd=directory)

    def delete(self, path: str, *, even_starred: bool = False) -> StoredClip:
        """Delete the film and the pictures of a clip; return what it was.

        The film is deleted last: after a crash the clip is still listed and can be deleted again. A film that is being
        written cannot be deleted, because its name is not that of a clip. Raises `MissingClipError`, and `ClipError`
        for a starred clip unless `even_starred`.
        """
        clip = self.find(path)
        with self._translated(), self._directory(clip.name.stream, clip.name.day) as directory:
            if not even_starred and _exists(clip.name.stem + STAR, directory):
                raise StarredClipError(f"{clip.name.film}: starred, so it is kept; remove the star first")
            for suffix in sorted(clip.suffixes, key=lambda suffix: (suffix == FILM, suffix == STAR, suffix)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(clip.name.stem + suffix, dir_fd=directory)
        return clip

    def disk_bytes(self) -> tuple[int, int]:
        """Return the size of the folder's disk, and its free space that this user may fill."""
        with self._translated(), self._directory() as fd:
            disk = os.fstatvfs(fd)
        return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize

    @contextlib.contextmanager
    def _directory(self, *names: str) -> Iterator[int]:
        """Open the folder, or one inside it, without following links: all but the folder itself."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise `ClipError` for an `OSError`, and `MissingClipError` where a link or no file has the name."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingClipError(f"{self.root}: no such clip; it was deleted or has expired") from error
        except OSError as error:
            if error.errno == errno.ELOOP:  # the result of O_NOFOLLOW
                raise MissingClipError(f"{self.root}: no such clip; a link has its name") from error
            raise ClipError(f"{self.root}: {error.strerror}; check the folder of clips and its permissions") from error


class StarredClipError(ClipError):
    """A clip that is kept for ever, and must not be deleted."""


class MissingClipError(ClipError):
    """A path that is not the path of a clip's file, or whose file does not exist (any more)."""


def _parse(path: str) -> tuple[ClipName, str]:
    parsed = parse_clip_path(path)
    if parsed is None:
        raise _missing(path)
    return parsed


def _missing(path: str) -> MissingClipError:
    return MissingClipError(f"{printable(path[:200])}: no such clip; it was deleted or has expired")


def _folders(fd: int, limit: int) -> list[str]:
    with os.scandir(fd) as entries:
        return [entry.name for entry in islice(entries, limit) if entry.is_dir(follow_symlinks=False)]


def _modified_s(name: str, directory: int) -> float:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True

"""Open and list the folders of the examples. Paths from outside never leave them.

Other programs may put anything into the folder. Each access opens the folders without following links, and works on
regular files with the suffix of a film.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from engines.printable import printable
from streamclf.clips.example_writer import UNLABELLED
from streamclf.errors import ClipError

TRASH: Final = ".trash"
SUFFIXES: Final = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
MAX_EXAMPLES: Final = 5000
"""Examples of one model, and examples without a label."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class MissingExampleError(ClipError):
    """A path that is not the path of an example, or whose file does not exist (any more)."""


@contextlib.contextmanager
def open_folder(root: Path, *names: str) -> Iterator[int]:
    """Open the folder of the examples, or one inside it, without following links. Raises `MissingExampleError`."""
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MissingExampleError(f"{root}: {error.strerror}") from error
    try:
        for name in names:
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                raise MissingExampleError(f"{printable('/'.join(names))}: no such examples") from error
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def folder_names(fd: int, limit: int) -> list[str]:
    """Return the names of the folders in an open folder, of its first `limit` entries."""
    with os.scandir(fd) as entries:
        names = [each.name for each in islice(entries, limit) if each.is_dir(follow_symlinks=False)]
    return [name for name in names if _is_utf8(name)]


def _is_utf8(name: str) -> bool:
    """Return whether a name is UTF-8. JSON cannot hold others; `streamclf teach` reports them."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def film_paths(root: Path, folders: tuple[str, ...], depth: int = 1) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the films in a folder and in its folders."""
    with contextlib.suppress(MissingExampleError), open_folder(root, *folders) as fd:
        with os.scandir(fd) as entries:
            names = [(each.name, each.is_file(follow_symlinks=False), each.is_dir(follow_symlinks=False))
                     for each in islice(entries, 4 * MAX_EXAMPLES)]  # fmt: skip
        for name, is_file, is_folder in sorted(names):
            if name.startswith(".") or not _is_utf8(name):
                continue
            if is_file and PurePosixPath(name).suffix.lower() in SUFFIXES:
                yield "/".join((*folders, name))
            elif is_folder and depth > 0:
                yield from film_paths(root, (*folders, name), depth - 1)


def parse_path(file: str) -> list[str]:
    """Split a path from outside into its names, [folder, ..., name]. Raises `MissingExampleError`."""
    parts = file.split("/") if len(file) <= 1024 else []
    is_named = all(part and part not in (".", "..") and "\0" not in part for part in parts)
    is_hidden = any(part.startswith(".") for part in parts[1:]) or (
        bool(parts) and parts[0].startswith(".") and parts[0] not in (UNLABELLED, TRASH)
    )
    if not 2 <= len(parts) <= 4 or not is_named or is_hidden or PurePosixPath(parts[-1]).suffix.lower() not in SUFFIXES:
        raise missing_example(file)
    return parts


def missing_example(file: str) -> MissingExampleError:
    """Return the error about a path from outside."""
    return MissingExampleError(f"{printable(file[:200])}: no such example; it was moved or deleted")


@contextlib.contextmanager
def translated_errors(root: Path) -> Iterator[None]:
    """Raise `ClipError` in place of the `OSError` of the block."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingExampleError("no such example; it was moved or deleted") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MissingExampleError("no such example; a link has its name") from error
        raise ClipError(f"{root}: {error.strerror}; check the folder of the examples") from error

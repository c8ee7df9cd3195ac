"""List, move, delete and restore the example films of a service."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from engines.printable import printable
from streamclf.clips.example_info import ExampleInfo, FilmFacts, read_film_facts
from streamclf.clips.example_labels import LABEL_FILE, clean_label, label_folder, make_label_folder, read_label
from streamclf.clips.example_writer import UNLABELLED
from streamclf.errors import ClipError
from streamclf.events.example_request import PROJECT_PATTERN
from streamclf.subscribers.web.teach.example_paths import (
    MAX_EXAMPLES,
    TRASH,
    MissingExampleError,
    film_paths,
    folder_names,
    missing_example,
    open_folder,
    parse_path,
    translated_errors,
)

TRASH_S: Final = 7 * 86400.0
"""Deleted examples are removed from the disk after this time."""
ORDER_FILE: Final = ".labels"
"""File in the folder of a model with its labels, one a line: the keys of the page do not change with a new label."""
MAX_ORDER_BYTES: Final = 1 << 20
MAX_NAME_BYTES: Final = 240
"""Longest name that an example gets here. File systems take 255 bytes."""
MAX_PROJECTS: Final = 256
MAX_LABELS: Final = 256
MAX_UNDO: Final = 50
MAX_TIME_S: Final = 7e9
"""The year 2191, in seconds since 1970."""
_MAX_FACTS: Final = 20_000
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PROJECT: Final = re.compile(PROJECT_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleFilm:
    """One film. `file` is its path relative to the folder of the examples."""

    file: str
    label: str | None
    seconds: float
    bytes: int
    began_s: float
    """When its first picture was taken, in seconds since 1970; for a film made by hand, when the file was written."""
    info: ExampleInfo | None

    @property
    def margin(self) -> float:
        """Return how certain the model was, from 0 to 1; 1 for a film that does not give it."""
        return 1.0 if self.info is None or self.info.margin is None else self.info.margin


@dataclass(frozen=True, slots=True)
class _Change:
    """A change that can be undone: the file has moved from `before` to `after`; None is a file that was new."""

    project: str
    description: str
    before: str | None
    after: str


class ExampleLibrary:
    """The folder of the examples. Methods may be called in any thread, and raise `ClipError`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[str, int, int], FilmFacts | None] = OrderedDict()
        self._changes: deque[_Change] = deque(maxlen=MAX_UNDO)

    def projects(self) -> list[str]:
        """Return the names of the models that have examples, in alphabetical order."""
        with contextlib.suppress(MissingExampleError), open_folder(self.root) as fd:
            return sorted(name for name in folder_names(fd, 4 * MAX_PROJECTS) if _PROJECT.fullmatch(name))[
                :MAX_PROJECTS
            ]
        return []

    def labels(self, project: str) -> dict[str, str]:
        """Return the name of the folder of each label of a model, by label, in the order in which they were added."""
        _check_project(project)
        with contextlib.suppress(MissingExampleError), open_folder(self.root, project) as fd:
            names = [name for name in folder_names(fd, 4 * MAX_LABELS) if not name.startswith(".")][:MAX_LABELS]
            folders = {read_label(self.root / project / name): name for name in sorted(names)}
            order = {label: number for number, label in reversed([*enumerate(_read_order(fd))])}
            return dict(sorted(folders.items(), key=lambda each: order.get(each[0], MAX_ORDER_BYTES)))
        return {}

    def add_label(self, project: str, label: str) -> None:
        """Create the folder of a label."""
        _check_project(project)
        if len(self.labels(project)) >= MAX_LABELS:
            raise ClipError(f"{project}: has {MAX_LABELS} labels, the limit; remove one first")
        with translated_errors(self.root):
            self.root.mkdir(exist_ok=True)
            with open_folder(self.root) as fd, contextlib.suppress(FileExistsError):
                os.mkdir(project, dir_fd=fd)
            with open_folder(self.root, project) as fd:  # it is no link
                make_label_folder(self.root / project, label)
                if clean_label(label) not in _read_order(fd):
                    _append_order(fd, clean_label(label))

    def remove_label(self, project: str, label: str) -> None:
        """Remove the folder of a label without examples."""
        folder = self.labels(project).get(label)
        if folder is None:
            raise MissingExampleError(f"{project}: no label {printable(label)}; it was removed or renamed")
        if [*film_paths(self.root, (project, folder))]:
            raise ClipError(f"{printable(label)}: has examples; move or delete them first")
        with (
            translated_errors(self.root),
            open_folder(self.root, project) as fd,
            open_folder(self.root, project, folder) as inner,
        ):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(LABEL_FILE, dir_fd=inner)
            os.rmdir(folder, dir_fd=fd)

    def examples(self, project: str) -> list[ExampleFilm]:
        """Return the examples of a model with their labels, newest first."""
        found: list[ExampleFilm] = []
        for label, folder in self.labels(project).items():
            for file in film_paths(self.root, (project, folder)):
                if len(found) < MAX_EXAMPLES and (example := self._example(file, label)):
                    found.append(example)
        return sorted(found, key=lambda each: each.began_s, reverse=True)

    def unlabelled(self) -> list[ExampleFilm]:
        """Return the examples without a label, the least certain first."""
        found = [self._example(file, None) for file in [*film_paths(self.root, (UNLABELLED,))][:MAX_EXAMPLES]]
        return sorted((each for each in found if each is not None), key=lambda each: (each.margin, -each.began_s))

    def open(self, file: str) -> IO[bytes]:
        """Open a film for reading."""
        *folders, name = parse_path(file)
        with translated_errors(self.root), open_folder(self.root, *folders) as fd:
            film = os.open(name, _FILE, dir_fd=fd)
        if not stat.S_ISREG(os.fstat(film).st_mode):
            os.close(film)
            raise missing_example(file)
        return os.fdopen(film, "rb")

    def note_saved(self, project: str, file: str, label: str) -> None:
        """Let `undo` delete an example that was saved."""
        self._changes.append(_Change(project, f"Save an example of {label}", None, file))

    def move(self, file: str, project: str, label: str) -> str:
        """Give an example another label, or a first one; return its new path."""
        label = clean_label(label)
        self.open(file).close()  # a film that is not there must not leave an empty label
        self.add_label(project, label)
        folders = (project, label_folder(label))
        *own, name = parse_path(file)
        if tuple(own[:2]) == folders:
            return file
        after = self._rename(file, folders, name)
        self._changes.append(_Change(project, f"Label an example as {label}", file, after))
        return after

    def delete(self, file: str, *, project: str | None = None) -> None:
        """Delete an example. It can be restored with `undo` until the page is restarted, and by hand for a week."""
        *folders, name = parse_path(file)
        with translated_errors(self.root), open_folder(self.root) as fd, contextlib.suppress(FileExistsError):
            os.mkdir(TRASH, dir_fd=fd)
        after = self._rename(file, (TRASH,), _cut(f"{'__'.join(folders)}__{name}".lstrip(".")))
        with contextlib.suppress(OSError):
            os.utime(self.root / after, follow_symlinks=False)  # the week begins now
        self._changes.append(_Change(project or folders[0], "Delete an example", file, after))

    def undoable(self, project: str) -> str | None:
        """Return the description of the change that `undo` takes back; None if there is none."""
        with self._lock:
            return next((each.description for each in reversed(self._changes) if each.project == project), None)

    def undo(self, project: str) -> str:
        """Take the last change of a model's examples back; return its description."""
        with self._lock:
            change = next((each for each in reversed(self._changes) if each.project == project), None)
            if change is None:
                raise ClipError("there is no change to undo; the page was restarted, or all were undone")
            self._changes.remove(change)
        if change.before is None:
            self.delete(change.after, project=project)
            self._changes.pop()
        else:
            *folders, name = parse_path(change.before)
            self._rename(change.after, tuple(folders), name)
        return change.description

    def expire(self, *, keep_unlabelled_s: float) -> int:
        """Remove deleted examples, and examples without a label, that are too old; return how many."""
        removed = 0
        for folder, keep_s in ((TRASH, TRASH_S), (UNLABELLED, keep_unlabelled_s)):
            oldest_s = time.time() - keep_s
            for file in [*film_paths(self.root, (folder,))]:
                with contextlib.suppress(OSError, ClipError), open_folder(self.root, folder) as fd:
                    name = file.rpartition("/")[2]
                    if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime < oldest_s:
                        os.unlink(name, dir_fd=fd)
                        removed += 1
        return removed

    def remove_unlabelled(self, file: str) -> None:
        """Remove an example without a label for good, to make room for a less certain one."""
        folder, name = parse_path(file)
        if folder != UNLABELLED:
            raise missing_example(file)
        with translated_errors(self.root), open_folder(self.root, folder) as fd:
            os.unlink(name, dir_fd=fd)

    def _rename(self, file: str, folders: tuple[str, ...], name: str) -> str:
        """Move a film into a folder under a free name; return its new path."""
        *own, own_name = parse_path(file)
        with (
            translated_errors(self.root),
            self._lock,
            open_folder(self.root, *own) as source,
            open_folder(self.root, *folders) as target,
        ):
            if not stat.S_ISREG(os.stat(own_name, dir_fd=source, follow_symlinks=False).st_mode):
                raise missing_example(file)
            for number in range(1, 1000):
                free = name if number == 1 else _cut(name, f"-{number}")
                try:
                    os.stat(free, dir_fd=target, follow_symlinks=False)
                except FileNotFoundError:
                    os.rename(own_name, free, src_dir_fd=source, dst_dir_fd=target)
                    return "/".join((*folders, free))
        raise ClipError(f"{printable(name)}: too many examples have this name")

    def _example(self, file: str, label: str | None) -> ExampleFilm | None:
        *folders, name = parse_path(file)
        try:
            with open_folder(self.root, *folders) as fd:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (OSError, MissingExampleError):
            return None
        facts, began_s = self._facts_of(file, found), _written_s(found)
        if facts is None:
            return ExampleFilm(file=file, label=label, seconds=0.0, bytes=found.st_size, began_s=began_s, info=None)
        info = facts.info
        began_s = began_s if info is None else info.began.timestamp()
        seconds = facts.seconds if info is None else info.seconds
        return ExampleFilm(file=file, label=label, seconds=seconds, bytes=found.st_size, began_s=began_s, info=info)

    def _facts_of(self, file: str, found: os.stat_result) -> FilmFacts | None:
        """Return the facts of a film; each file is read once, also under its later names."""
        key = (str(found.st_ino), found.st_mtime_ns, found.st_size)
        with self._lock:
            if key in self._facts:
                return self._facts[key]
        facts = read_film_facts(self.root / file)
        with self._lock:
            self._facts[key] = facts
            if len(self._facts) > _MAX_FACTS:
                self._facts.popitem(last=False)
        return facts


def _cut(name: str, tail: str = "") -> str:
    """Return a name with `tail` before its suffix, in at most `MAX_NAME_BYTES`."""
    path = PurePosixPath(name)
    end = f"{tail}{path.suffix}"
    return path.stem.encode()[: MAX_NAME_BYTES - len(end)].decode(errors="ignore") + end


def _check_project(project: str) -> None:
    if _PROJECT.fullmatch(project) is None:
        raise ClipError(f"{printable(project[:80])}: a name has 1 to 64 letters, digits, _ and -")


def _read_order(fd: int) -> list[str]:
    """Return the labels of a model in the order in which they were added, from the file `.labels` of its folder."""
    try:
        with os.fdopen(os.open(ORDER_FILE, _FILE, dir_fd=fd), "rb") as file:
            return file.read(MAX_ORDER_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _append_order(fd: int, label: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with os.fdopen(os.open(ORDER_FILE, flags, 0o644, dir_fd=fd), "ab") as file:
        if os.fstat(file.fileno()).st_size < MAX_ORDER_BYTES:
            file.write(f"{label}\n".encode())


def _written_s(found: os.stat_result) -> float:
    """Return when a file was written, within the years that dates can have: a file may claim any time."""
    return min(max(0.0, found.st_mtime), MAX_TIME_S)

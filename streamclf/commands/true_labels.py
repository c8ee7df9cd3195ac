"""Read the true labels of films: a CSV list, or folders that are named for classes."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engines.bundle import ModelSpec
from engines.regular_file import NotRegularFileError, open_regular
from streamclf.errors import UsageError

PATH_COLUMNS: Final = ("path", "file", "filename", "video", "clip")
LABEL_COLUMNS: Final = ("label", "class", "true_label")
"""The names that the columns of a list may have; they are among those of lists for training."""
DELIMITERS: Final = ",;\t|"
MAX_LIST_BYTES: Final = 64 << 20
LABEL_SEPARATOR: Final = ";"
"""The separator of several labels in one cell, for models whose labels are independent."""


class TrueLabels:
    """The labels of each film that is listed. `unknown` collects given labels that the model does not have.

    For a model whose labels are independent, a film may have several labels, or none: in several rows of the list, or
    in one cell, with a semicolon between two labels.
    """

    def __init__(self, given: Path, spec: ModelSpec) -> None:
        """Read a CSV list, or take `given` as the folder that holds a folder for each label. Raises `UsageError`."""
        self._given, self._spec = given, spec
        self._folders = _paths(given) if given.is_dir() else ()
        self._listed = {} if self._folders else _read_list(given, several=spec.activation == "sigmoid")
        self.unknown: dict[str, int] = {}

    def find(self, film: Path) -> tuple[int, ...] | None:
        """Return the indices of the film's labels; None for a film without a label that the model has."""
        if not self._folders:
            names = next((self._listed[str(path)] for path in _paths(film) if str(path) in self._listed), None)
            return None if names is None else self._indices(names)
        below = [
            path.relative_to(folder) for path in _paths(film) for folder in self._folders if folder in path.parents
        ]
        folders = below[0].parts[:-1] if below else ()
        known = next((label for folder in folders if (label := self._spec.find_label(folder.strip()))), None)
        if known is None:
            return self._indices(folders[:1]) if folders else None
        return (self._spec.labels.index(known),)

    def check(self, films: Sequence[Path]) -> None:
        """Raise `UsageError` if no film has a label of the model."""
        if any(self.find(film) is not None for film in films):
            self.unknown.clear()
            return
        found = ", ".join(sorted(self.unknown)[:5])
        reason = f"the model does not know its labels ({found})" if found else "it names none of the films"
        shown = ", ".join(self._spec.labels[:8]) + (", …" if len(self._spec.labels) > 8 else "")
        raise UsageError(
            f"--labels {self._given}: {reason}; give a CSV with the columns path,label, or a folder with one folder "
            f"for each of the model's labels ({shown})"
        )

    def _indices(self, names: Sequence[str]) -> tuple[int, ...] | None:
        found: list[int] = []
        unknown = False
        for name in names:
            parts = [name]
            if self._spec.activation == "sigmoid" and self._spec.find_label(name) is None:
                parts = [part.strip() for part in name.split(LABEL_SEPARATOR)]
            for part in filter(None, parts):
                if label := self._spec.find_label(part):
                    found.append(self._spec.labels.index(label))
                else:
                    self.unknown[part] = self.unknown.get(part, 0) + 1
                    unknown = True
        return None if unknown else tuple(dict.fromkeys(found))


def _paths(path: Path) -> tuple[Path, Path]:
    """Return the absolute path as it is given, and with its links resolved: data sets may consist of links."""
    return Path(os.path.abspath(path)), Path(os.path.realpath(path))  # noqa: PTH100 - resolves `..` without links


def _read_list(path: Path, *, several: bool) -> dict[str, list[str]]:
    """Return the labels of each listed film by its absolute path; paths are relative to the list's folder.

    `several`: whether a film may have several rows, or an empty label.
    """
    text = _read_text(path)
    line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    base = path.parent
    labels: dict[str, list[str]] = {}
    columns: tuple[int, int] | None = None
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if columns is None:
                columns = _columns(path, fields)
                continue
            if len(fields) <= max(columns):
                raise UsageError(f"--labels {path}, line {reader.line_num}: {len(fields)} fields; give path and label")
            name, label = (unicodedata.normalize("NFC", fields[column]).strip() for column in columns)
            if not name or not (label or several):
                raise UsageError(f"--labels {path}, line {reader.line_num}: path={name!r}, label={label!r}; give both")
            film = _film_of(base, fields[columns[0]].strip())
            if not several and labels.get(film, [label]) != [label]:
                raise UsageError(
                    f"--labels {path}, line {reader.line_num}: {name} has the labels {labels[film][0]!r} and "
                    f"{label!r}; remove a row"
                )
            labels[film] = [label] if not several else [*labels.get(film, ()), label]
    except csv.Error as error:
        raise UsageError(f"--labels {path}, line {reader.line_num}: not a CSV list ({error}); check it") from error
    if not labels:
        raise UsageError(f"--labels {path}: no row; write the line path,label and then a line for each film")
    return labels


def _film_of(base: Path, name: str) -> str:
    """Return the absolute path of a listed film, which the list may name in either form of Unicode."""
    for form in ("NFC", "NFD"):
        other = base / unicodedata.normalize(form, name)
        try:
            if other.exists():
                return os.path.abspath(other)  # noqa: PTH100 - a link keeps its own label
        except (OSError, ValueError):  # too long, or with a NUL
            break
    return os.path.abspath(base / name)  # noqa: PTH100 - the file may not exist


def _columns(path: Path, header: Sequence[str]) -> tuple[int, int]:
    names = [name.strip(" \t#\"'").casefold() for name in header]
    found = [
        next((names.index(name) for name in known if name in names), None) for known in (PATH_COLUMNS, LABEL_COLUMNS)
    ]
    if found[0] is None or found[1] is None:
        given = ", ".join(name.strip()[:40] for name in header[:10])
        raise UsageError(f"--labels {path}: its first line ({given}) must name the columns path and label")
    return found[0], found[1]


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_LIST_BYTES + 1)
    except (OSError, ValueError, NotRegularFileError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--labels {path}: cannot be read ({reason}); give a CSV list or a folder") from None
    if len(data) > MAX_LIST_BYTES:
        raise UsageError(f"--labels {path}: over {MAX_LIST_BYTES >> 20} MiB; is it a list of films?")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise UsageError(f"--labels {path}: not UTF-8 text; save the list as CSV in UTF-8") from None
    if "\0" in text:
        raise UsageError(f"--labels {path}: not a text file; give a CSV list in UTF-8")
    return text

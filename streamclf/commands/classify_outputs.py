"""Describe the outputs of `streamclf classify`, and check them before any film is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamclf.commands.annotate import SUFFIXES
from streamclf.errors import UsageError

MAX_BATCH: Final = 16
"""Most chunks in one encode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOutputs:
    """The outputs of a run: a table or, `as_json`, JSON on stdout, and the files that are not None.

    `film`: the film with predictions drawn on it. `csv`: a table of events. `report`: an HTML page. `labels`: the
    films' true labels, for table and report. `explain_windows`: how many windows of each film to explain in film and
    report; 0 for none.
    """

    as_json: bool = False
    film: Path | None = None
    csv: Path | None = None
    report: Path | None = None
    labels: Path | None = None
    explain_windows: int = 0

    @property
    def written(self) -> list[Path]:
        """The files that the run writes."""
        return [path for path in (self.film, self.csv, self.report) if path is not None]

    @property
    def passes(self) -> int:
        """How often each film is read."""
        return 1 + (self.explain_windows > 0) + (self.film is not None)


def check_outputs(outputs: ClassifyOutputs, films: Sequence[Path]) -> None:
    """Raise `UsageError` for an output that cannot be made of `films`, before a long run begins."""
    if outputs.film is not None:
        if len(films) > 1:
            raise UsageError(
                f"-o {outputs.film}: holds one film, and there are {len(films)} files; give one FILE with -o"
            )
        if outputs.film.suffix.lower() not in SUFFIXES:
            raise UsageError(f"-o {outputs.film}: must end in {' or '.join(SUFFIXES)}")
    if outputs.csv is not None and outputs.csv.suffix.lower() != ".csv":
        raise UsageError(f"--csv {outputs.csv}: must end in .csv")
    if outputs.report is not None and outputs.report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {outputs.report}: must end in .html")
    if outputs.explain_windows and outputs.film is None and outputs.report is None:
        raise UsageError("--explain: draws heat on a film or in a report; add -o FILE.mp4 or --report FILE.html")
    for option, path in (("-o", outputs.film), ("--csv", outputs.csv), ("--report", outputs.report)):
        if path is not None:
            check_writable(option, path, films)


def check_writable(option: str, path: Path, films: Sequence[Path] = ()) -> None:
    """Raise `UsageError` for a path that no output of `films` can have, before a long run begins."""
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a directory; give the name of a file")
        if not folder.is_dir():
            raise UsageError(f"{option} {path}: {folder} does not exist; create it first")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{option} {path}: {folder} cannot be written; give another folder")
        if path.exists() and any(_is_same(path, film) for film in films):
            raise UsageError(f"{option} {path}: is the input file; choose another name")
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be used ({error.strerror}); choose another name") from None


def _is_same(path: Path, film: Path) -> bool:
    try:
        return path.samefile(film)
    except (OSError, ValueError):
        return False

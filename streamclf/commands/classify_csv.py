"""Write the events of classified films as a CSV file, one row for each event."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from engines.bundle import ModelSpec
from engines.printable import path_text
from streamclf.classifier.film_events import FilmEvent
from streamclf.classifier.offline import FileResult
from streamclf.commands.true_labels import LABEL_SEPARATOR
from streamclf.errors import OutputError
from streamclf.render.csv_text import csv_cell

COLUMNS: Final = (
    "file", "start_s", "end_s", "label", "probability", "peak_probability", "peak_s", "windows", "true_label", "model",
)  # fmt: skip


class EventTable:
    """Write `path` row by row under a hidden name, and give it its name at the end, also after an interruption.

    The file then has the rows of all films that were complete. Raises `OutputError` where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}-{os.getpid()}")
        self._films = 0
        try:
            self._file = self._partial.open("w", encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            raise self._error(error) from error
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def __enter__(self) -> EventTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None or self._films:
                self._partial.replace(self._path)
        except OSError as error:
            raise self._error(error) from error
        finally:
            self._partial.unlink(missing_ok=True)

    def add(
        self, file: Path, spec: ModelSpec, result: FileResult, events: Sequence[FilmEvent], truth: Sequence[str] | None
    ) -> None:
        """Add the events of a film, as the model with `spec` sees it; `truth` has the film's given labels."""
        given = None if truth is None else LABEL_SEPARATOR.join(truth)
        rows = [
            [
                path_text(file), f"{event.start_s:.3f}", f"{event.end_s:.3f}", spec.labels[event.label],
                f"{event.mean:.6f}", f"{event.peak:.6f}", f"{_middle(result, event):.3f}", str(event.windows), given,
                spec.id,
            ]
            for event in events
        ]  # fmt: skip
        try:
            self._writer.writerows([csv_cell(cell) for cell in row] for row in rows)
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error
        self._films += 1

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"--csv {self._path}: {error.strerror or error}; free space or give a writable path")


def _middle(result: FileResult, event: FilmEvent) -> float:
    window = result.windows[event.peak_window]
    return (window.start_s + window.end_s) / 2

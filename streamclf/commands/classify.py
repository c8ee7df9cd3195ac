"""Run `streamclf classify`: classify the windows of films, and print them, tabulate them or draw them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson

from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.opening import open_engine
from engines.printable import printable
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.classifier.film_events import FilmEvent, find_events
from streamclf.classifier.offline import FileResult, classify_file, offline_bank_slots
from streamclf.commands.annotate import SUFFIXES, write_annotated
from streamclf.commands.classify_csv import EventTable
from streamclf.commands.classify_text import print_table, to_json
from streamclf.commands.film_progress import FilmProgress
from streamclf.commands.true_labels import TrueLabels
from streamclf.errors import SourceError, UsageError
from streamclf.redact import redact
from streamclf.runtime.interrupts import describe_work
from streamclf.runtime.logs import configure_logging
from streamclf.sources.film_files import FoundFilms, find_films

MAX_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOutputs:
    """The outputs of a run: a table or, `as_json`, JSON on stdout, and the files that are not None.

    `film`: the film with predictions drawn on it. `csv`: a table of events. `labels`: the films' true labels.
    """

    as_json: bool = False
    film: Path | None = None
    csv: Path | None = None
    labels: Path | None = None


def run_classify(
    files: Sequence[Path],
    outputs: ClassifyOutputs,
    *,
    model: str,
    hop: int,
    backend: Backend,
    precision: Precision,
) -> int:
    """Classify each film of `files` and of the folders in it; return the exit code, 1 if one failed.

    A film that cannot be read is named, and the others are still classified. Raises `UsageError` for an output or a
    hop that cannot be used, before anything is read.
    """
    configure_logging("classify", "warning")
    found = find_films(files)
    _check_outputs(outputs, found.films)
    bundle = find_bundle(model)
    if hop > bundle.spec.chunks:
        raise UsageError(f"--hop {hop}: at most {bundle.spec.chunks} (chunks in a window of {bundle.spec.id})")
    truth = None if outputs.labels is None else TrueLabels(outputs.labels, bundle.spec)
    if truth is not None:
        truth.check(found.films)
    for fault in found.faults:
        _complain(fault)
    if not found.films:
        return 1
    with ExitStack() as stack:
        table = None
        if outputs.csv is not None:
            table = stack.enter_context(EventTable(outputs.csv, model=bundle.spec.id, labels=bundle.spec.labels))
        engine = _open(bundle, backend=backend, precision=precision)
        stack.callback(engine.close)
        progress = stack.enter_context(
            FilmProgress([_size(film) for film in found.films], passes=1 if outputs.film is None else 2)
        )
        return _Run(engine, outputs, progress, hop=hop, truth=truth, table=table).classify(found)


class _Run:
    """One run of the command over its films."""

    def __init__(
        self,
        engine: Engine,
        outputs: ClassifyOutputs,
        progress: FilmProgress,
        *,
        hop: int,
        truth: TrueLabels | None,
        table: EventTable | None,
    ) -> None:
        self._engine, self._outputs, self._progress = engine, outputs, progress
        self._hop, self._truth, self._table = hop, truth, table
        self._done = 0

    def classify(self, found: FoundFilms) -> int:
        """Classify all films and return the exit code."""
        films, failed = found.films, len(found.faults)
        describe_work(lambda: f"{self._done} of {len(films)} files classified")
        for path in films:
            self._progress.begin(str(path))
            try:
                self._classify_film(path)
                self._done += 1
            except SourceError as error:
                with self._progress.paused():
                    _complain(redact(str(error)))
                failed += 1
        if failed and failed + self._done > 1:
            _complain(f"{failed} of {failed + self._done} could not be classified")
        return 1 if failed else 0

    def _classify_film(self, path: Path) -> None:
        """Classify a film and write its outputs. Raises `SourceError`."""
        result = classify_file(self._engine, path, hop=self._hop, on_frame=self._progress.watch)
        events = find_events(result.windows)
        if self._outputs.film is not None:
            self._progress.begin_pass("drawing")
            labels = self._engine.spec.labels
            note = write_annotated(path, self._outputs.film, result, labels, on_frame=self._progress.watch)
            if note is not None:
                with self._progress.paused():
                    _complain(f"warning: {note}")
        if self._table is not None:
            truth = None if self._truth is None else self._truth.find(path)
            peaks = [(event, _middle(result, event)) for event in events]
            self._table.add(path, peaks, truth=None if truth is None else self._engine.spec.labels[truth])
        with self._progress.paused():
            if result.warning is not None:
                _complain(f"warning: {result.warning}")
            self._print(path, result, events)

    def _print(self, path: Path, result: FileResult, events: Sequence[FilmEvent]) -> None:
        if self._outputs.as_json:
            sys.stdout.buffer.write(orjson.dumps(to_json(path, self._engine.spec, result)) + b"\n")
            sys.stdout.buffer.flush()
        else:
            print_table(path, self._engine.spec, result, events)


def _middle(result: FileResult, event: FilmEvent) -> float:
    window = result.windows[event.peak_window]
    return (window.start_s + window.end_s) / 2


def _open(bundle: Bundle, *, backend: Backend, precision: Precision) -> Engine:
    return open_engine(
        bundle,
        backend=backend,
        precision=precision,
        max_batch=MAX_BATCH,
        bank_slots=offline_bank_slots(bundle.spec, MAX_BATCH),
    )


def _size(film: Path) -> int:
    try:
        return film.stat().st_size
    except (OSError, ValueError):  # reading it reports the reason
        return 0


def _check_outputs(outputs: ClassifyOutputs, films: Sequence[Path]) -> None:
    if outputs.film is not None:
        if len(films) > 1:
            raise UsageError(
                f"-o {outputs.film}: holds one film, and there are {len(films)} files; give one FILE with -o"
            )
        if outputs.film.suffix.lower() not in SUFFIXES:
            raise UsageError(f"-o {outputs.film}: must end in {' or '.join(SUFFIXES)}")
    if outputs.csv is not None and outputs.csv.suffix.lower() != ".csv":
        raise UsageError(f"--csv {outputs.csv}: must end in .csv")
    for option, path in (("-o", outputs.film), ("--csv", outputs.csv)):
        if path is not None:
            _check_writable(option, path, films)


def _check_writable(option: str, path: Path, films: Sequence[Path]) -> None:
    """Raise `UsageError` for a path that no output can have, before a long run begins."""
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


def _complain(text: str) -> None:
    print(f"streamclf: {printable(text)}", file=sys.stderr)

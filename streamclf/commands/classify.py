"""Run `streamclf classify`: classify the windows of films, and print them, tabulate them or draw them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import orjson

from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.opening import open_engine
from engines.printable import path_text
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.classifier.explanation import Explanation, choose_windows, explain_film
from streamclf.classifier.film_events import FilmEvent, find_events
from streamclf.classifier.occlusion import Occlusion, check_size, parts_of
from streamclf.classifier.offline import FileResult, classify_file
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.commands.annotate import DrawnHeat, write_annotated
from streamclf.commands.classify_csv import EventTable
from streamclf.commands.classify_outputs import MAX_BATCH, ClassifyOutputs, check_outputs
from streamclf.commands.classify_several import classify_with_several
from streamclf.commands.classify_text import describe_windows, print_table, to_json
from streamclf.commands.film_loop import classify_all, complain, file_sizes, summarise
from streamclf.commands.film_progress import FilmProgress
from streamclf.commands.report.builder import ReportBuilder
from streamclf.commands.report.page import OCCLUSION_TEXT
from streamclf.commands.true_labels import TrueLabels
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import UsageError
from streamclf.runtime.logs import configure_logging
from streamclf.sources import Frame, Source
from streamclf.sources.film_files import FoundFilms, find_films
from streamclf.units import duration_text


def run_classify(
    files: Sequence[Path],
    outputs: ClassifyOutputs,
    *,
    models: Sequence[str],
    hop: int,
    backend: Backend,
    precision: Precision,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> int:
    """Classify each film of `files` and of the folders in it; return the exit code, 1 if one failed.

    A film that cannot be read is named, and the others are still classified. Raises `UsageError` for an output, a
    model or a hop that cannot be used, before anything is read. `area` is the part of each picture to classify.
    Explanations and drawn films always show exact pictures, whatever `decode` says.
    """
    configure_logging("classify", "warning")
    found = find_films(files)
    check_outputs(outputs, found.films)
    bundles = [find_bundle(model) for model in models]
    for each in bundles:
        if hop > each.spec.chunks:
            raise UsageError(f"--hop {hop}: at most {each.spec.chunks} (chunks in a window of {each.spec.id})")
    if len(bundles) > 1:
        return classify_with_several(
            found, outputs, bundles, hop=hop, backend=backend, precision=precision, area=area, decode=decode
        )
    (bundle,) = bundles
    if outputs.explain_windows:
        check_size(bundle.spec)
    truth = None if outputs.labels is None else TrueLabels(outputs.labels, bundle.spec)
    if truth is not None:
        truth.check(found.films)
    for fault in found.faults:
        complain(fault)
    if not found.films:
        return 1
    with ExitStack() as stack:
        table = None
        if outputs.csv is not None:
            table = stack.enter_context(EventTable(outputs.csv))
        engine = _open(bundle, backend=backend, precision=precision)
        stack.callback(engine.close)
        progress = stack.enter_context(FilmProgress(file_sizes(found.films), passes=outputs.passes))
        run = _Run(engine, outputs, progress, hop=hop, truth=truth, table=table, area=area, decode=decode)
        return run.classify(found, title=_title(files, found))


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
        area: PictureArea,
        decode: DecodeMode,
    ) -> None:
        self._engine, self._outputs, self._progress = engine, outputs, progress
        self._hop, self._truth, self._table = hop, truth, table
        self._area, self._decode = area, decode
        self._occlusion = None
        if outputs.explain_windows:
            self._occlusion = Occlusion(engine, on_step=progress.tick)
        self._report: ReportBuilder | None = None

    def classify(self, found: FoundFilms, *, title: str) -> int:
        """Classify all films, write the report, and return the exit code."""
        if self._outputs.report is not None:
            self._report = self._new_report(self._outputs.report, title, found)
        if self._occlusion is not None:
            self._announce(self._occlusion, len(found.films))
        report = self._report
        done, failed = classify_all(
            found, self._classify_film, self._progress, on_fault=report.add_fault if report else lambda _: None
        )
        if report is not None:
            report.data.unknown_labels = {} if self._truth is None else self._truth.unknown
            report.write()
        return summarise(done, failed, self._outputs.written)

    def _new_report(self, path: Path, title: str, found: FoundFilms) -> ReportBuilder:
        method = OCCLUSION_TEXT if self._occlusion is not None else None
        report = ReportBuilder(
            path,
            self._engine.spec,
            films=len(found.films),
            title=title,
            max_batch=self._engine.max_batch,
            method=method,
            area=self._area,
        )
        report.data.faults += found.faults
        report.data.has_truth = self._truth is not None
        return report

    def _announce(self, occlusion: Occlusion, films: int) -> None:
        """Print what the explanations will cost at most, before they begin."""
        windows, parts = self._outputs.explain_windows, parts_of(self._engine.spec)
        total_s = occlusion.seconds_per_window() * windows * films
        of_films = "the film" if films == 1 else f"each of {films} films"
        complain(
            f"--explain: classifies up to {windows} windows of {of_films} {parts} times each, with one part hidden: "
            f"at most about {duration_text(total_s)}"
        )

    def _classify_film(self, path: Path) -> None:
        """Classify a film and make its outputs. Raises `SourceError`."""
        report, spec = self._report, self._engine.spec
        add_window = None if report is None else report.add_window
        result = classify_file(
            self._engine,
            path,
            hop=self._hop,
            on_frame=self._watch,
            on_window=add_window,
            area=self._area,
            decode=self._decode,
        )
        events = find_events(result.windows, spec)
        notes = [] if result.warning is None else [f"warning: {result.warning}"]
        explanations = [] if self._occlusion is None else self._explain(self._occlusion, path, result, events)
        if self._outputs.film is not None:
            self._progress.begin_pass("drawing")
            heat = DrawnHeat(explanations=explanations, picture=(spec.height, spec.width), resize=spec.resize)
            film = self._outputs.film
            watch = self._progress.watch
            note = write_annotated(path, film, result, spec, heat=heat, on_frame=watch, area=self._area)
            notes += [] if note is None else [f"warning: {note}"]
        truth = None if self._truth is None else self._truth.find(path)
        if self._table is not None:
            given = None if truth is None else [spec.labels[label] for label in truth]
            self._table.add(path, spec, result, events, given)
        if report is not None:
            short = [] if result.short_clip is None else [describe_windows(spec, result)]
            report.add_film(path, result, events, truth=truth, notes=[*short, *notes])
        with self._progress.paused():
            for note in notes:
                complain(note)
            self._print(path, result, events)

    def _explain(
        self, occlusion: Occlusion, path: Path, result: FileResult, events: Sequence[FilmEvent]
    ) -> list[Explanation]:
        self._progress.begin_pass("explaining")
        report = self._report
        if report is not None:
            report.begin_explaining()
        return explain_film(
            occlusion,
            self._engine.spec,
            path,
            result,
            choose_windows(events, len(result.windows), self._outputs.explain_windows),
            hop=self._hop,
            on_frame=self._watch,
            on_explained=None if report is None else partial(report.add_explanation, path),
            area=self._area,
        )

    def _watch(self, source: Source, frame: Frame) -> None:
        self._progress.watch(source, frame)
        if self._report is not None:
            self._report.watch(source, frame)

    def _print(self, path: Path, result: FileResult, events: Sequence[FilmEvent]) -> None:
        if self._outputs.as_json:
            sys.stdout.buffer.write(orjson.dumps(to_json(path, self._engine.spec, result)) + b"\n")
            sys.stdout.buffer.flush()
        else:
            print_table(path, self._engine.spec, result, events, self._decode)


def _title(given: Sequence[Path], found: FoundFilms) -> str:
    if len(given) == 1:
        return Path(path_text(given[0])).name or path_text(given[0])
    return f"{len(found.films)} films"


def _open(bundle: Bundle, *, backend: Backend, precision: Precision) -> Engine:
    return open_engine(
        bundle,
        backend=backend,
        precision=precision,
        max_batch=MAX_BATCH,
        bank_slots=offline_bank_slots(bundle.spec, MAX_BATCH),
    )

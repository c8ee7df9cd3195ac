"""Classify films with several models: each film is decoded once, and models with the same encoder encode it once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson

from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from streamclf.classifier.film_events import find_events
from streamclf.classifier.offline import FileResult
from streamclf.classifier.offline_groups import classify_with_groups, open_groups
from streamclf.commands.classify_csv import EventTable
from streamclf.commands.classify_outputs import MAX_BATCH, ClassifyOutputs
from streamclf.commands.classify_text import print_table, to_json
from streamclf.commands.film_loop import classify_all, complain, file_sizes, summarise
from streamclf.commands.film_progress import FilmProgress
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import UsageError
from streamclf.sources.film_files import FoundFilms


def classify_with_several(
    found: FoundFilms,
    outputs: ClassifyOutputs,
    bundles: Sequence[Bundle],
    *,
    hop: int,
    backend: Backend,
    precision: Precision,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> int:
    """Classify each film with each model; return the exit code, 1 if a film failed.

    The output has the models in the given order, for each film. Raises `UsageError` for outputs that need one model.
    """
    _check(outputs, bundles)
    for fault in found.faults:
        complain(fault)
    if not found.films:
        return 1
    by_id = {bundle.spec.id: bundle for bundle in bundles}
    with ExitStack() as stack:
        table = None if outputs.csv is None else stack.enter_context(EventTable(outputs.csv))
        groups = []
        for group in open_groups(by_id, backend=backend, precision=precision, max_batch=MAX_BATCH):
            stack.callback(group.close)
            groups.append(group)
        progress = stack.enter_context(FilmProgress(file_sizes(found.films), passes=1))

        def classify_film(path: Path) -> None:
            results = classify_with_groups(groups, path, hop=hop, on_frame=progress.watch, area=area, decode=decode)
            with progress.paused():
                for name, bundle in by_id.items():
                    _write(path, bundle, results[name], outputs, table, decode)

        return summarise(*classify_all(found, classify_film, progress), outputs.written)


def _check(outputs: ClassifyOutputs, bundles: Sequence[Bundle]) -> None:
    for option, value in (
        ("-o", outputs.film), ("--report", outputs.report), ("--labels", outputs.labels),
        ("--explain", outputs.explain_windows or None),
    ):  # fmt: skip
        if value is not None:
            raise UsageError(f"{option}: for one model; give --model once, or only --json or --csv with several")
    paths: dict[str, Path] = {}
    for bundle in bundles:
        other = paths.get(bundle.spec.id)
        if other == bundle.path:
            raise UsageError(f"--model {bundle.spec.id}: given twice; give each model once")
        paths[bundle.spec.id] = bundle.path
        if other is not None:
            raise UsageError(
                f"--model {bundle.path}: its name and version, {bundle.spec.id}, are those of {other}, so the output "
                "could not distinguish them; classify with one after the other"
            )


def _write(
    path: Path,
    bundle: Bundle,
    result: FileResult,
    outputs: ClassifyOutputs,
    table: EventTable | None,
    decode: DecodeMode,
) -> None:
    """Write the result of one film and model."""
    events = find_events(result.windows, bundle.spec)
    if table is not None:
        table.add(path, bundle.spec, result, events, None)
    if result.warning is not None:
        complain(f"warning: {result.warning}")
    if outputs.as_json:
        sys.stdout.buffer.write(orjson.dumps(to_json(path, bundle.spec, result)) + b"\n")
        sys.stdout.buffer.flush()
    else:
        print_table(path, bundle.spec, result, events, decode)

"""Teach a model: read the examples, measure on held-out films, fit the head, and write the bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Final

import numpy as np

from engines.arrays import F32, U8
from engines.bundle import Bundle
from engines.opening import open_engine
from engines.printable import printable
from engines.protocol import Engine
from streamclf.teach.advice import advise
from streamclf.teach.bundle_writer import model_name, write_bundle
from streamclf.teach.example_folder import LabelledClip
from streamclf.teach.examples import Examples, thin_out
from streamclf.teach.figures import compute_figures
from streamclf.teach.held_out import measure_held_out
from streamclf.teach.inputs import (
    TeachOptions,
    find_base,
    find_new_clips,
    make_data,
    window_limit,
    with_area,
    with_window,
)
from streamclf.teach.libraries import require_libraries
from streamclf.teach.listener import Listener, Stage
from streamclf.teach.output_folder import check_output
from streamclf.teach.reading import READ_SHARE, ExampleReader
from streamclf.teach.taught import Taught
from streamclf.teach.taught_head import (
    calibrate,
    choose_thresholds,
    combine,
    fit_taught_head,
    output_labels,
    probabilities_of,
)

MEASURED_SHARE: Final = 0.94
FITTED_SHARE: Final = 0.97
MAX_BATCH: Final = 16


@dataclass(slots=True)
class _Log:
    """Collect faults and notes for the report, and pass them on."""

    listener: Listener
    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    def start(self, base: str, labels: Mapping[str, int], films: int) -> None:
        """See `Listener`."""
        self.listener.start(base, labels, films)

    def progress(self, stage: Stage, share: float, film: str | None = None, number: int = 0) -> None:
        """See `Listener`."""
        self.listener.progress(stage, share, film, number)

    def fault(self, film: str, reason: str) -> None:
        """See `Listener`."""
        self.faults.append((film, reason))
        self.listener.fault(film, reason)

    def note(self, text: str) -> None:
        """See `Listener`."""
        self.notes.append(text)
        self.listener.note(text)

    def end(self, stage: str) -> None:
        """Store the seconds since the end of the stage before."""
        now_s = time.monotonic()
        self.seconds[stage], self.began_s = round(now_s - self.began_s, 2), now_s


def teach(options: TeachOptions, listener: Listener, make_report: Callable[[Taught], str]) -> Taught:
    """Teach a model, and write its bundle with the report that `make_report` returns.

    Raises `UsageError` for examples or options that cannot be used, `OutputError` where the bundle cannot be written,
    and the errors of `engines` for a base that cannot run. Then nothing is written.
    """
    require_libraries()
    check_output(options.output, options.folder, replace=options.force or options.add)
    base, before = find_base(options)
    log = _Log(listener)
    clips = find_new_clips(options, before, log)
    options = with_area(options, before, log)
    windowed = with_window(base, options)
    engine = open_engine(base, precision="fp32", max_batch=MAX_BATCH, bank_slots=MAX_BATCH, threads=options.threads)
    try:
        return _teach(options, windowed, engine, before, clips, log, make_report)
    finally:
        engine.close()


def _teach(
    options: TeachOptions,
    base: Bundle,
    engine: Engine,
    before: Examples,
    clips: Sequence[LabelledClip],
    log: _Log,
    make_report: Callable[[Taught], str],
) -> Taught:
    limit = window_limit(base, len(clips) + len(before.items))
    reader = ExampleReader(engine, base.spec, log, limit=limit, area=options.area)
    examples = Examples(before.base, [*before.items, *reader.read(clips, before.items)], options.area)
    log.end("read")
    with _one_thread():
        taught, windows = _fit(options, base, examples, limit, log)
    log.progress("write", FITTED_SHARE)
    write_bundle(taught, _golden_candidates(base, engine, reader), windows, make_report)
    log.end("write")
    log.progress("write", 1.0)
    return taught


def _one_thread() -> AbstractContextManager[object]:
    """Compute with one thread: small matrices take up to 40 times as long with several, on a busy machine.

    The limit applies to libraries that are loaded already.
    """
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.model_selection  # noqa: F401 - only loaded
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _fit(options: TeachOptions, base: Bundle, examples: Examples, limit: int, log: _Log) -> tuple[Taught, F32]:
    """Measure on held-out films and fit to all. Returns the model and the features of all windows, (N, T, F)."""
    thin_out(examples, limit)
    data = make_data(options, base, examples, log)
    held_out = measure_held_out(
        data,
        seed=options.seed,
        on_fold=lambda share: log.progress("measure", READ_SHARE + (MEASURED_SHARE - READ_SHARE) * share),
    )
    calibration = calibrate(data, held_out, wants_none=options.none_label is not None)
    if options.none_label is not None and not calibration.has_novelty and data.none is None:
        log.note(
            f"there is no label {printable(options.none_label)!r}: scenes unlike the examples look too much like them; "
            "films of other scenes in a folder `none` would teach it"
        )
    labels = output_labels(data, calibration, options.none_label or "")
    probabilities = probabilities_of(combine(held_out.logits, held_out.scores, data.none, calibration))
    thresholds = choose_thresholds(data, probabilities)
    figures = compute_figures(data, examples.items, probabilities, labels, thresholds, seed=options.seed)
    log.end("measure")
    log.progress("fit", MEASURED_SHARE)
    head = fit_taught_head(data, held_out, calibration, seed=options.seed)
    log.end("fit")
    taught = Taught(
        output=options.output,
        area=options.area,
        name=model_name(options.output),
        version=datetime.now(timezone.utc).strftime("%Y%m%d.%H%M%S"),
        base=base,
        labels=labels,
        none_label=options.none_label if options.none_label in labels else None,
        figures=figures,
        held_out=held_out,
        head=head,
        thresholds=thresholds,
        examples=examples,
        advice=advise(figures, examples.items),
        faults=log.faults,
        notes=log.notes,
        seconds=log.seconds,
    )
    return taught, data.windows


def _golden_candidates(base: Bundle, engine: Engine, reader: ExampleReader) -> list[tuple[F32, U8]]:
    """Return windows for the golden clip, with their features: of new examples, else that of the bundle before."""
    size = base.spec.chunks, -1
    if reader.candidates:
        return [
            (item.content.features[item.content.windows[0]].reshape(size), pixels) for item, pixels in reader.candidates
        ]
    pixels = base.golden().frames
    features = []
    for begin in range(0, len(pixels), engine.max_batch):
        part = np.ascontiguousarray(pixels[begin : begin + engine.max_batch])
        slots = np.arange(len(part), dtype=np.int32)
        engine.encode(part, slots)
        features.append(engine.read_features(slots))
    return [(np.concatenate(features).reshape(size), pixels)]

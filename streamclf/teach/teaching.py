"""Teach a model: read the examples, measure on held-out films, fit the head, and write the bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import numpy as np

from engines.arrays import F32, U8
from engines.bundle import ENCODER_FILE, SPEC_FILE, Bundle, load_bundle
from engines.opening import open_engine
from engines.printable import path_text, printable
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import UsageError
from streamclf.teach.advice import advise
from streamclf.teach.bundle_writer import model_name, write_bundle
from streamclf.teach.example_folder import Clip, find_clips
from streamclf.teach.examples import Examples, geometry_of, load_examples, thin_out
from streamclf.teach.figures import compute_figures
from streamclf.teach.head_graph import require_libraries
from streamclf.teach.held_out import TeachingData, measure_held_out
from streamclf.teach.limits import (
    GOOD_CLIPS,
    MAX_CLIP_WINDOWS,
    MAX_FEATURE_BYTES,
    MAX_WINDOWS,
    MIN_CLIPS,
    MIN_GROUPS,
    NONE_FOLDERS,
)
from streamclf.teach.listener import Listener, Stage
from streamclf.teach.output_folder import check_output
from streamclf.teach.reading import READ_SHARE, ExampleReader
from streamclf.teach.same_films import check_labels, group_examples
from streamclf.teach.taught import Taught
from streamclf.teach.taught_head import (
    calibrate,
    choose_thresholds,
    combine,
    fit_taught_head,
    output_labels,
    probabilities_of,
)

DEFAULT_BASE: Final = "everyday"
MEASURED_SHARE: Final = 0.94
FITTED_SHARE: Final = 0.97
MAX_BATCH: Final = 16
MAX_CHUNKS: Final = 64
"""The most chunks in a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachOptions:
    """The options of `teach`.

    `folder`: the examples; None with `add` alone, to fit again. `base`: a built-in model or a bundle; None for the
    default, or with `add` the bundle's own encoder. `none_label`: None for a model without that label. `area`: the part
    of each picture that the model sees. `window_s`: the length of a window; None for the base's.
    """

    folder: Path | None
    output: Path
    base: str | None = None
    add: bool = False
    force: bool = False
    none_label: str | None = None
    area: PictureArea = WHOLE
    window_s: float | None = None
    seed: int = 0
    threads: int = 0


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
    base, before = _find_base(options)
    clips, log = _find_clips(options, before, listener)
    windowed = _with_window(base, options)
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
    clips: Sequence[Clip],
    log: _Log,
    make_report: Callable[[Taught], str],
) -> Taught:
    limit = _window_limit(base, len(clips) + len(before.items))
    reader = ExampleReader(engine, base.spec, log, limit=limit, area=options.area)
    examples = Examples(before.base, [*before.items, *reader.read(clips, before.items)])
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
    data = _make_data(options, base, examples, log)
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


def _find_base(options: TeachOptions) -> tuple[Bundle, Examples]:
    """Return the bundle whose encoder is used, and the examples from before. Raises `UsageError`."""
    if not options.add:
        base = find_bundle(options.base or DEFAULT_BASE)
        return base, Examples(base.spec.id)
    if not (options.output / SPEC_FILE).is_file():
        raise UsageError(
            f"--add: {path_text(options.output)} is no bundle; teach it first, without --add, or give its folder"
        )
    own = load_bundle(options.output)
    before = load_examples(own.path, own.spec)
    if options.base is not None:
        base = find_bundle(options.base)
        same = base.spec.files[ENCODER_FILE] == own.spec.files[ENCODER_FILE]
        if not same or geometry_of(base.spec) | {"chunks": own.spec.chunks} != geometry_of(own.spec):
            raise UsageError(
                f"--base {printable(options.base)}: has another encoder than {path_text(own.path)}, whose examples are "
                "features of the former one; leave out --base, or teach again from the films without --add"
            )
    return own, before


def _with_window(base: Bundle, options: TeachOptions) -> Bundle:
    """Return the base with windows of the wanted length. Raises `UsageError`."""
    if options.window_s is None:
        return base
    longest = MAX_CHUNKS * base.spec.chunk_s
    if not base.spec.chunk_s <= options.window_s <= longest:  # nor NaN
        raise UsageError(f"--window {options.window_s:g}: must be {base.spec.chunk_s:g} to {longest:g} seconds")
    chunks = round(options.window_s / base.spec.chunk_s)
    if options.add and chunks != base.spec.chunks:
        raise UsageError(
            f"--window {options.window_s:g}: the examples of {path_text(base.path)} have windows of "
            f"{base.spec.window_s:g} s; leave out --window, or teach again from the films without --add"
        )
    return replace(base, spec=base.spec.model_copy(update={"chunks": chunks}))


def _find_clips(options: TeachOptions, before: Examples, listener: Listener) -> tuple[Sequence[Clip], _Log]:
    """Find the clips of the folder, announce them, and check that there are enough. Raises `UsageError`."""
    log = _Log(listener)
    if options.folder is None:
        if not before.items:
            raise UsageError("FOLDER: give the folder with one subfolder of films for each label")
        clips: list[Clip] = []
        found_faults: list[tuple[str, str]] = []
    else:
        found = find_clips(options.folder)
        clips, found_faults = found.clips, found.faults
    clips = [_named(clip, options.none_label) for clip in clips]
    counts: dict[str, int] = {}
    for label in [*(item.row.label for item in before.items), *(clip.label for clip in clips)]:
        counts[label] = counts.get(label, 0) + 1
    _check_counts(counts, options.none_label)
    log.start(before.base, counts, len({clip.path for clip in clips}))
    for film, reason in found_faults:
        log.fault(film, reason)
    return clips, log


def _named(clip: Clip, none_label: str | None) -> Clip:
    """Return the clip, with the label "none of these" if its folder is named for it."""
    if none_label is None or clip.label.casefold() not in (*NONE_FOLDERS, none_label.casefold()):
        return clip
    return replace(clip, label=none_label)


def _check_counts(counts: Mapping[str, int], none_label: str | None) -> None:
    """Raise `UsageError` unless there are two labels with enough clips each."""
    if len(counts) < 2:
        (only,) = counts
        if only == none_label:
            raise UsageError("only films of none of the labels; add a folder of films for each label")
        raise UsageError(
            f"one label, {printable(only)!r}; at least two are needed: add a folder of the opposite, such as `normal`, "
            "or a folder `none` with films that show something else"
        )
    for label, count in counts.items():
        if count < MIN_CLIPS:
            raise UsageError(
                f"{printable(label)!r}: {count} clips; at least {MIN_CLIPS} are needed, from different moments. In "
                f"trials, {MIN_CLIPS} clips a label gave 63 % of two labels right, and {GOOD_CLIPS} gave 73 %"
            )


def _window_limit(base: Bundle, clips: int) -> int:
    """Return the most windows of a clip, so that all windows fit into memory. Raises `UsageError`."""
    size = base.spec.chunks * int(np.prod(base.spec.feature_shape)) * np.dtype(np.float32).itemsize
    limit = min(MAX_CLIP_WINDOWS, MAX_WINDOWS // max(clips, 1), MAX_FEATURE_BYTES // (size * max(clips, 1)))
    if size * clips > MAX_FEATURE_BYTES:
        most = MAX_FEATURE_BYTES // size
        raise UsageError(f"{clips} clips; with {base.spec.id} at most {most} fit into memory: leave some out")
    return max(1, limit)


def _make_data(options: TeachOptions, base: Bundle, examples: Examples, log: _Log) -> TeachingData:
    """Group the examples, and check that they are enough, now that unreadable films are left out."""
    counts: dict[str, int] = {}
    for item in examples.items:
        counts[item.row.label] = counts.get(item.row.label, 0) + 1
    if not counts:
        raise UsageError(f"{path_text(options.folder or options.output)}: no film could be read; see the lines above")
    _check_counts(counts, options.none_label)
    check_labels(examples.items)
    groups, notes = group_examples(examples.items)
    for note in notes:
        log.note(note)
    names = sorted((label for label in counts if label != options.none_label), key=str.casefold)
    none = len(names) if options.none_label in counts else None
    names += [options.none_label] if options.none_label is not None and none is not None else []
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[item.row.label] for item in examples.items], np.int64)
    for name, number in numbers.items():
        if len(np.unique(groups[labels == number])) < MIN_GROUPS:
            raise UsageError(
                f"{printable(name)!r}: all of its {counts[name]} clips are one recording, so none can be held out to "
                "measure the result; add clips of another recording"
            )
    clips = examples.clip_of_windows()
    windows = examples.windows()
    spec = base.spec
    return TeachingData(
        windows=windows.reshape(len(windows), spec.chunks, -1),
        labels=labels[clips],
        clips=clips,
        groups=groups[clips],
        names=tuple(names),
        parts=spec.feature_parts or {"feature": int(np.prod(spec.feature_shape))},
        none=none,
    )


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

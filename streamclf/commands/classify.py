"""Run `streamclf classify`: classify the windows of files and print them, or write an annotated film."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engines.backends.names import Backend, Precision
from engines.opening import open_engine
from engines.printable import path_text, printable
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.classifier.offline import FileResult, WindowResult, classify_file, offline_bank_slots, ranked
from streamclf.commands.annotate import SUFFIXES, write_annotated
from streamclf.errors import SourceError, UsageError
from streamclf.redact import redact
from streamclf.render.palette import label_hex
from streamclf.runtime.interrupts import describe_work
from streamclf.runtime.logs import configure_logging

MAX_BATCH = 16
UNLIMITED_WIDTH = 10_000
"""In a file or a pipe, a long label stays on one line."""
FILLS = {"hold": "its last frame is held", "loop": "it is repeated", "stretch": "it is stretched"}
"""How a window is filled that is longer than the clip."""


def run_classify(
    files: Sequence[Path],
    *,
    model: str,
    as_json: bool,
    output: Path | None,
    hop: int,
    backend: Backend,
    precision: Precision,
) -> int:
    """Classify each file; return the exit code, 1 if one could not be classified. The others are still classified.

    Raises `UsageError` for an output or a hop that cannot be used.
    """
    configure_logging("classify", "warning")
    if output is not None:
        _check_output(output, files)
    engine = _open(model, hop=hop, backend=backend, precision=precision)
    failed = done = 0
    describe_work(lambda: f"{done} of {len(files)} files classified")
    try:
        for path in files:
            try:
                result = classify_file(engine, path, hop=hop)
                if output is not None:
                    write_annotated(path, output, result, engine.spec.labels)
            except SourceError as error:
                print(f"streamclf: {printable(redact(str(error)))}", file=sys.stderr)
                failed += 1
                continue
            if result.warning is not None:
                print(f"streamclf: warning: {printable(result.warning)}", file=sys.stderr)
            _print_result(path, engine, result, as_json=as_json)
            done += 1
    finally:
        engine.close()
    return 1 if failed else 0


def to_json(path: Path, engine: Engine, result: FileResult) -> dict[str, Any]:
    """Return the object that `--json` prints for one file. `short_clip` and `warning` are there only if they apply."""
    spec = engine.spec
    found: dict[str, Any] = {
        "file": path_text(path),
        "model": spec.id,
        "windows": [
            {"start_s": round(window.start_s, 6), "end_s": round(window.end_s, 6), "top": ranked(window, spec.labels)}
            for window in result.windows
        ],
    }
    if result.short_clip is not None:
        clip_s = result.windows[0].end_s - result.windows[0].start_s
        found["short_clip"] = {"fill": result.short_clip, "clip_s": round(clip_s, 6), "window_s": spec.window_s}
    if result.warning is not None:
        found["warning"] = printable(result.warning)
    return found


def _open(model: str, *, hop: int, backend: Backend, precision: Precision) -> Engine:
    bundle = find_bundle(model)
    if hop > bundle.spec.chunks:
        raise UsageError(f"--hop {hop}: at most {bundle.spec.chunks} (chunks in a window of {bundle.spec.id})")
    return open_engine(
        bundle,
        backend=backend,
        precision=precision,
        max_batch=MAX_BATCH,
        bank_slots=offline_bank_slots(bundle.spec, MAX_BATCH),
    )


def _check_output(output: Path, files: Sequence[Path]) -> None:
    if len(files) != 1:
        raise UsageError(f"-o {output}: holds one film, and there are {len(files)} files; give one FILE with -o")
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(f"-o {output}: must end in {' or '.join(SUFFIXES)}")
    if output.exists() and output.samefile(files[0]):
        raise UsageError(f"-o {output}: is the input file; choose another name")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: {output.absolute().parent} does not exist; create it first")


def _print_result(path: Path, engine: Engine, result: FileResult, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(to_json(path, engine, result)) + b"\n")
        sys.stdout.buffer.flush()
        return
    spec, windows = engine.spec, result.windows
    count = f"{len(windows)} windows"
    if result.short_clip is not None:
        clip_s = windows[0].end_s - windows[0].start_s
        count = f"a clip of {clip_s:.1f} s, shorter than a window of {spec.window_s:g} s: {FILLS[result.short_clip]}"
    print(f"{printable(path)}  ({spec.id}, {count})")
    table = Table("from", "to", "label", "p", box=None)
    runs = _group_by_label(windows)
    for run, (start_s, end_s) in zip(runs, _times_of(runs), strict=True):
        label = spec.labels[int(run[0].probabilities.argmax())]
        mean = sum(float(window.probabilities.max()) for window in run) / len(run)
        begin, end = f"{start_s:.1f} s", f"{end_s:.1f} s"
        table.add_row(begin, end, Text(printable(label), label_hex(label)), f"{mean:.2f}")
    console = Console()
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    console.print(table)


def _times_of(runs: Sequence[Sequence[WindowResult]]) -> list[tuple[float, float]]:
    """Return (start, end) of each run in seconds. Where windows of two runs overlap, the border is in the middle."""
    times = [(run[0].start_s, run[-1].end_s) for run in runs]
    for number, (before, after) in enumerate(pairwise(times)):
        if after[0] < before[1]:
            border_s = (times[number][1] + after[0]) / 2
            times[number], times[number + 1] = (times[number][0], border_s), (border_s, after[1])
    return times


def _group_by_label(results: Sequence[WindowResult]) -> list[list[WindowResult]]:
    """Group consecutive windows with the same best label."""
    runs: list[list[WindowResult]] = []
    for result in results:
        if runs and runs[-1][-1].probabilities.argmax() == result.probabilities.argmax():
            runs[-1].append(result)
        else:
            runs.append([result])
    return runs

"""Print the events that `streamclf classify` finds in a film: a table for people, or one JSON object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engines.activation import present_labels
from engines.bundle import ModelSpec
from engines.printable import path_text, printable
from streamclf.classifier.film_events import FilmEvent
from streamclf.classifier.offline import FileResult, ranked
from streamclf.classifier.window_classifier import WindowResult
from streamclf.config.source_settings import DecodeMode
from streamclf.render.palette import label_hex

UNLIMITED_WIDTH = 10_000
"""In a file or a pipe, a long label stays on one line."""
FILLS = {"hold": "its last frame is held", "loop": "it is repeated", "stretch": "it is stretched"}
"""How a window is filled that is longer than the clip."""


def to_json(path: Path, spec: ModelSpec, result: FileResult) -> dict[str, Any]:
    """Return the object that `--json` prints for one file. Optional keys are there only if they apply."""
    found: dict[str, Any] = {
        "file": path_text(path),
        "model": spec.id,
        "windows": [_window_json(window, spec) for window in result.windows],
    }
    if result.short_clip is not None:
        clip_s = result.windows[0].end_s - result.windows[0].start_s
        found["short_clip"] = {"fill": result.short_clip, "clip_s": round(clip_s, 6), "window_s": spec.window_s}
    if result.decoding == "fast":
        found["decode"] = "fast"
    if result.warning is not None:
        found["warning"] = printable(result.warning)
    return found


def _window_json(window: WindowResult, spec: ModelSpec) -> dict[str, Any]:
    found = {"start_s": round(window.start_s, 6), "end_s": round(window.end_s, 6), "top": ranked(window, spec.labels)}
    if spec.activation == "sigmoid":
        found["labels"] = [spec.labels[index] for index in present_labels(spec, window.probabilities)]
    return found


def describe_windows(spec: ModelSpec, result: FileResult) -> str:
    """Return the number of windows in words, or how a short clip was made to fill one."""
    windows = result.windows
    if result.short_clip is None:
        return f"{len(windows)} windows"
    clip_s = windows[0].end_s - windows[0].start_s
    return f"a clip of {clip_s:.1f} s, shorter than a window of {spec.window_s:g} s: {FILLS[result.short_clip]}"


def print_table(
    path: Path, spec: ModelSpec, result: FileResult, events: Sequence[FilmEvent], decode: DecodeMode
) -> None:
    """Print the events of a film. Unless `decode` is `exact`, the table says how the film was decoded."""
    decoded = {"exact": ", decoded exactly", "fast": ", decoded fast"}[result.decoding] if decode != "exact" else ""
    print(f"{printable(path)}  ({spec.id}, {describe_windows(spec, result)}{decoded})")
    table = Table("from", "to", "label", "p", box=None)
    for event in events:
        label = spec.labels[event.label]
        begin, end = f"{event.start_s:.1f} s", f"{event.end_s:.1f} s"
        table.add_row(begin, end, Text(printable(label), label_hex(label)), f"{event.mean:.2f}")
    if not events:
        table.add_row("", "", Text("no label is present"), "")
    console = Console()
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    console.print(table)

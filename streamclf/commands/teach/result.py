"""Describe a taught model: as JSON for programs, as a table for a terminal, and the next steps."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

import yaml

from engines.bundle import Label
from engines.printable import path_text, printable
from streamclf.builtin_models import DEFAULT_MODEL
from streamclf.teach.advice import advise_on_pair
from streamclf.teach.bundle_writer import REPORT_FILE
from streamclf.teach.figures import WrongClip
from streamclf.teach.taught import Taught
from streamclf.units import share_text

MAX_WRONG: Final = 100
MAX_SHOWN: Final = 10


def to_json(taught: Taught) -> dict[str, Any]:
    """Return the result as the last line of `--json`; `docs/teach.md` describes it."""
    figures = taught.figures
    return {
        "event": "done",
        "bundle": path_text(taught.output),
        "model": f"{taught.name}@{taught.version}",
        "labels": list(taught.labels),
        "none_label": taught.none_label,
        "balanced_accuracy": round(figures.balanced_accuracy, 4),
        "interval": [round(value, 4) for value in figures.interval],
        "chance": round(figures.chance, 4),
        "clips": figures.clips,
        "windows": figures.windows,
        "groups": figures.groups,
        "per_label": [
            {
                "label": label.label,
                "clips": label.clips,
                "groups": label.groups,
                "recall": round(label.recall, 4),
                "precision": None if label.precision is None else round(label.precision, 4),
                "threshold": label.threshold,
            }
            for label in figures.per_label
        ],
        "confusion": figures.confusion.tolist(),
        "wrong": [_wrong_to_json(taught, wrong) for wrong in figures.wrong[:MAX_WRONG]],
        "alike": [
            {
                "labels": list(pair.labels),
                "confused": round(1 - pair.accuracy, 4),
                "advice": advise_on_pair(pair, figures, taught.examples.items),
            }
            for pair in figures.alike
        ],
        "advice": list(taught.advice),
        "none": _none_to_json(taught),
        "seconds": taught.seconds,
        "report": path_text(taught.output / REPORT_FILE),
        "next": next_steps(taught),
    }


def _wrong_to_json(taught: Taught, wrong: WrongClip) -> dict[str, Any]:
    still = taught.examples.items[wrong.clip].content.stills[wrong.window]
    return {
        "film": wrong.name,
        "start_s": round(wrong.start_s, 3),
        "end_s": round(wrong.end_s, 3),
        "label": wrong.label,
        "predicted": wrong.predicted,
        "probability": round(wrong.probability, 4),
        "still": "data:image/jpeg;base64," + base64.b64encode(still).decode() if still else None,
    }


def _none_to_json(taught: Taught) -> dict[str, Any] | None:
    if taught.none_label is None:
        return None
    misses = none_misses(taught)
    return {
        "method": none_method(taught),
        "false_alarms": round(taught.figures.false_alarms or 0.0, 4),
        "misses": None if misses is None else round(misses, 4),
    }


def none_method(taught: Taught) -> str:
    """Name how "none of these" is recognised."""
    parts = ["films of the folder"] if taught.head.none is not None else []
    if taught.head.calibration.has_novelty:
        reference, metric = taught.head.novelty.measure
        nearest = {"means": "mean of a label", "examples": "example"}[reference]
        parts.append(f"{metric} to the nearest {nearest}")
    return " and ".join(parts)


def none_misses(taught: Taught) -> float | None:
    """Return the share of clips of "none of these" that got another label; None where it could not be measured.

    The clips are the held-out films of the folder, else those of each label while it was left out.
    """
    if taught.head.none is not None:
        return 1 - taught.figures.per_label[taught.head.none].recall
    return taught.held_out.novelty.misses


def next_steps(taught: Taught) -> str:
    """Return the lines to add to a configuration, and the command that tries the model."""
    name = _config_name(taught.name)
    labels = [label for label in taught.labels if label != taught.none_label]
    lines = [
        "models:",
        f"  {_yaml(name)}: {_yaml(path_text(taught.output))}",
        "actions:",
        *(f"  {_yaml(label)}: {{min_s: 0.5}}" for label in labels[:MAX_SHOWN]),
    ]
    area = taught.area.keys
    part = [
        "The model was taught with a part of the picture; give each of its streams the same:",
        *(f"  {line}" for line in yaml.safe_dump(area, default_flow_style=None, sort_keys=False).rstrip().splitlines()),
    ]
    return "\n".join(
        [
            "Add to the configuration of the service, in the sections that it has already:",
            *(f"  {line}" for line in lines),
            *(part if area else []),
            "An action starts at the threshold of its label, unless you give `on`.",
            f"If neither `model` nor `models` is set so far, add model: {DEFAULT_MODEL} to keep that default model.",
            "A service that runs an earlier model of this folder loads the new one when it gets SIGHUP.",
            f"A stream has all models unless its own list names some: models: [{name}]",
            f"Try it on a film: streamclf classify FILE --model {shlex.quote(path_text(taught.output))}"
            + _area_options(area),
        ]
    )


def _area_options(area: Mapping[str, Any]) -> str:
    """Return the keys of a part of the picture as options of `streamclf classify`."""
    pairs = [(key, value) for key, value in area.items() if key != "mask"]
    pairs += [("mask", shape) for shape in area.get("mask", ())]
    return "".join(f" --{key} {_flat(value)}" for key, value in pairs)


def _flat(value: Any) -> str:
    """Return a text, a number, or nested lists of numbers as one argument, with commas between the numbers."""
    if isinstance(value, list):
        return ",".join(map(_flat, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _yaml(text: str) -> str:
    """Return a text as YAML on one line, in double quotes where a plain text would be another value."""
    for style in (None, '"'):
        lines = yaml.safe_dump({text: 0}, allow_unicode=True, default_style=style, width=10_000).splitlines()
        if len(lines) == 1 and lines[0].endswith(": 0"):
            return lines[0].removesuffix(": 0")
    return json.dumps(text)


def _config_name(name: Label) -> str:
    return "taught" if name == "model" else name


def describe(taught: Taught) -> list[str]:
    """Return the result as lines for a terminal, with the figures on held-out films first."""
    figures = taught.figures
    low, high = figures.interval
    lines = [
        f"On films that were held out: {figures.balanced_accuracy:.0%} balanced accuracy (95 % interval {low:.0%} to "
        f"{high:.0%}, chance {figures.chance:.0%}), {figures.clips} clips of {figures.groups} recordings",
        "",
        *_table(taught),
    ]
    if taught.none_label is not None:
        misses = none_misses(taught)
        whose = "held-out films of the folder" if taught.head.none is not None else "clips of a label that was left out"
        measured = "" if misses is None else f"; {misses:.0%} of the {whose} got another label"
        lines += [
            "",
            f"{printable(taught.none_label)!r}: {none_method(taught)}; given to {figures.false_alarms or 0:.0%} of the "
            f"labels' own windows{measured}",
        ]
    if figures.wrong:
        lines += ["", f"Wrong ({len(figures.wrong)} of {figures.clips} clips):"]
        lines += [f"  {describe_wrong(wrong)}" for wrong in figures.wrong[:MAX_SHOWN]]
        if len(figures.wrong) > MAX_SHOWN:
            lines.append(f"  … and {len(figures.wrong) - MAX_SHOWN} more, in the report")
    if taught.advice:
        lines += ["", "To improve it:", *(f"  {line}." for line in taught.advice[:MAX_SHOWN])]
    return lines


def describe_wrong(wrong: WrongClip) -> str:
    """Return a wrong clip in one line."""
    return (
        f"{printable(wrong.name)}, {wrong.start_s:.1f} to {wrong.end_s:.1f} s: {printable(wrong.label)} taken for "
        f"{printable(wrong.predicted)} ({wrong.probability:.0%})"
    )


def _table(taught: Taught) -> list[str]:
    figures = taught.figures
    shown = figures.per_label[:40]
    width = max(5, *(len(printable(label.label)) for label in shown))
    lines = [f"  {'label':<{width}}  clips  recall  precision  threshold"]
    for label in shown:
        threshold = "–" if label.threshold is None else f"{label.threshold:.2f}"
        lines.append(
            f"  {printable(label.label):<{width}}  {label.clips:>5}  {label.recall:>6.0%}  "
            f"{share_text(label.precision):>9}  {threshold:>9}"
        )
    return lines

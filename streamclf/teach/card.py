"""Write the model card of a taught bundle."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from engines.bundle import ModelSpec
from engines.printable import printable
from streamclf.teach.figures import Figures
from streamclf.teach.taught_head import TaughtHead
from streamclf.units import share_text


def write_card(
    name: str,
    spec: ModelSpec,
    base: str,
    figures: Figures,
    taught: TaughtHead,
    *,
    advice: Sequence[str],
    none_label: str | None,
) -> str:
    """Return the card in Markdown, with front matter for model hubs."""
    low, high = figures.interval
    head = {
        "license": "other",
        "license_name": "unknown",
        "library_name": "streamclf",
        "pipeline_tag": "video-classification",
        "tags": ["onnx", "streamclf"],
        "metrics": ["balanced_accuracy"],
    }
    chosen = taught.head.chosen
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        "",
        f"# {name}",
        "",
        "One of: " + ", ".join(f"`{_cell(label)}`" for label in figures.labels) + ".",
        "",
        f"Taught by `streamclf teach` with the encoder of {base}: {spec.chunks} chunks of {spec.frames_per_chunk} "
        f"frames at {spec.fps:g} fps ({spec.window_s:g} s), {spec.height} x {spec.width} pixels.",
        "",
        "## On films that were held out",
        "",
        f"Balanced accuracy {figures.balanced_accuracy:.1%} (95 % interval {low:.0%} to {high:.0%}; chance "
        f"{figures.chance:.0%}) of {figures.clips} clips from {figures.groups} recordings: cross-validation in which "
        "no recording is on both sides. The bundle's head is fitted to all clips. They are the user's own, so other "
        "scenes and cameras may give other results.",
        "",
        "| label | clips | recordings | recall | precision | threshold |",
        "|---|---|---|---|---|---|",
        *(
            f"| {_cell(label.label)} | {label.clips} | {label.groups} | {label.recall:.0%} | "
            f"{share_text(label.precision)} | {'–' if label.threshold is None else f'{label.threshold:.2f}'} |"
            for label in figures.per_label
        ),
        "",
        "Precision assumes that all labels are equally frequent. An action starts at its label's threshold, unless the "
        "configuration gives another.",
        "",
        *_confusion(figures),
        *_none(figures, taught, none_label),
        "## How the head was fitted",
        "",
        f"The mean of {len(chosen)} linear discriminants, the best by grouped cross-validation. The first reads "
        f"{', '.join(chosen[0].parts)} (summaries over time: {chosen[0].pooling}). "
        f"Temperature {taught.calibration.temperature:.2f}. `golden.npz` contains one "
        "window of the examples, `examples.npz` small stills and features of all. Before you publish the bundle, "
        "delete `examples.npz`, `examples.json` and `report.html`, and check `golden.npz`.",
        *(["", "## Examples that would help", "", *(f"- {_cell(line)}." for line in advice)] if advice else []),
    ]
    return "\n".join(lines) + "\n"


def _confusion(figures: Figures) -> list[str]:
    return [
        "| true / predicted | " + " | ".join(_cell(label) for label in figures.labels) + " |",
        "|---|" + "---|" * len(figures.labels),
        *(
            f"| {_cell(label)} | " + " | ".join(str(int(count)) for count in row) + " |"
            for label, row in zip(figures.taught, figures.confusion, strict=True)
        ),
        "",
    ]


def _none(figures: Figures, taught: TaughtHead, none_label: str | None) -> list[str]:
    if none_label is None or figures.false_alarms is None:
        return []
    return [
        f"`{_cell(none_label)}` stands for windows that are unlike all examples. It was given to "
        f"{figures.false_alarms:.1%} of the held-out windows of the other labels.",
        "",
    ]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", printable(text)).replace("|", "\\|").replace("`", "'")

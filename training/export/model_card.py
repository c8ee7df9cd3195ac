"""Write the model card of a bundle: what the model is, what it was trained on, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.printable import printable
from training.export.front_matter import table_cell
from training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class CardContent:
    """The facts that a card states.

    `metrics`: figures on the validation clips. `benchmark`: figures on other data, where they were measured.
    `notes`: what was found in the data when they were read.
    """

    recipe: Recipe
    labels: Sequence[str]
    metrics: dict[str, Any]
    benchmark: dict[str, Any] | None
    calibration: str
    notes: Sequence[str]


def model_card(content: CardContent) -> str:
    """Write a card in Markdown."""
    recipe, labels, metrics = content.recipe, content.labels, content.metrics
    m, o = recipe.model, recipe.optimiser
    fit = (
        "windows at that rate, as in serving"
        if recipe.windows.fit == "rate"
        else "each clip stretched to one window, whatever its duration"
    )
    weights = (
        "(the last)."
        if recipe.keep == "last"
        else f"(the best {recipe.monitor.replace('_', ' ')} on the validation clips)."
    )
    golden = "a validation clip." if recipe.golden == "validation" else "rendered shapes, no real person."
    is_multi = recipe.activation == "sigmoid"
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        ("Any of: " if is_multi else "One of: ") + ", ".join(f"`{printable(label)}`" for label in labels) + ".",
        "",
        *([recipe.about, ""] if recipe.about else []),
        f"Model `{m.kind}`: {m.chunks} chunks of {m.frames_per_chunk} frames at {recipe.fps:g} fps "
        f"({recipe.shape.window / recipe.fps:g} s), {m.height} x {m.width} pixels.",
        "",
        f"**Data**: {recipe.data.card_text()} Training used {fit}; {o.steps} steps of {o.batch} windows, seed "
        f"{recipe.seed}, weights of step {metrics.get('step', o.steps)} {weights} `golden.npz` shows {golden}",
        "",
        f"**Calibration**: {content.calibration}",
        "",
        f"**Licence**: {recipe.licence}.",
        "",
        "## On the validation clips",
        "",
        _figures(metrics),
        "",
        *(_independent_labels(metrics) if is_multi else _classes(labels, metrics)),
    ]
    if is_multi:
        lines += [
            "",
            "The threshold of each label has the highest F1 on the same clips, so F1 is too high for other clips. A "
            "live action starts at this threshold unless the configuration sets another.",
        ]
    if recipe.keep == "best":
        lines += [
            "",
            "The step whose weights were kept was chosen on the same clips; on other clips the figures may be worse.",
        ]
    if content.notes:
        lines += ["", "## Notes on the data", "", *[f"- {note}" for note in content.notes]]
    return "\n".join(lines) + "\n"


def _classes(labels: Sequence[str], metrics: dict[str, Any]) -> list[str]:
    return [
        "| class | clips | recall | precision | AUC |",
        "|---|---|---|---|---|",
        *[
            f"| {table_cell(label)} | {row['clips']} | {_share(row['recall'])} | {_share(row['precision'])} | "
            f"{_area(row['auc'])} |"
            for label, row in metrics["per_class"].items()
        ],
        "",
        *confusion_table(labels, metrics["confusion"]),
    ]


def _independent_labels(metrics: dict[str, Any]) -> list[str]:
    return [
        "| label | clips | average precision | F1 | recall | precision | threshold |",
        "|---|---|---|---|---|---|---|",
        *[
            f"| {table_cell(label)} | {row['clips']} | {_share(row['average_precision'])} | {_share(row['f1'])} | "
            f"{_share(row['recall'])} | {_share(row['precision'])} | {_area(row['threshold'])} |"
            for label, row in metrics["per_class"].items()
        ],
    ]


def confusion_table(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    """Write a confusion matrix as a Markdown table; rows are the true classes."""
    names = [table_cell(label) for label in labels]
    head = ["| truth \\ predicted | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    return head + [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(names, matrix, strict=True)]


def _figures(metrics: dict[str, Any]) -> str:
    if "map" in metrics:
        return (
            f"{metrics['clips']} clips: mAP {metrics['map']:.1%}, macro F1 {metrics['macro_f1']:.1%}, all labels right "
            f"{metrics['exact']:.1%}."
        )
    auc = "" if metrics["auc"] is None else f", AUC {metrics['auc']:.3f}"
    return (
        f"{metrics['clips']} clips: top-1 {metrics['top1']:.1%}, top-5 {metrics['top5']:.1%}, "
        f"balanced accuracy {metrics['balanced_accuracy']:.1%}{auc}."
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _area(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

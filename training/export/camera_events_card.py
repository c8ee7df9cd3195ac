"""Write the model card of camera-events, whose figures are false alarms and results on real film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.export.model_card import CardContent, confusion_table
from training.models.compact_vivit import VivitFactorisedRecipe


def camera_events_card(content: CardContent) -> str:
    """Write a card in Markdown. `content.benchmark`: the figures on real film, if they were measured."""
    recipe, labels, metrics = content.recipe, content.labels, content.metrics
    m = recipe.model
    assert isinstance(m, VivitFactorisedRecipe)  # the recipe allows no other kind of model
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        "For fixed cameras. A hand-held camera, or one on a vehicle, moves all the time, and the model reports that.",
        "",
        "The model recognises what happens to a camera: " + ", ".join(f"`{label}`" for label in labels) + ".",
        "",
        f"A ViViT factorised encoder (arXiv 2103.15691, model 2): {m.chunks} chunks of {m.frames_per_chunk} frames "
        f"at {recipe.fps:g} fps ({recipe.shape.window / recipe.fps:g} s), {m.height} x {m.width} pixels, "
        f"width {m.dim}, {m.spatial_layers} spatial and {m.temporal_layers} temporal layers.",
        "",
        f"**Data**: {recipe.data.card_text()}",
        "",
        *([f"**Weights**: {recipe.about}", ""] if recipe.about else []),
        f"**Calibration**: {content.calibration} `docs/development/camera-events.md` says how it was chosen.",
        "",
        "**Licence**: Apache-2.0, as the project.",
    ]
    if content.benchmark is not None:
        lines += ["", *_real_film(content.benchmark, labels)]
    lines += [
        "",
        "## On synthetic validation footage",
        "",
        f"Balanced accuracy {metrics['balanced_accuracy']:.1%}, false alarms {metrics['false_alarms']:.1%} of the "
        "windows in which nothing happens.",
        "",
        *confusion_table(labels, metrics["confusion"]),
        "",
        "`docs/camera-events.md` defines the labels. `docs/development/camera-events.md` describes these measurements "
        "and lists known weaknesses.",
    ]
    return "\n".join(lines) + "\n"


def _real_film(benchmark: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Write the section with the benchmark's figures on real film, those of the held-out half first."""
    lines = ["## On real film, which was not used in training", ""]
    lines += ["| films | windows | false alarms | balanced accuracy |", "|---|---|---|---|"]
    for films in ("held-out", "tuning", "all", "with films whose camera is not fixed"):
        f = benchmark[films]
        lines.append(f"| {films} | {f['windows']} | {f['false_alarms']:.2%} | {f['balanced_accuracy']:.1%} |")
    held_out = benchmark["held-out"]
    lines += ["", "Recall on the held-out half:", "", "| event | recall |", "|---|---|"]
    lines += [f"| {label} | {recall:.1%} |" for label, recall in held_out["recall"].items() if label != "normal"]
    lines += [f"| {case} | {recall:.1%} |" for case, recall in held_out["recall_by_detail"].items()]
    return [*lines, "", "Held-out half:", "", *confusion_table(labels, held_out["confusion"])]

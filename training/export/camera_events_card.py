"""Write the model card of camera-events, whose figures are false alarms and results on real film."""

from __future__ import annotations

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
        "What happens to a camera: " + ", ".join(f"`{label}`" for label in labels) + ".",
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
        "",
        "## On synthetic validation footage",
        "",
        f"Balanced accuracy {metrics['balanced_accuracy']:.1%}, false alarms {metrics['false_alarms']:.1%} of the "
        "windows in which nothing happens.",
        "",
        *confusion_table(labels, metrics["confusion"]),
    ]
    if content.benchmark is not None:
        lines += ["", "## On real film, which was not used in training", ""]
        lines += ["| films | windows | false alarms | balanced accuracy |", "|---|---|---|---|"]
        for films, f in content.benchmark.items():
            if "windows" in f and "balanced_accuracy" in f:
                lines.append(f"| {films} | {f['windows']} | {f['false_alarms']:.2%} | {f['balanced_accuracy']:.1%} |")
        lines += ["", *confusion_table(labels, content.benchmark["all"]["confusion"])]
    lines += [
        "",
        "`docs/camera-events.md` defines the labels. `docs/development/camera-events.md` describes these measurements "
        "and lists known weaknesses.",
    ]
    return "\n".join(lines) + "\n"

"""Write the model card of camera-events: the figures on held-out film come first, then all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.export.model_card import CardContent, confusion_table
from training.models.compact_vivit import VivitFactorisedRecipe


def camera_events_card(content: CardContent) -> str:
    """Write a card in Markdown. `content.benchmark`: the figures on real film, if they were measured."""
    recipe, labels, metrics = content.recipe, content.labels, content.metrics
    m, o = recipe.model, recipe.optimiser
    assert isinstance(m, VivitFactorisedRecipe)  # the recipe allows no other kind of model
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        "This model is for **fixed cameras**. It recognises what happens to the camera, and not people, objects or "
        "actions in front of it. A camera that a person or a vehicle carries moves all the time, and the model reports "
        "that.",
        "",
        f"Labels: {', '.join(f'`{label}`' for label in labels)}. `docs/camera-events.md` defines each label.",
        "",
    ]
    if content.benchmark is not None:
        lines += _real_film(content.benchmark, labels)
    lines += [
        "## Accuracy on rendered film",
        "",
        f"Balanced accuracy {metrics['balanced_accuracy']:.1%}, false alarms {metrics['false_alarms']:.1%} of the "
        "windows in which nothing happens. Training did not use these clips. Rows are the truth.",
        "",
        *confusion_table(labels, metrics["confusion"]),
        "",
        "## Model",
        "",
        f"A ViViT factorised encoder (arXiv 2103.15691, model 2). A window is {m.chunks} chunks of "
        f"{m.frames_per_chunk} frames at {recipe.fps:g} fps ({recipe.shape.window / recipe.fps:g} s), {m.height} x "
        f"{m.width} pixels. Width {m.dim}, {m.spatial_layers} spatial and {m.temporal_layers} temporal layers.",
        "",
        f"**Data**: {recipe.data.card_text()}",
        "",
        f"**Training**: one run of the recipe, from random weights: {o.steps} steps of {o.batch} windows, seed "
        f"{recipe.seed}.",
        "",
        *([f"**Weights**: {recipe.about}", ""] if recipe.about else []),
        f"**Calibration**: {content.calibration}",
        "",
        "**Licence**: Apache-2.0, as the project.",
        "",
        "`docs/development/camera-events.md` describes these measurements and lists known weaknesses.",
    ]
    return "\n".join(lines) + "\n"


def _real_film(benchmark: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Write the section with the benchmark's figures on real film, those of the held-out half first."""
    held_out = benchmark["held-out"]
    events = {label: recall for label, recall in held_out["recall"].items() if label != "normal"}
    events |= held_out["recall_by_detail"]
    by_source = held_out["false_alarms_by_source"]
    sources = "real film of fixed cameras" + (" and of photographs, one window each" if "photos" in by_source else "")
    lines = [
        "## Accuracy on held-out film",
        "",
        f"**{held_out['false_alarms']:.1%} false alarms, {held_out['balanced_accuracy']:.1%} balanced accuracy** on "
        f"{held_out['windows']:,} windows of {sources}. No weights and no biases were chosen on this "
        "half. But the renderer of the training film was changed seven times, and the lowest bias once, after a look "
        "at its films, or at results on them.",
        "",
        "| event | recall |",
        "|---|---|",
        *(f"| {event} | {recall:.1%} |" for event, recall in events.items()),
        "",
        "A false alarm is a window of undisturbed film whose label is not `normal`. Their shares by source: "
        + ", ".join(f"`{name}` {share:.2%}" for name, share in by_source.items())
        + ". Balanced accuracy is the mean of the seven recalls. In the confusion matrix, rows are the truth:",
        "",
        *confusion_table(labels, held_out["confusion"]),
        "",
        "## Accuracy on all real film",
        "",
        "| film | windows | false alarms | balanced accuracy |",
        "|---|---|---|---|",
    ]
    for films in ("held-out", "tuning", "all", "with films whose camera is not fixed"):
        f = benchmark[films]
        name = f"{films} half" if films in ("held-out", "tuning") else films
        lines.append(f"| {name} | {f['windows']:,} | {f['false_alarms']:.2%} | {f['balanced_accuracy']:.1%} |")
    return [*lines, "", *(_live(benchmark["live"]) if "live" in benchmark else ())]


def _live(live: Mapping[str, Any]) -> list[str]:
    """Write the section with the figures of actions on film that was played as live."""
    lines = [
        "## Actions on live film",
        "",
        "| film | events | right, and no wrong one | median delay | false starts per camera and day |",
        "|---|---|---|---|---|",
    ]
    for half in ("held-out", "tuning"):
        events, false = live[half]["events"], live[half]["ordinary"]["false_starts"]
        delay = "-" if events["seconds"]["p50"] is None else f"{events['seconds']['p50']:.1f} s"
        lines.append(
            f"| {half} half | {events['events']} | {events['right'] / max(1, events['events']):.1%} | {delay} | "
            f"{false['per_day']:.1f}, of {false['hours']:.2f} h (95 % interval: at most "
            f"{false['per_day_interval'][1]:.1f}) |"
        )
    return [*lines, ""]

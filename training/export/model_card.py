"""The model card that goes into a bundle: what it is, what it learned from, how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.data.recipes import CameraEventsData, ClipRecipe, ClipsData, GesturesMadeData, MixedData
from training.models.compact_vivit import VivitFactorisedRecipe
from training.recipe import Recipe


def model_card(
    recipe: Recipe, labels: Sequence[str], metrics: dict[str, Any], *, calibration: str, notes: Sequence[str]
) -> str:
    """Markdown. `metrics`: of the clips held back; `notes`: what was noticed in the data."""
    m, o = recipe.model, recipe.optimiser
    assert not isinstance(recipe.data, CameraEventsData)  # it has a card of its own
    fit = (
        "windows at that rate, as serving cuts them"
        if recipe.windows.fit == "rate"
        else "each clip stretched to one window, whatever its duration"
    )
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        "One of: " + ", ".join(f"`{label}`" for label in labels) + ".",
        "",
        *([recipe.about, ""] if recipe.about else []),
        f"Model `{m.kind}`: {m.chunks} chunks of {m.frames_per_chunk} frames at {recipe.fps:g} fps "
        f"({recipe.shape.window / recipe.fps:g} s), {m.height} x {m.width} pixels.",
        "",
        f"**Data**: {_told(recipe.data)} Training saw {fit}; {o.steps} steps of {o.batch} windows, seed {recipe.seed}, "
        f"weights of step {metrics.get('step', o.steps)} "
        + (
            "(the last)."
            if recipe.keep == "last"
            else f"(the best {recipe.monitor.replace('_', ' ')} on clips held back)."
        )
        + " `golden.npz` shows "
        + ("a clip held back." if recipe.golden == "held_back" else "drawn shapes, nobody's pictures."),
        "",
        f"**Calibration**: {calibration}",
        "",
        f"**Licence**: {recipe.licence}.",
        "",
        "## On clips held back",
        "",
        *_figures(metrics),
        "",
        "| class | clips | recall | precision | AUC |",
        "|---|---|---|---|---|",
        *[
            f"| {label} | {row['clips']} | {_share(row['recall'])} | {_share(row['precision'])} | {_area(row['auc'])} |"
            for label, row in metrics["per_class"].items()
        ],
        "",
        *_confusion(labels, metrics["confusion"]),
    ]
    if recipe.keep == "best":
        lines += ["", "The same clips chose which step's weights were kept; clips never used for that may do worse."]
    if notes:
        lines += ["", "## Noticed in the data", "", *[f"- {note}" for note in notes]]
    return "\n".join(lines) + "\n"


def _told(data: ClipRecipe) -> str:
    """Where the clips are from, in a sentence."""
    if isinstance(data, MixedData):
        return " ".join(f"{_told(part.data)[:-1]} ({part.share:g} parts)." for part in data.parts)
    if isinstance(data, GesturesMadeData):
        return f"{data.clips} clips made by `training/gestures`, {data.held_back_clips} held back."
    if isinstance(data, ClipsData):
        split = f"part {data.fold} of {data.folds} held back" if data.folds else "whole groups held back"
        return f"clips of `{data.path.parent.name or '.'}/{data.path.name}`, {split}."
    return f"volumes of `{data.path.name}`, `{data.held_back_split}` held back."


def _figures(metrics: dict[str, Any]) -> list[str]:
    auc = "" if metrics["auc"] is None else f", AUC {metrics['auc']:.3f}"
    return [
        f"{metrics['clips']} clips: top-1 {metrics['top1']:.1%}, top-5 {metrics['top5']:.1%}, "
        f"balanced accuracy {metrics['balanced_accuracy']:.1%}{auc}."
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _area(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def camera_events_card(
    recipe: Recipe,
    data: CameraEventsData,
    labels: Sequence[str],
    metrics: dict[str, Any],
    real: dict[str, Any] | None,
    calibration: str,
) -> str:
    """Markdown. `metrics`: on made footage held back; `real`: the benchmark's figures, if they were measured."""
    m = recipe.model
    assert isinstance(m, VivitFactorisedRecipe)  # the recipe allows no other
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        "What happens to a camera: " + ", ".join(f"`{label}`" for label in labels) + ".",
        "",
        f"A ViViT factorised encoder (arXiv 2103.15691, model 2): {m.chunks} chunks of {m.frames_per_chunk} frames "
        f"at {recipe.fps:g} fps ({recipe.shape.window / recipe.fps:g} s), {m.height} x {m.width} pixels, "
        f"width {m.dim}, {m.spatial_layers} spatial and {m.temporal_layers} temporal layers.",
        "",
        "**Data**: made by the recipe itself (`training/camera_events/`): drawn scenes, moving sprites, disturbances, "
        f"codecs. {data.clips} clips for training, {data.validation_clips} held back. No film of any "
        "real camera, no data set, nobody's pictures. `golden.npz` is a window of the made footage.",
        "",
        *([f"**Weights**: {recipe.about}", ""] if recipe.about else []),
        f"**Calibration**: {calibration} docs/camera-events.md says how it was chosen.",
        "",
        "**Licence**: Apache-2.0, as the project.",
        "",
        "## On made footage held back",
        "",
        f"Balanced accuracy {metrics['balanced_accuracy']:.1%}, false alarms {metrics['false_alarms']:.1%} of the "
        "windows in which nothing happens.",
        "",
        *_confusion(labels, metrics["confusion"]),
    ]
    if real is not None:
        lines += ["", "## On real film, which it never saw", ""]
        lines += ["| films | windows | false alarms | balanced accuracy |", "|---|---|---|---|"]
        for part, f in real.items():
            if "windows" in f and "balanced_accuracy" in f:
                lines.append(f"| {part} | {f['windows']} | {f['false_alarms']:.2%} | {f['balanced_accuracy']:.1%} |")
        lines += ["", *_confusion(labels, real["all"]["confusion"])]
    lines += [
        "",
        "What the labels mean, how this was measured and what falls short: `docs/camera-events.md`.",
    ]
    return "\n".join(lines) + "\n"


def _confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    head = ["| truth \\ predicted | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    return head + [
        f"| {label} | " + " | ".join(map(str, row)) + " |" for label, row in zip(labels, matrix, strict=True)
    ]

"""The model card that goes into a bundle: what it is, what it learned from, how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.recipe import Recipe


def model_card(
    recipe: Recipe,
    labels: Sequence[str],
    metrics: dict[str, Any],
    real: dict[str, Any] | None,
    calibration: str,
) -> str:
    """Markdown. `metrics`: on made footage held back; `real`: the benchmark's figures, if they were measured."""
    m = recipe.model
    window_s = m.tokens * m.frames_per_token / recipe.fps
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        "What happens to a camera: " + ", ".join(f"`{label}`" for label in labels) + ".",
        "",
        f"A ViViT factorised encoder (arXiv 2103.15691, model 2): {m.tokens} tokens of {m.frames_per_token} frames "
        f"at {recipe.fps:g} fps ({window_s:g} s), {m.height} x {m.width} pixels, width {m.dim}, "
        f"{m.spatial_layers} spatial and {m.temporal_layers} temporal layers.",
        "",
        "**Data**: made by the recipe itself (`training/camera_events/`): drawn scenes, moving sprites, disturbances, "
        f"codecs. {recipe.data.clips} clips for training, {recipe.data.validation_clips} held back. No film of any "
        "real camera, no data set, nobody's pictures. `golden.npz` is a window of the made footage.",
        "",
        f"**Calibration**: {calibration}",
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

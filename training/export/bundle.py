"""A run's folder -> a bundle: chooses the golden window, applies the calibration, writes the card, exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engines.arrays import U8
from engines.bundle import Bundle
from training.builtin.camera_events import LABELS as CAMERA_EVENTS
from training.builtin.camera_events.dataset import Footage
from training.builtin.camera_events.learner import footage_of
from training.data.batches import HeldBackBatches
from training.data.datasets import open_data
from training.data.recipes import CameraEventsData, ClipRecipe
from training.errors import RunError
from training.export.golden import CANDIDATES, drawn_windows, telling_window
from training.export.model_card import camera_events_card, model_card
from training.export.onnx import export_bundle
from training.fit.run_folder import METRICS_FILE, NOTES_FILE, load_run, read_json, run_labels
from training.fit.train import measure, open_work
from training.models import ClipModel
from training.recipe import Recipe, resize_of

GOLDEN_LABEL = "moved"


def export_run(
    run: Path, path: Path, *, figures: Path | None = None, biases: Mapping[str, float] | None = None
) -> Bundle:
    """Export the best weights of `run` to the bundle at `path`.

    `figures`: the camera-events benchmark's JSON, for the card and the spec. `biases`, by label, go into the head's
    last bias. Raises `RunError` for a label that the model does not have.
    """
    recipe, model = load_run(run)
    labels = run_labels(run, recipe)
    torch.set_num_threads(recipe.threads)
    if unknown := set(biases or {}) - set(labels):
        raise RunError(f"bias for {min(unknown)!r}: no such label; there are {', '.join(labels)}")
    calibration, metrics = "none.", _figures(run)
    if biases:
        bias = last_bias(model, len(labels))
        with torch.no_grad():
            for label, value in biases.items():
                bias[labels.index(label)] += value
        work = open_work(recipe, model)
        metrics = work.trainee.judge(measure(model, work.held_back, len(labels)))
        added = ", ".join(f"{value:+g} on `{label}`" for label, value in biases.items())
        calibration = f"last bias: {added}. All figures include it."
    if isinstance(recipe.data, CameraEventsData):
        real = read_json(figures) if figures is not None else None
        measured = _camera_events_metrics(metrics, real)
        card = camera_events_card(recipe, recipe.data, labels, metrics, real, calibration)
        golden = telling_window(model, _moved_windows(footage_of(recipe, validation=True), recipe))
    else:
        if figures is not None:
            raise RunError(f"--figures {figures}: only for camera-events; other cards take the run's own figures")
        names = ("top1", "top5", "balanced_accuracy", "auc", "clips")
        measured = {name: metrics[name] for name in names if metrics.get(name) is not None}
        notes = read_json(run / NOTES_FILE) if (run / NOTES_FILE).is_file() else []
        card = model_card(recipe, labels, metrics, calibration=calibration, notes=notes)
        golden = telling_window(model, _windows(recipe, recipe.data))
    fields = {
        "name": recipe.name,
        "version": recipe.version,
        "labels": labels,
        "height": recipe.model.height,
        "width": recipe.model.width,
        "resize": resize_of(recipe),
        "fps": recipe.fps,
        "frames_per_chunk": recipe.model.frames_per_chunk,
        "chunks": recipe.model.chunks,
        "whole_clips": "stretch" if recipe.windows.fit == "stretch" else "windows",
        "metrics": {name: round(float(value), 5) for name, value in measured.items()},
    }
    return export_bundle(model, fields=fields, golden=golden, card=card, path=path)


def last_bias(model: ClipModel, labels: int) -> torch.Tensor:
    """The bias of the layer that gives the logits. Raises `RunError` where there is none."""
    layers = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear) and layer.out_features == labels]
    if not layers or layers[-1].bias is None:
        raise RunError("bias: this model's last layer has none; train without --bias")
    return layers[-1].bias


def _windows(recipe: Recipe, data: ClipRecipe) -> Iterator[U8]:
    """Candidates for the golden window: made ones, unless the recipe says that its own may be shipped."""
    found = None
    if recipe.golden == "held_back" or data.kind == "gestures_made":
        found = open_data(data, recipe.shape, seed=recipe.seed, stretch=recipe.windows.fit == "stretch")
    if found is None:
        yield from drawn_windows(recipe.shape)
        return
    taken = 0
    for batch in HeldBackBatches(found.held_back, recipe.shape, recipe.windows):
        for window in batch["windows"]:
            yield batch["frames"][window].numpy()
            taken += 1
            if taken == CANDIDATES:
                return


def _moved_windows(footage: Footage, recipe: Recipe) -> Iterator[U8]:
    """Windows (T, t, H, W, 3) in which the camera moves."""
    spec = footage.spec
    found = np.argwhere(footage.labels == CAMERA_EVENTS.index(GOLDEN_LABEL))[:CANDIDATES]
    if not len(found):
        raise RunError(f"no made window is {GOLDEN_LABEL!r}; raise data.validation_clips={spec.clips}")
    for clip, i in found:
        start = spec.offsets[i]
        frames = footage.frames[clip, start : start + spec.window]
        yield frames.reshape(-1, recipe.model.frames_per_chunk, *frames.shape[1:])


def _camera_events_metrics(metrics: dict[str, Any], real: dict[str, Any] | None) -> dict[str, float]:
    measured = {
        "made_balanced_accuracy": metrics["balanced_accuracy"],
        "made_false_alarms": metrics["false_alarms"],
    }
    if real is not None:
        for part in ("all", "tuning", "held-out"):
            for name in ("balanced_accuracy", "false_alarms"):
                measured[f"real_{part.replace('-', '_')}_{name}"] = real[part][name]
    return measured


def _figures(run: Path) -> dict[str, Any]:
    result = read_json(run / METRICS_FILE)
    if not isinstance(result, dict):
        raise RunError(f"{run / METRICS_FILE}: one JSON object expected, this is {type(result).__name__}")
    return result

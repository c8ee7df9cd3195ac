"""A run's folder -> a bundle: chooses the golden window, applies the calibration, writes the card, exports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.bundle import Bundle
from training.camera_events import LABELS
from training.camera_events.dataset import Footage
from training.card import model_card
from training.errors import RunError
from training.export import export_bundle
from training.models.vivit_factorised import FactorisedViViT
from training.train import METRICS_FILE, ValidationWindows, footage_of, load_run, measure

GOLDEN_LABEL = "moved"


def export_run(
    run: Path, path: Path, *, figures: Path | None = None, biases: Mapping[str, float] | None = None
) -> Bundle:
    """Export the best weights of `run` to the bundle at `path`.

    `figures`: the benchmark's JSON, for the card and the spec. `biases`, by label, go into the head's last bias.
    Raises `RunError` for a label that the model does not have.
    """
    if unknown := set(biases or {}) - set(LABELS):
        raise RunError(f"bias for {min(unknown)!r}: no such label; there are {', '.join(LABELS)}")
    recipe, model = load_run(run)
    torch.set_num_threads(recipe.threads)
    footage = footage_of(recipe, validation=True)
    calibration = "none."
    if biases:
        with torch.no_grad():
            for label, value in biases.items():
                model.head.classify.bias[LABELS.index(label)] += value
        metrics = measure(model, ValidationWindows(footage, recipe))
        added = ", ".join(f"{value:+g} on `{label}`" for label, value in biases.items())
        calibration = f"last bias: {added}. All figures include it; docs/camera-events.md says how it was chosen."
    else:
        metrics = _read(run / METRICS_FILE)
    real = _read(figures) if figures is not None else None
    measured = {
        "made_balanced_accuracy": metrics["balanced_accuracy"],
        "made_false_alarms": metrics["false_alarms"],
    }
    if real is not None:
        for part in ("all", "tuning", "held-out"):
            for name in ("balanced_accuracy", "false_alarms"):
                measured[f"real_{part.replace('-', '_')}_{name}"] = real[part][name]
    fields = {
        "name": recipe.name,
        "version": recipe.version,
        "labels": LABELS,
        "height": recipe.model.height,
        "width": recipe.model.width,
        "resize": "stretch",
        "fps": recipe.fps,
        "frames_per_token": recipe.model.frames_per_token,
        "tokens": recipe.model.tokens,
        "metrics": {name: round(float(value), 5) for name, value in measured.items()},
    }
    card = model_card(recipe, LABELS, metrics, real, calibration)
    golden = golden_window(footage, model, frames_per_token=recipe.model.frames_per_token)
    return export_bundle(model, fields=fields, golden=golden, card=card, path=path)


def golden_window(footage: Footage, model: FactorisedViViT, *, frames_per_token: int) -> np.ndarray[Any, Any]:
    """A window (T, t, H, W, 3) in which the camera moves: of these the one that the model is least sure of.

    Where probabilities are near 0 or 1, wrong numbers would go unnoticed.
    """
    spec = footage.spec
    found = np.argwhere(footage.labels == LABELS.index(GOLDEN_LABEL))[:24]
    if not len(found):
        raise RunError(f"no made window is {GOLDEN_LABEL!r}; raise data.validation_clips={spec.clips}")
    best, least = None, np.inf
    with torch.inference_mode():
        for clip, i in found:
            start = spec.offsets[i]
            window = footage.frames[clip, start : start + spec.window].reshape(
                -1, frames_per_token, *footage.frames.shape[2:]
            )
            sure = float(model(torch.from_numpy(np.array(window))[None]).softmax(dim=-1).max())
            if sure < least:
                best, least = np.array(window), sure
    assert best is not None
    return best


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); finish the run, or measure again") from error
    if not isinstance(result, dict):
        raise RunError(f"{path}: one JSON object expected, this is {type(result).__name__}")
    return result

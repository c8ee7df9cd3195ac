"""Export a run as a bundle: choose the golden window, apply biases, write the model card and the graphs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engines.arrays import U8
from engines.bundle import DEFAULT_THRESHOLD, Bundle
from training.errors import RunError
from training.export.camera_events_card import camera_events_card
from training.export.front_matter import front_matter, hyperparameters
from training.export.golden import CANDIDATES, rank_golden_windows, render_windows
from training.export.model_card import CardContent, model_card
from training.export.onnx import export_bundle
from training.fit.bundle_limits import check_exportable, spec_fields
from training.fit.run_folder import METRICS_FILE, NOTES_FILE, load_run, read_json, run_labels, thresholds_of
from training.fit.session import open_session, validate
from training.models import ClipModel
from training.recipe import Recipe

CARDS = {"camera_events": camera_events_card}
"""The functions that write model cards, for the kinds of data that need their own card."""


def export_run(
    run: Path, path: Path, *, figures: Sequence[Path] = (), biases: Mapping[str, float] | None = None
) -> Bundle:
    """Export the best weights of `run` to the bundle at `path`.

    `figures`: JSON of benchmarks on other data (camera-events has two), for the card and the spec. `biases`, by
    label, are added to the head's last bias; if there are none, those that the benchmark chose. Raises `RunError` for a
    label that the model does not have.
    """
    recipe, model = load_run(run)
    labels = run_labels(run, recipe)
    check_exportable(recipe, labels)
    torch.set_num_threads(recipe.threads)
    if figures and not recipe.data.has_benchmark:
        raise RunError(f"--figures {figures[0]}: only for camera-events; other cards contain the run's own figures")
    benchmark = {name: value for file in figures for name, value in read_json(file).items()} or None
    source = "" if biases else " They were chosen on the benchmark's tuning half alone."
    if benchmark is not None and "held-out" not in benchmark:
        raise RunError(f"--figures {figures[0]}: holds only the figures of --live; give those without --live, too")
    biases = biases_by_label(biases or (benchmark or {}).get("biases", {}), labels)
    calibration, metrics = "none.", _read_metrics(run)
    if biases:
        bias = last_bias(model, len(labels))
        with torch.no_grad():
            for label, value in biases.items():
                bias[labels.index(label)] += value
        metrics = validate(open_session(recipe, model), model)
        added = ", ".join(f"{value:+g} on `{label}`" for label, value in biases.items())
        calibration = f"added to the biases of the last layer: {added}.{source} All figures include them."
    content = CardContent(
        recipe=recipe,
        labels=labels,
        metrics=metrics,
        benchmark=benchmark,
        calibration=calibration,
        notes=read_json(run / NOTES_FILE) if (run / NOTES_FILE).is_file() else [],
    )
    spec_metrics = recipe.data.spec_metrics(metrics, benchmark)
    head = front_matter(
        name=recipe.name,
        licence=recipe.licence,
        datasets=recipe.data.dataset_names(),
        data=recipe.data.card_text(),
        figures=spec_metrics,
    )
    card = head + CARDS.get(recipe.data.kind, model_card)(content) + hyperparameters(recipe)
    thresholds = thresholds_of(metrics) if recipe.activation == "sigmoid" else {}
    limits = None
    if recipe.activation == "sigmoid":
        limits = np.array([thresholds.get(label, DEFAULT_THRESHOLD) for label in labels], np.float32)
    golden, *spare = rank_golden_windows(model, islice(_golden_candidates(recipe), CANDIDATES), limits)
    fields = spec_fields(recipe, labels, spec_metrics, thresholds)
    return export_bundle(model, fields=fields, golden=golden, spare=spare, card=card, path=path)


def biases_by_label(biases: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Return `biases` by the model's labels, whose accents may be in another form (NFC, NFD)."""
    own = {unicodedata.normalize("NFC", label): label for label in labels}
    named = {unicodedata.normalize("NFC", name): value for name, value in biases.items()}
    if unknown := set(named) - set(own):
        raise RunError(f"bias for {min(unknown)!r}: no such label; there are {', '.join(labels)}")
    return {own[name]: value for name, value in named.items()}


def last_bias(model: ClipModel, labels: int) -> torch.Tensor:
    """Return the bias of the layer that computes the logits. Raises `RunError` where there is none."""
    layers = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear) and layer.out_features == labels]
    if not layers or layers[-1].bias is None:
        raise RunError("--bias: this model's last layer has no bias; export without --bias")
    return layers[-1].bias


def _golden_candidates(recipe: Recipe) -> Iterator[U8]:
    """Yield candidates for the golden window: rendered ones, unless the recipe's own clips may be published."""
    if recipe.golden == "validation" or recipe.data.synthetic:
        data = recipe.data.open(recipe.shape, seed=recipe.seed, stretch=recipe.windows.fit == "stretch")
        return data.golden_candidates(recipe.shape, recipe.windows)
    return render_windows(recipe.shape)


def _read_metrics(run: Path) -> dict[str, Any]:
    result = read_json(run / METRICS_FILE)
    if not isinstance(result, dict):
        raise RunError(f"{run / METRICS_FILE}: one JSON object expected, this is {type(result).__name__}")
    return result

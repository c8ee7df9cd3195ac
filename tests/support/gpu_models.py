"""Make bundles with random weights of the six architectures that the GPU tests measure, in full size or small."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.model_kinds import parse_recipe, random_windows

from engines.bundle import SPEC_FILE, Bundle, load_bundle
from engines.graphs.quantise import quantise_bundle
from training.export.onnx import export_bundle
from training.models import ClipModel

# ViViT-B/16x2, 32 frames, in the four variants of its paper (Arnab et al. 2021, table 2).
_VIVIT = {"kind": "vivit", "size": "B", "height": 224, "width": 224, "frames_per_chunk": 2, "chunks": 16}
_SMALL = {"dim": 64, "heads": 2, "layers": 2, "height": 32, "width": 32, "chunks": 4}
MODELS: dict[str, dict[str, Any]] = {
    "vivit-encoder": {**_VIVIT, "variant": "factorised_encoder"},
    "hybrid-densenet121": {
        "kind": "hybrid", "backbone": "densenet121", "height": 128, "width": 128, "frames_per_chunk": 1, "chunks": 20,
    },
    "conv-transformer": {
        "kind": "conv_transformer", "height": 224, "width": 224, "frames_per_chunk": 1, "chunks": 16,
    },
    "vivit-joint": {**_VIVIT, "variant": "joint"},
    "vivit-self": {**_VIVIT, "variant": "factorised_self"},
    "vivit-dot": {**_VIVIT, "variant": "factorised_dot"},
}  # fmt: skip
"""Settings by name; the model with a performance goal comes first."""
FPS = {"hybrid-densenet121": 10.0}
DEFAULT_FPS = 12.5
LABELS = 400
CALIBRATION_WINDOWS = 2


def model_settings(name: str, *, small: bool = False) -> dict[str, Any]:
    """Return the settings of the model's recipe; `small` has layers that a CPU runs in a second."""
    settings = MODELS[name]
    if not small:
        return settings
    smaller = {"height": 64, "width": 64, "chunks": 4}
    if settings["kind"] == "vivit":
        return {**settings, **_SMALL}
    return (
        {**settings, **smaller, "widths": [16, 32], "blocks": [1, 1]}
        if name == "conv-transformer"
        else {**settings, **smaller}
    )


def random_weights(name: str, *, small: bool = False) -> ClipModel:
    """Build a model with weights away from their initial values, so that every part of the network has an effect."""
    settings = model_settings(name, small=small)
    torch.manual_seed(7)
    model = parse_recipe(settings).build(labels=8 if small else LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.std().nan_to_num(0.0).clamp(0.02, 1.0))
    norms = [part for part in model.modules() if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    if norms:  # with momentum 1 they use the statistics of these windows; otherwise a CNN's output is almost zero
        for part in norms:
            part.momentum = 1.0
        with torch.no_grad():
            model.train()(random_windows(settings, count=2))
    return model.eval()


def exact_bundle(path: Path, name: str, *, small: bool = False) -> Bundle:
    """Export the bundle of a model, without INT8 graphs."""
    settings = model_settings(name, small=small)
    recipe = parse_recipe(settings)
    model = random_weights(name, small=small)
    fields = {
        "name": name,
        "version": "0",
        "labels": tuple(f"label-{i}" for i in range(8 if small else LABELS)),
        "fps": FPS.get(name, DEFAULT_FPS),
        **{key: getattr(recipe, key) for key in ("height", "width", "frames_per_chunk", "chunks")},
    }
    golden = random_windows(settings, count=1, seed=2).numpy()[0]
    return export_bundle(model, fields=fields, golden=golden, card=f"# {name}\n", path=path)


def gpu_bundle(folder: Path, name: str, *, small: bool = False) -> Bundle:
    """Return the bundle in `folder`, with INT8 graphs beside the exact ones; make it if it is not there yet."""
    path = folder / name
    if (path / SPEC_FILE).is_file():
        return load_bundle(path)
    exact = folder / ".exact" / name
    bundle = exact_bundle(exact, name, small=small)
    frames = random_windows(model_settings(name, small=small), count=1 + CALIBRATION_WINDOWS, seed=2).numpy()
    # Random weights lose more in INT8 than trained ones. Quantise all nodes, for speed; the golden clip is the test.
    made = quantise_bundle(bundle, np.ascontiguousarray(frames), path, max_error=math.inf, clip=False)
    with contextlib.suppress(OSError):
        for file in exact.iterdir():
            file.unlink()
        exact.rmdir()
        exact.parent.rmdir()
    return made

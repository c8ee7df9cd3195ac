"""Make bundles of ViViT's factorised encoder with random weights: real graphs and PyTorch numbers without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.bundle import Bundle
from training.export.onnx import export_bundle
from training.models.compact_vivit import FactorisedViViT

TINY: dict[str, Any] = {
    "height": 32, "width": 32, "frames_per_chunk": 2, "chunks": 4, "patch": 8, "stem": ((4, 16),),
    "dim": 64, "heads": 2, "spatial_layers": 2, "temporal_layers": 2,
}  # fmt: skip
BASE: dict[str, Any] = {
    # ViViT-B/16x2, 32 frames (Arnab et al. 2021, table 2)
    "height": 224, "width": 224, "frames_per_chunk": 2, "chunks": 16, "patch": 16, "stem": (),
    "dim": 768, "heads": 12, "spatial_layers": 12, "temporal_layers": 4,
}  # fmt: skip


def random_vivit(settings: dict[str, Any], *, labels: int = 5) -> FactorisedViViT:
    """Build a model with weights away from their initial values, so that every part of the network has an effect."""
    torch.manual_seed(7)
    model = FactorisedViViT(labels=labels, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def make_vivit_bundle(path: Path, settings: dict[str, Any], *, labels: int = 5) -> tuple[FactorisedViViT, Bundle]:
    """Build a random model and write its bundle to `path`; return both."""
    model = random_vivit(settings, labels=labels)
    size = (settings["chunks"], settings["frames_per_chunk"], settings["height"], settings["width"], 3)
    fields = {
        "name": path.name,
        "version": "0",
        "labels": tuple(f"label-{i}" for i in range(labels)),
        "fps": 12.5,
        **{name: settings[name] for name in ("height", "width", "frames_per_chunk", "chunks")},
    }
    golden = np.random.default_rng(2).integers(0, 256, size, np.uint8)
    return model, export_bundle(model, fields=fields, golden=golden, card=f"# {path.name}\n", path=path)


def pytorch_probabilities(model: FactorisedViViT, windows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Compute (N, K) probabilities of whole windows (N, T, t, H, W, 3) uint8 with PyTorch."""
    with torch.inference_mode():
        return model(torch.from_numpy(windows)).softmax(-1).numpy()

"""Build a small model of every kind, and random windows for it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter

from training.models import ClipModel, ModelRecipe

SIZE = {"height": 32, "width": 48, "chunks": 3}
VIVIT = {"kind": "vivit", "dim": 32, "heads": 2, "layers": 2, "frames_per_chunk": 2, **SIZE}
BACKBONE = {"backbone": "mobilenetv3_small_050", "frames_per_chunk": 1, **SIZE}

KINDS: dict[str, dict[str, Any]] = {
    "vivit-joint": {**VIVIT, "variant": "joint"},
    "vivit-encoder": {**VIVIT, "variant": "factorised_encoder", "temporal_layers": 2},
    "vivit-self": {**VIVIT, "variant": "factorised_self"},
    "vivit-dot": {**VIVIT, "variant": "factorised_dot"},
    "vivit-grey": {**VIVIT, "variant": "joint", "pool": "mean", "input": "rgb+difference", "channels": 1},
    "vivit-uniform": {**VIVIT, "embedding": "uniform"},
    "vivit-small-stem": {
        "kind": "vivit_factorised", "frames_per_chunk": 2, "stem": [[4, 8]], "dim": 16, "heads": 2,
        "spatial_layers": 2, "temporal_layers": 2, "changes": True, **SIZE,
    },
    "hybrid": {"kind": "hybrid", "dim": 32, "heads": 2, "layers": 1, **BACKBONE},
    "hybrid-published": {"kind": "hybrid", "head": "published", **BACKBONE},
    "hybrid-motion": {
        "kind": "hybrid", "dim": 32, "heads": 2, "layers": 1, **BACKBONE,
        "frames_per_chunk": 2, "input": "rgb+difference", "fusion": "features",
    },
    "conv": {"kind": "conv_transformer", "widths": [16, 32], "blocks": [1, 1], "layers": 2, **SIZE},
    "keypoint": {
        "kind": "keypoint", "frames_per_chunk": 2, "stage_channels": [8, 8, 8, 8], "points": 2, "described_channels": 4,
        "dim": 16, "heads": 2, **SIZE,
    },
    "pose": {"kind": "pose", "multiplier": 0.25, "dim": 16, "members": 2, "height": 64, "width": 96, "chunks": 3},
    "motion": {"kind": "motion", "frames_per_chunk": 3, "iterations": 1, "height": 32, "width": 64, "chunks": 3},
    "attentive": {"kind": "attentive", "backbone": "mobilenetv3_small_050", "dim": 16, "pooled_channels": 8, **SIZE},
}  # fmt: skip


def parse_recipe(settings: dict[str, Any]) -> ModelRecipe:
    """Parse a recipe's `model` section."""
    return TypeAdapter(ModelRecipe).validate_python(settings)


def random_model(settings: dict[str, Any], *, labels: int = 5) -> ClipModel:
    """Build the model and move its weights away from their initial values, so that every part matters."""
    torch.manual_seed(3)
    model = parse_recipe(settings).build(labels=labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.std(correction=0).clamp(0.02, 1.0))
        # Batch norms adopt the statistics of one batch; otherwise the output of so small a CNN is nearly zero.
        for part in model.modules():
            if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                part.momentum = 1.0
        model.train()(random_windows(settings, count=4))
    return model.eval()


def random_windows(settings: dict[str, Any], *, count: int = 2, seed: int = 1) -> torch.Tensor:
    """Return random windows (count, T, t, H, W, 3) uint8."""
    recipe = parse_recipe(settings)
    shape = (count, recipe.chunks, recipe.frames_per_chunk, recipe.height // 8, recipe.width // 8, 3)
    generator = torch.Generator().manual_seed(seed)
    # Blocks of 8 x 8 pixels: a CNN averages single-pixel noise to the same grey.
    blocks = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return blocks.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)

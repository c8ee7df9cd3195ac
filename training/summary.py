"""What a recipe builds, before anything is trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from training.recipe import Recipe
from training.train import build_model


def summarise(recipe: Recipe) -> dict[str, Any]:
    """Parameters, fp32 megabytes and the window of the recipe's model."""
    model = build_model(recipe.model_copy(update={"start_from": None}))
    m = recipe.model
    encoder, head = _count(model.encoder), _count(model.head)
    return {
        "name": recipe.name,
        "encoder_parameters": encoder,
        "head_parameters": head,
        "megabytes_fp32": round((encoder + head) * 4 / 1e6, 3),
        "patches": model.encoder.patches,
        "input": [m.frames_per_token, m.height, m.width, 3],
        "feature": [m.dim],
        "window_s": m.tokens * m.frames_per_token / recipe.fps,
        "hop_s": m.frames_per_token / recipe.fps,
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""Parameter groups, how fast each learns when, what is frozen, and the average of weights over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from training.recipe import OptimiserRecipe

Pace = Callable[[int], float]


def make_optimiser(module: nn.Module, backbone: Iterable[nn.Parameter], recipe: OptimiserRecipe) -> dict[str, Any]:
    """AdamW over all of `module`, its schedule, as Lightning takes them.

    Biases, norms and positions are not decayed. `backbone` stands still for `frozen_steps`, then warms up to
    `backbone_rate` of the others' rate.
    """
    apart = recipe.frozen_steps > 0 or recipe.backbone_rate != 1
    slow = {id(parameter) for parameter in backbone} if apart else set()
    groups: list[dict[str, Any]] = []
    paces: list[Pace] = []
    for is_backbone in (False, True):
        named = [(n, p) for n, p in module.named_parameters() if (id(p) in slow) == is_backbone]
        decayed = [p for name, p in named if p.ndim > 1 and "position" not in name]
        others = [p for name, p in named if not (p.ndim > 1 and "position" not in name)]
        for parameters, decay in ((decayed, recipe.weight_decay), (others, 0.0)):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay})
                paces.append(_thawing(recipe) if is_backbone else _pace(recipe))
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, paces)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _pace(recipe: OptimiserRecipe) -> Pace:
    """Linear warm-up, then a cosine to zero."""

    def pace(step: int) -> float:
        if step < recipe.warmup_steps:
            return (step + 1) / recipe.warmup_steps
        return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup_steps) / max(recipe.steps - recipe.warmup_steps, 1)))

    return pace


def _thawing(recipe: OptimiserRecipe) -> Pace:
    whole = _pace(recipe)

    def pace(step: int) -> float:
        since = step - recipe.frozen_steps
        if since < 0:
            return 0.0
        warm = min((since + 1) / recipe.warmup_steps, 1.0) if recipe.frozen_steps and recipe.warmup_steps else 1.0
        return recipe.backbone_rate * warm * whole(step)

    return pace


def whole_parts(model: nn.Module, backbone: Iterable[nn.Parameter]) -> list[nn.Module]:
    """The largest modules all of whose weights are the backbone's: frozen, nothing is dropped in them."""
    parts = {id(parameter) for parameter in backbone}
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        own = list(module.parameters())
        if own and all(id(parameter) in parts for parameter in own):
            found.append(module)
        else:
            for child in module.children():
                walk(child)

    walk(model)
    return found


def backbone_norms(model: nn.Module, backbone: Iterable[nn.Parameter]) -> list[nn.Module]:
    """Norms of the backbone that keep running statistics: frozen with it, they must not follow other pictures."""
    parts = {id(parameter) for parameter in backbone}
    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        and any(id(parameter) in parts for parameter in module.parameters(recurse=False))
    ]


def new_average(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """An exponential moving average of `model`'s weights; its norms' statistics are the model's own."""
    follow = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=follow, use_buffers=False)
    for parameter in average.parameters():
        parameter.requires_grad_(False)
    return average

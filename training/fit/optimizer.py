"""The optimizer: parameter groups, learning rate schedules, the frozen backbone, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from training.fit.muon import Muon
from training.recipe import OptimiserRecipe

Schedule = Callable[[int], float]
"""Maps a step to a factor of the learning rate."""
MIN_MUON_SIZE = 64
"""Rows and columns of the smallest matrix that Muon trains. Smaller ones are the layers that give the predictions."""


def make_optimiser(module: nn.Module, backbone: Iterable[nn.Parameter], recipe: OptimiserRecipe) -> dict[str, Any]:
    """Return AdamW, Muon or Adam over all parameters of `module`, with its schedule, in Lightning's format.

    Biases, norms and position embeddings have no weight decay. `backbone` is frozen for `frozen_steps`. After these
    its rate rises to `backbone_rate` of the other parameters' rate.
    """
    separate = recipe.frozen_steps > 0 or recipe.backbone_rate != 1
    backbone_ids = {id(parameter) for parameter in backbone} if separate else set()
    groups: list[dict[str, Any]] = []
    schedules: list[Schedule] = []
    for is_backbone in (False, True):
        named = [(n, p) for n, p in module.named_parameters() if (id(p) in backbone_ids) == is_backbone]
        decayed = [p for name, p in named if p.ndim > 1 and "position" not in name]
        others = [p for name, p in named if not (p.ndim > 1 and "position" not in name)]
        hidden = [p for p in decayed if recipe.kind == "muon" and p.ndim == 2 and min(p.shape) >= MIN_MUON_SIZE]
        hidden_ids = {id(p) for p in hidden}
        decayed = [p for p in decayed if id(p) not in hidden_ids]
        for parameters, options in (
            (hidden, {"weight_decay": recipe.weight_decay, "orthogonal": True}),
            (decayed, {"weight_decay": recipe.weight_decay}),
            (others, {"weight_decay": 0.0}),
        ):
            if parameters:
                groups.append({"params": parameters, **options})
                schedules.append(_backbone_schedule(recipe) if is_backbone else _schedule(recipe))
    optimiser: torch.optim.Optimizer
    if recipe.kind == "adam":
        optimiser = torch.optim.Adam(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-7)  # as in Keras
    elif recipe.kind == "muon":
        optimiser = Muon(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), momentum=0.95)
    else:
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, schedules)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _schedule(recipe: OptimiserRecipe) -> Schedule:
    """Return a linear warm-up followed by a cosine decay to zero, or by a constant rate."""

    def factor(step: int) -> float:
        if step < recipe.warmup_steps:
            return (step + 1) / recipe.warmup_steps
        if recipe.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup_steps) / max(recipe.steps - recipe.warmup_steps, 1)))

    return factor


def _backbone_schedule(recipe: OptimiserRecipe) -> Schedule:
    """Return 0 for the frozen steps, then a second warm-up to `backbone_rate` of `_schedule`."""
    full = _schedule(recipe)

    def factor(step: int) -> float:
        unfrozen = step - recipe.frozen_steps
        if unfrozen < 0:
            return 0.0
        warmup = min((unfrozen + 1) / recipe.warmup_steps, 1.0) if recipe.frozen_steps and recipe.warmup_steps else 1.0
        return recipe.backbone_rate * warmup * full(step)

    return factor


def backbone_modules(model: nn.Module, backbone: Iterable[nn.Parameter]) -> list[nn.Module]:
    """Return the largest modules whose weights all belong to `backbone`; while it is frozen, they use no dropout."""
    backbone_ids = {id(parameter) for parameter in backbone}
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        own = list(module.parameters())
        if own and all(id(parameter) in backbone_ids for parameter in own):
            found.append(module)
        else:
            for child in module.children():
                walk(child)

    walk(model)
    return found


def backbone_norms(model: nn.Module, backbone: Iterable[nn.Parameter]) -> list[nn.Module]:
    """Return the backbone's norms that keep running statistics; these stay as they are while the backbone is frozen."""
    backbone_ids = {id(parameter) for parameter in backbone}
    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        and any(id(parameter) in backbone_ids for parameter in module.parameters(recurse=False))
    ]


def new_ema(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """Return an exponential moving average of `model`'s weights. Statistics of norms are copied, not averaged."""
    update = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=update, use_buffers=False)
    for parameter in ema.parameters():
        parameter.requires_grad_(False)
    return ema

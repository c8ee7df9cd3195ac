"""Parameters and operations of a model, counted before it has any weights.

The convention is that of the papers, ViViT's table 2 among them: one multiply-add is one FLOP, and what is counted is
convolutions, linear layers and the two products of attention; norms, softmax and activations are left out (they are
under 1% of a ViViT). `whole` counts every token of every layer, as publications do. What runs here is less where a
stack ends in a class token, since its last layer computes only that (`training.models.layers.Layer`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.models.base import ClipModel
from training.models.layers import full_last_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """Of one model; FLOPs are for one chunk, one window's head, and a whole window chunk by chunk."""

    encoder_parameters: int
    head_parameters: int
    encoder_flops: int
    head_flops: int
    chunks: int
    feature: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """All of the model's."""
        return self.encoder_parameters + self.head_parameters

    @property
    def window_flops(self) -> int:
        """Every chunk encoded once, and the head."""
        return self.encoder_flops * self.chunks + self.head_flops


def compute_cost(
    build: Callable[[], ClipModel], *, chunks: int, frames_per_chunk: int, height: int, width: int, whole: bool
) -> ModelCost:
    """What `build()` has and does. It is built on torch's meta device: no memory is taken, nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        model = build().eval()
        with full_last_layers(model) if whole else nullcontext():
            frames = torch.empty(1, frames_per_chunk, height, width, 3, dtype=torch.uint8)
            feature, encoder = _run(model.encoder, frames)
            window = torch.empty(1, chunks, *feature.shape[1:])
            _, head = _run(model.head, window)
    return ModelCost(
        encoder_parameters=_parameters(model.encoder),
        head_parameters=_parameters(model.head),
        encoder_flops=encoder,
        head_flops=head,
        chunks=chunks,
        feature=tuple(feature.shape[1:]),
    )


def _run(module: nn.Module, given: Tensor) -> tuple[Tensor, int]:
    """What the module gives, and its multiply-adds; torch counts each as two operations."""
    with FlopCounterMode(display=False) as counter:
        out: Tensor = module(given)
    return out, int(counter.get_total_flops()) // 2


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""Count a model's parameters and operations without allocating its weights.

FLOPs are counted as in the papers, such as ViViT's table 2: one multiply-add is one FLOP. Convolutions, linear
layers and the two matrix products of attention count. Norms, softmax and activations do not; they are under 1% of a
ViViT. With `whole`, every layer computes every token, as publications count. Serving computes less where a stack ends
in a class token, since its last layer computes that token alone (`training.models.layers.Layer`).
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
    """The cost of one model. FLOPs: `encoder_flops` for one chunk, `head_flops` for one window's features."""

    encoder_parameters: int
    head_parameters: int
    encoder_flops: int
    head_flops: int
    chunks: int
    feature: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Count the parameters of encoder and head."""
        return self.encoder_parameters + self.head_parameters

    @property
    def window_flops(self) -> int:
        """Count the FLOPs of a whole window: every chunk encoded once, then the head."""
        return self.encoder_flops * self.chunks + self.head_flops


def compute_cost(
    build: Callable[[], ClipModel], *, chunks: int, frames_per_chunk: int, height: int, width: int, whole: bool
) -> ModelCost:
    """Build the model on torch's meta device, which allocates and computes nothing, and count its cost."""
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
    """Run the module; return its output and its multiply-adds. torch counts a multiply-add as two operations."""
    with FlopCounterMode(display=False) as counter:
        out: Tensor = module(given)
    return out, int(counter.get_total_flops()) // 2


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

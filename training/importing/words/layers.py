"""Implement the parts of text and image towers that no other imported network has.

Shapes: N frames, windows or texts, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import Attention, Layer


class QuickGelu(nn.Module):
    """Approximate GELU as CLIP does: x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every value."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "quick_gelu": QuickGelu,
    "gelu": nn.GELU,
    "gelu_python": nn.GELU,
    "gelu_new": lambda: nn.GELU(approximate="tanh"),
    "gelu_fast": lambda: nn.GELU(approximate="tanh"),
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
}


def new_layer(attention: Attention, *, dim: int, hidden: int, eps: float, activation: str) -> Layer:
    """Create a pre-norm layer with any activation."""
    layer = Layer(attention, dim=dim, mlp_ratio=hidden / dim, eps=eps)
    layer.mlp = new_mlp(dim=dim, hidden=hidden, activation=activation)
    return layer


def new_mlp(*, dim: int, hidden: int, activation: str) -> nn.Sequential:
    """Create a two-layer MLP with any activation."""
    return nn.Sequential(nn.Linear(dim, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, dim))


class CosineClassifier(nn.Module):
    """Compare embeddings (N, D) with K texts: logits (N, K) = scale x cosine + bias.

    `compare` holds the texts' normalised embeddings, times the scale, and the bias.
    """

    def __init__(self, *, dim: int, labels: int) -> None:
        super().__init__()
        self.compare = nn.Linear(dim, labels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and compare."""
        logits: Tensor = self.compare(F.normalize(x, dim=-1))
        return logits

"""Implement the parts of text and image towers that no other imported network has.

Shapes: N frames, windows or texts, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import Attention, Layer, split_heads


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


class CappedCausalAttention(Attention):
    """Self-attention of each token to those before it, with scores limited to -cap..cap by cap tanh(score / cap)."""

    def __init__(self, *, dim: int, heads: int, cap: float) -> None:
        super().__init__(dim=dim, heads=heads)
        self.cap = cap

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: (N, S, D) -> (N, S, D); `mask` (S, S) is True where a token may attend to another."""
        q = split_heads(self.q(x) * (self.scale / self.cap), self.heads)
        k, v = split_heads(self.k(x), self.heads), split_heads(self.v(x), self.heads)
        scores = (q @ k.transpose(-2, -1)).tanh() * self.cap
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out: Tensor = self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
        return out


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

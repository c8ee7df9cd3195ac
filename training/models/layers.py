"""Implement the transformer that most models share: attention, a pre-norm layer, stacks of layers.

Shapes: N windows or chunks, S tokens in a sequence, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pool = Literal["class", "mean"]
Gelu = Literal["none", "tanh"]
"""GELU's approximation in PyTorch's terms: `none` is exact, `tanh` approximates the error function."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the width into heads: (N, S, D) -> (N, heads, S, D / heads)."""
    n, s, d = x.shape
    return x.reshape(n, s, heads, d // heads).transpose(1, 2)


_MAX_PLAIN_TOKENS = 256
"""Up to this many tokens, a CPU trains with plain attention: its gradient costs a third of the fused form's."""


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, drop: float = 0.0) -> Tensor:
    """Compute softmax(q k') v; `mask` is True where a key counts, `drop` is the attention dropout.

    The caller scales q. Scaling after the product could overflow in half precision.
    """
    is_short = q.shape[-2] <= _MAX_PLAIN_TOKENS and q.device.type == "cpu"
    if drop or (q.requires_grad and not is_short and not torch.compiler.is_exporting()):
        # The fused form never stores the S x S matrix of a long sequence.
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, scale=1.0)
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016), drawn per sample; the identity outside training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        """Set the residual branch (N, ...) of some samples to zero and scale up the others."""
        if not self.training or self.share == 0:
            return branch
        kept = 1 - self.share
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        return branch * (torch.rand(shape, device=branch.device) < kept) / kept


def new_mlp(*, dim: int, hidden: int, gelu: Gelu = "none") -> nn.Sequential:
    """Create a two-layer MLP with GELU: (..., D) -> (..., D)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate=gelu), nn.Linear(hidden, dim))


class Attention(nn.Module):
    """Multi-head self-attention; with `class_only`, the first token is the only query."""

    def __init__(self, *, dim: int, heads: int, class_only: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim}: must be a multiple of heads={heads}")
        self.heads, self.class_only, self.dropout = heads, class_only, dropout
        self.scale = float((dim // heads) ** -0.5)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: (N, S, D) -> (N, S, D) or, with `class_only`, (N, 1, D); `mask` (N, 1, 1, S) marks valid tokens."""
        q = split_heads(self.q(x[:, :1] if self.class_only else x) * self.scale, self.heads)
        k, v = split_heads(self.k(x), self.heads), split_heads(self.v(x), self.heads)
        mixed = attend(q, k, v, mask=mask, drop=self.dropout if self.training else 0.0)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """A pre-norm transformer layer with stochastic depth, around any attention.

    If the attention returns the first token alone (`class_only`), so does the layer. In a stack's last layer this is
    exact, because later steps read only that token, and it saves most of the layer.
    """

    def __init__(
        self,
        attention: nn.Module,
        *,
        dim: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        gelu: Gelu = "none",
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attention = attention
        self.mlp = new_mlp(dim=dim, hidden=round(dim * mlp_ratio), gelu=gelu)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor, *given: Tensor | None) -> Tensor:
        """Apply attention and MLP: (N, S, D) -> (N, S, D) or (N, 1, D); (N, T, P, D) keeps its shape.

        `given`: further arguments of the attention, such as a mask.
        """
        mixed = self.attention(self.norm1(x), *given)
        residual = x if mixed.shape[1] == x.shape[1] else x[:, :1]
        x = residual + self.drop(mixed)
        dropped: Tensor = self.drop(self.mlp(self.norm2(x)))
        return x + dropped


def drop_path_rates(layers: int, drop_path: float) -> list[float]:
    """Return each layer's rate of stochastic depth, rising evenly from 0 to `drop_path`."""
    return [drop_path * i / max(layers - 1, 1) for i in range(layers)]


class Stack(nn.Module):
    """Transformer layers, a norm, and pooling to one vector: the first token, or the mean of all tokens."""

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        layers: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        pool: Pool = "class",
        eps: float = 1e-5,
        gelu: Gelu = "none",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.layers = nn.ModuleList(
            Layer(
                Attention(dim=dim, heads=heads, class_only=pool == "class" and i == layers - 1),
                dim=dim,
                mlp_ratio=mlp_ratio,
                drop_path=drop,
                eps=eps,
                gelu=gelu,
            )
            for i, drop in enumerate(drop_path_rates(layers, drop_path))
        )
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply layers, norm and pooling: (N, S, D) -> (N, D); `mask` as in `Attention`."""
        for layer in self.layers:
            x = layer(x, mask)
        out: Tensor = self.norm(x)
        if self.pool == "class":
            return out[:, 0]
        if mask is None:
            return out.mean(dim=1)
        counts = mask[:, 0, 0, :, None].to(out.dtype)  # (N, S, 1)
        return (out * counts).sum(dim=1) / counts.sum(dim=1)


class ClassStack(Stack):
    """A `Stack` with a class token and learned positions: tokens (N, S, D) -> (N, D)."""

    def __init__(self, *, tokens: int, dim: int, heads: int, layers: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__(dim=dim, heads=heads, layers=layers, mlp_ratio=mlp_ratio, drop_path=drop_path)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, tokens + 1, dim) * 0.02)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Apply the stack; `keep` (S',) gives the positions of the tokens in `x` where some are left out."""
        positions = self.positions[:, 1:] if keep is None else self.positions[:, 1:][:, keep]
        first = (self.class_token + self.positions[:, :1]).expand(x.shape[0], -1, -1)
        return super().forward(torch.cat([first, x + positions], dim=1))


@contextmanager
def full_last_layers(model: nn.Module) -> Iterator[None]:
    """Make every layer compute every token within the context, as publications count operations."""
    changed = [part for part in model.modules() if isinstance(part, Attention) and part.class_only]
    for part in changed:
        part.class_only = False
    try:
        yield
    finally:
        for part in changed:
            part.class_only = True

"""Implement ViViT with factorised dot-product attention (Arnab et al. 2021, section 3.3.4, "model 4").

It has as many parameters as joint attention. In every layer, half of the heads attend among the patches of one chunk
and the other half among the chunks of one patch. One projection combines both.

Shapes: N windows, T chunks, P = h w patches, D width, d = D / heads, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.layers import Layer, attend
from training.models.vivit.window import LayeredHead


class DotProductAttention(nn.Module):
    """Attention (N, T, P, D) -> (N, T, P, D): half of the heads attend over space, half over time."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads or heads < 2:
            raise ValueError(f"heads={heads}: must divide dim={dim} and be at least 2, one for space, one for time")
        self.time_heads = heads // 2  # for an odd number of heads, as in size Ti, space gets one more
        self.space_heads = heads - self.time_heads
        self.scale = float((dim // heads) ** -0.5)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention; the first heads attend over space, the others over time (equation 7)."""
        chunks, patches, dim = x.shape[1:]
        q, k, v = self.q(x) * self.scale, self.k(x), self.v(x)
        cut = dim * self.space_heads // (self.space_heads + self.time_heads)
        space = attend(*(self._in_space(y[..., :cut]) for y in (q, k, v)))
        time = attend(*(self._in_time(y[..., cut:]) for y in (q, k, v)))
        space = space.transpose(1, 2).reshape(-1, chunks, patches, cut)
        time = time.transpose(1, 2).reshape(-1, patches, chunks, dim - cut).transpose(1, 2)
        out: Tensor = self.out(torch.cat([space, time], dim=-1))
        return out

    def _in_space(self, x: Tensor) -> Tensor:
        """Split the heads, with patches as the sequence: (N, T, P, heads d) -> (N T, heads, P, d)."""
        heads, patches = self.space_heads, x.shape[2]
        return x.reshape(-1, patches, heads, x.shape[3] // heads).transpose(1, 2)

    def _in_time(self, x: Tensor) -> Tensor:
        """Split the heads, with chunks as the sequence: (N, T, P, heads d) -> (N P, heads, T, d)."""
        heads, chunks = self.time_heads, x.shape[1]
        return x.transpose(1, 2).reshape(-1, chunks, heads, x.shape[3] // heads).transpose(1, 2)


class FactorisedDotHead(LayeredHead):
    """The head of variant `factorised_dot`; `training.models.vivit.recipe.SIZES` has the paper's sizes."""

    @staticmethod
    def new_layer(*, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> nn.Module:
        """See `LayeredHead`."""
        attention = DotProductAttention(dim=dim, heads=heads)
        return Layer(attention, dim=dim, mlp_ratio=mlp_ratio, drop_path=drop_path, eps=1e-6)

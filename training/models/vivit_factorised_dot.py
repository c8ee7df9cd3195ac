"""ViViT with factorised dot-product attention (Arnab et al. 2021, section 3.3.4, "model 4").

As many parameters as joint attention: of every layer's heads, half attend among the patches of one token, the other
half among the tokens of one patch, and one projection mixes both.

Shapes: N windows, T tokens, P = h w patches, D width, d = D / heads, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from training.models.base import ClipModel
from training.models.images import ImageVit
from training.models.layers import Layer, attend, depths
from training.models.pixels import Reads
from training.models.positions import Positions
from training.models.tubelets import Embedding, Inflation, Tubelets


class DotProductAttention(nn.Module):
    """(N, T, P, D) -> (N, T, P, D): half of the heads look around, half look back and forth."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads or heads < 2:
            raise ValueError(f"heads={heads}: must divide dim={dim} and be at least 2, one for space, one for time")
        self.time_heads = heads // 2  # of an odd number, as size Ti has, space takes one more
        self.space_heads = heads - self.time_heads
        self.scale = float((dim // heads) ** -0.5)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """The first heads are space's, the others time's (equation 7)."""
        tokens, patches, dim = x.shape[1:]
        q, k, v = self.q(x) * self.scale, self.k(x), self.v(x)
        cut = dim * self.space_heads // (self.space_heads + self.time_heads)
        space = attend(*(self._in_space(y[..., :cut]) for y in (q, k, v)))
        time = attend(*(self._in_time(y[..., cut:]) for y in (q, k, v)))
        space = space.transpose(1, 2).reshape(-1, tokens, patches, cut)
        time = time.transpose(1, 2).reshape(-1, patches, tokens, dim - cut).transpose(1, 2)
        out: Tensor = self.out(torch.cat([space, time], dim=-1))
        return out

    def _in_space(self, x: Tensor) -> Tensor:
        """(N, T, P, heads d) -> (N T, heads, P, d)."""
        heads, patches = self.space_heads, x.shape[2]
        return x.reshape(-1, patches, heads, x.shape[3] // heads).transpose(1, 2)

    def _in_time(self, x: Tensor) -> Tensor:
        """(N, T, P, heads d) -> (N P, heads, T, d)."""
        heads, tokens = self.time_heads, x.shape[1]
        return x.transpose(1, 2).reshape(-1, tokens, heads, x.shape[3] // heads).transpose(1, 2)


class Head(nn.Module):
    """The embedded tubelets of one window (N, T, P, D), oldest first -> logits (N, K)."""

    def __init__(
        self,
        *,
        tokens: int,
        grid: tuple[int, int],
        dim: int,
        heads: int,
        layers: int,
        mlp_ratio: float,
        drop_path: float,
        dropout: float,
        labels: int,
    ) -> None:
        super().__init__()
        self.positions = Positions(grid=(tokens, *grid), dim=dim, class_token=False)
        self.layers = nn.ModuleList(
            Layer(DotProductAttention(dim=dim, heads=heads), dim=dim, mlp_ratio=mlp_ratio, drop_path=drop, eps=1e-6)
            for drop in depths(layers, drop_path)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """The mean of all tubelets is classified."""
        _, tokens, patches, dim = features.shape
        x = self.positions(features.flatten(1, 2)).reshape(-1, tokens, patches, dim)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classify(self.dropout(self.norm(x).mean(dim=(1, 2))))
        return logits


class FactorisedDotViViT(ClipModel):
    """Sizes of the paper: see `training.models.vivit.SIZES`."""

    encoder: Tubelets
    head: Head

    def __init__(
        self,
        *,
        labels: int,
        height: int,
        width: int,
        frames_per_token: int,
        tokens: int,
        patch: int = 16,
        dim: int = 768,
        heads: int = 12,
        layers: int = 12,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        embedding: Embedding = "tubelet",
        reads: Reads = "rgb",
        channels: Literal[1, 3] = 3,
    ) -> None:
        super().__init__()
        self.encoder = Tubelets(
            height=height,
            width=width,
            frames=frames_per_token,
            patch=patch,
            dim=dim,
            embedding=embedding,
            reads=reads,
            channels=channels,
        )
        self.head = Head(
            tokens=tokens,
            grid=self.encoder.grid,
            dim=dim,
            heads=heads,
            layers=layers,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            dropout=dropout,
            labels=labels,
        )

    def start_from_image(self, image: ImageVit, inflation: Inflation) -> None:
        """Take an image ViT's weights: every layer's, and its positions repeated for every token."""
        image.give_embedding(self.encoder, inflation)
        image.give_positions(self.head.positions)
        image.give_layers(self.head.layers, self.head.norm)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """All but the classifier: the embedding alone is no backbone."""
        yield from self.encoder.parameters()
        for part in (self.head.positions, self.head.layers, self.head.norm):
            yield from part.parameters()

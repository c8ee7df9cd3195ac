"""ViViT with factorised self-attention (Arnab et al. 2021, section 3.3.3, "model 3").

Each layer attends twice: first among the patches of one token, then among the tokens of one patch. There is no class
token, which would belong to neither; the mean of all tubelets is classified.

Shapes: N windows, T tokens, P = h w patches, D width, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from training.models.base import ClipModel
from training.models.images import ImageVit
from training.models.layers import Attention, DropPath, depths, new_mlp
from training.models.pixels import Reads
from training.models.positions import Positions
from training.models.tubelets import Embedding, Inflation, Tubelets


class FactorisedSelfLayer(nn.Module):
    """Space, then time, then the MLP, each pre-norm with a residual (equations 4 to 6): (N, T, P, D) -> the same."""

    def __init__(self, *, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm_time, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attention = Attention(dim=dim, heads=heads)
        self.time_attention = Attention(dim=dim, heads=heads)
        self.mlp = new_mlp(dim=dim, hidden=round(dim * mlp_ratio))
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Patches of one token are one sequence, tokens of one patch another."""
        _, tokens, patches, dim = x.shape
        inside = self.attention(self.norm1(x).reshape(-1, patches, dim)).reshape(-1, tokens, patches, dim)
        x = x + self.drop(inside)
        along = self.norm_time(x).transpose(1, 2).reshape(-1, tokens, dim)
        along = self.time_attention(along).reshape(-1, patches, tokens, dim).transpose(1, 2)
        x = x + self.drop(along)
        dropped: Tensor = self.drop(self.mlp(self.norm2(x)))
        return x + dropped


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
            FactorisedSelfLayer(dim=dim, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop)
            for drop in depths(layers, drop_path)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """The graph that serving runs once per window."""
        _, tokens, patches, dim = features.shape
        x = self.positions(features.flatten(1, 2)).reshape(-1, tokens, patches, dim)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classify(self.dropout(self.norm(x).mean(dim=(1, 2))))
        return logits


class FactorisedSelfViViT(ClipModel):
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
        """Take an image ViT's weights; attention over time adds nothing at first (section 3.4).

        Its last projection starts at zero and the others do not, or no gradient would ever reach them.
        """
        image.give_embedding(self.encoder, inflation)
        image.give_positions(self.head.positions)
        image.give_layers(self.head.layers, self.head.norm)
        for layer in self.head.layers:
            assert isinstance(layer, FactorisedSelfLayer)
            nn.init.zeros_(layer.time_attention.out.weight)
            nn.init.zeros_(layer.time_attention.out.bias)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """All but the classifier: the embedding alone is no backbone."""
        yield from self.encoder.parameters()
        for part in (self.head.positions, self.head.layers, self.head.norm):
            yield from part.parameters()

"""ViViT with joint space-time attention (Arnab et al. 2021, section 3.3.1, "model 1").

Every tubelet attends to every other, whenever and wherever. What one token's frames say by themselves is their
embedding alone; the transformer is the head.

Shapes: N windows, T tokens, P = h w patches, D width, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from training.models.base import ClipModel
from training.models.images import ImageVit
from training.models.layers import Pool, Stack
from training.models.pixels import Reads
from training.models.positions import Positions
from training.models.tubelets import Embedding, Inflation, Tubelets


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
        pool: Pool,
        drop_path: float,
        dropout: float,
        labels: int,
    ) -> None:
        super().__init__()
        self.positions = Positions(grid=(tokens, *grid), dim=dim, class_token=pool == "class")
        self.stack = Stack(
            dim=dim, heads=heads, layers=layers, mlp_ratio=mlp_ratio, drop_path=drop_path, pool=pool, eps=1e-6
        )
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """All tubelets of the window are one sequence."""
        pooled = self.stack(self.positions(features.flatten(1, 2)))
        logits: Tensor = self.classify(self.dropout(pooled))
        return logits


class JointViViT(ClipModel):
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
        pool: Pool = "class",
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
            pool=pool,
            drop_path=drop_path,
            dropout=dropout,
            labels=labels,
        )

    def start_from_image(self, image: ImageVit, inflation: Inflation) -> None:
        """Take an image ViT's weights: every layer's, and its positions repeated for every token."""
        image.give_embedding(self.encoder, inflation)
        image.give_positions(self.head.positions)
        image.give_stack(self.head.stack)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """All but the classifier: the embedding alone is no backbone."""
        yield from self.encoder.parameters()
        yield from self.head.positions.parameters()
        yield from self.head.stack.parameters()

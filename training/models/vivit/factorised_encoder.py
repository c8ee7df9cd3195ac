"""ViViT's factorised encoder (Arnab et al. 2021, section 3.3.2, "model 2"), as published.

A spatial transformer turns each chunk's frames into one vector, a temporal one reads the vectors of a window: the
split that serving makes. (`vivit_factorised` is the same design for small models, with another stem.)

Shapes: N windows or chunks, T chunks, t frames per chunk, P = h w patches, D width, K labels.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.base import ClipModel
from training.models.image_backbones import ImageVit
from training.models.layers import Pool, Stack
from training.models.positions import Positions
from training.models.vivit.tubelets import Inflation, Tubelets


class SpatialTransformer(nn.Module):
    """One chunk's frames (N, t, H, W, 3) uint8 RGB -> feature (N, D)."""

    def __init__(self, *, tubelets: Tubelets, stack: Stack, dim: int) -> None:
        super().__init__()
        self.tubelets = tubelets
        self.positions = Positions(grid=tubelets.grid, dim=dim, class_token=stack.pool == "class")
        self.stack = stack

    def forward(self, frames: Tensor) -> Tensor:
        """The graph that serving runs once per chunk."""
        feature: Tensor = self.stack(self.positions(self.tubelets(frames)))
        return feature


class TemporalTransformer(nn.Module):
    """The features of one window (N, T, D), oldest first -> logits (N, K)."""

    def __init__(self, *, chunks: int, stack: Stack, dim: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.positions = Positions(grid=(chunks,), dim=dim, class_token=stack.pool == "class")
        self.stack = stack
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """The graph that serving runs once per window."""
        logits: Tensor = self.classify(self.dropout(self.stack(self.positions(features))))
        return logits


class FactorisedEncoderViViT(ClipModel):
    """Sizes of the paper: see `training.models.vivit.recipe.SIZES`; there the temporal transformer has 4 layers."""

    encoder: SpatialTransformer
    head: TemporalTransformer

    def __init__(
        self,
        tubelets: Tubelets,
        *,
        labels: int,
        chunks: int,
        dim: int,
        heads: int,
        layers: int,
        temporal_layers: int,
        mlp_ratio: float,
        pool: Pool,
        drop_path: float,
        dropout: float,
    ) -> None:
        super().__init__()
        spatial, temporal = (
            Stack(dim=dim, heads=heads, layers=count, mlp_ratio=mlp_ratio, drop_path=drop_path, pool=pool, eps=1e-6)
            for count in (layers, temporal_layers)
        )
        self.encoder = SpatialTransformer(tubelets=tubelets, stack=spatial, dim=dim)
        self.head = TemporalTransformer(chunks=chunks, stack=temporal, dim=dim, dropout=dropout, labels=labels)

    def start_from_image(self, image: ImageVit, inflation: Inflation) -> None:
        """The spatial transformer takes an image ViT's weights; the temporal one learns from scratch."""
        image.give_embedding(self.encoder.tubelets, inflation)
        image.give_positions(self.encoder.positions)
        image.give_stack(self.encoder.stack)

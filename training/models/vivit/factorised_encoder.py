"""Implement ViViT's factorised encoder as published (Arnab et al. 2021, section 3.3.2, "model 2").

A spatial transformer turns each chunk's frames into one vector; a temporal transformer reads the vectors of a window.
Serving splits the model in the same way. `training.models.compact_vivit` is the same design for small models.

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
    """Encode one chunk's frames (N, t, H, W, 3) uint8 RGB into a feature (N, D)."""

    def __init__(self, *, tubelets: Tubelets, stack: Stack, dim: int) -> None:
        super().__init__()
        self.tubelets = tubelets
        self.positions = Positions(grid=tubelets.grid, dim=dim, class_token=stack.pool == "class")
        self.stack = stack

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        feature: Tensor = self.stack(self.positions(self.tubelets(frames)))
        return feature


class TemporalTransformer(nn.Module):
    """Classify the features of one window (N, T, D), oldest first, into logits (N, K)."""

    def __init__(self, *, chunks: int, stack: Stack, dim: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.positions = Positions(grid=(chunks,), dim=dim, class_token=stack.pool == "class")
        self.stack = stack
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        logits: Tensor = self.classify(self.dropout(self.stack(self.positions(features))))
        return logits


class FactorisedEncoderViViT(ClipModel):
    """Variant `factorised_encoder`; `SIZES` has the paper's sizes, with 4 layers in the temporal transformer."""

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
        """Copy an image ViT's weights to the spatial transformer; the temporal one keeps its fresh weights."""
        image.copy_embedding(self.encoder.tubelets, inflation)
        image.copy_positions(self.encoder.positions)
        image.copy_stack(self.encoder.stack)

"""Implement ViViT with joint space-time attention (Arnab et al. 2021, section 3.3.1, "model 1").

Every tubelet attends to every other tubelet of the window. Only the tubelet embedding depends on one chunk alone, so
it is the encoder, and the whole transformer is the head.

Shapes: N windows, T chunks, P = h w patches, D width, K labels.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.image_backbones import ImageVit
from training.models.layers import Pool, Stack
from training.models.positions import Positions
from training.models.vivit.window import WindowHead


class JointHead(WindowHead):
    """A transformer over all tubelets of a window; it classifies a class token or the mean of all tubelets."""

    def __init__(
        self,
        *,
        chunks: int,
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
        self.positions = Positions(grid=(chunks, *grid), dim=dim, class_token=pool == "class")
        self.stack = Stack(
            dim=dim, heads=heads, layers=layers, mlp_ratio=mlp_ratio, drop_path=drop_path, pool=pool, eps=1e-6
        )
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        pooled = self.stack(self.positions(features.flatten(1, 2)))
        logits: Tensor = self.classify(self.dropout(pooled))
        return logits

    def start_from_image(self, image: ImageVit) -> None:
        """See `WindowHead`."""
        image.copy_positions(self.positions)
        image.copy_stack(self.stack)

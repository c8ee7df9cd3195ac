"""Define what ViViT variants 1, 3 and 4 share: the tubelet embedding is the encoder, the transformer is the head.

Shapes: N windows, T chunks, P = h w patches, D width, K labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from training.models.base import ClipModel
from training.models.image_backbones import ImageVit
from training.models.layers import drop_path_rates
from training.models.positions import Positions
from training.models.vivit.tubelets import Inflation, Tubelets


class WindowHead(nn.Module, ABC):
    """Classify the embedded tubelets of one window (N, T, P, D), oldest first, into logits (N, K).

    The classifier's attribute is `classify`; all other parts count as backbone.
    """

    @abstractmethod
    def start_from_image(self, image: ImageVit) -> None:
        """Copy an image ViT's layers, and its positions for every chunk. Raises `RecipeError` for other sizes."""


class LayeredHead(WindowHead):
    """Layers that keep chunks and patches as separate axes; the mean of all tubelets is classified."""

    def __init__(
        self,
        *,
        chunks: int,
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
        self.positions = Positions(grid=(chunks, *grid), dim=dim, class_token=False)
        self.layers = nn.ModuleList(
            self.new_layer(dim=dim, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop)
            for drop in drop_path_rates(layers, drop_path)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    @staticmethod
    @abstractmethod
    def new_layer(*, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> nn.Module:
        """Create one layer of the variant: (N, T, P, D) -> (N, T, P, D)."""

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        _, chunks, patches, dim = features.shape
        x = self.positions(features.flatten(1, 2)).reshape(-1, chunks, patches, dim)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classify(self.dropout(self.norm(x).mean(dim=(1, 2))))
        return logits

    def start_from_image(self, image: ImageVit) -> None:
        """See `WindowHead`."""
        image.copy_positions(self.positions)
        image.copy_layers(self.layers, self.norm)


class WindowViViT(ClipModel):
    """ViViT variants 1, 3 and 4, which differ only in the head."""

    encoder: Tubelets
    head: WindowHead

    def __init__(self, tubelets: Tubelets, head: WindowHead) -> None:
        super().__init__()
        self.encoder, self.head = tubelets, head

    def start_from_image(self, image: ImageVit, inflation: Inflation) -> None:
        """Copy an image ViT's patch embedding, positions and layers. Raises `RecipeError` for other sizes."""
        image.copy_embedding(self.encoder, inflation)
        self.head.start_from_image(image)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters but the classifier's: the embedding alone is not a useful backbone."""
        yield from self.encoder.parameters()
        for name, part in self.head.named_children():
            if name != "classify":
                yield from part.parameters()

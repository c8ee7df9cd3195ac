"""Implement ViViT with factorised self-attention (Arnab et al. 2021, section 3.3.3, "model 3").

Each layer attends twice: first among the patches of one chunk, then among the chunks of one patch. There is no class
token, since it would belong to neither; the mean of all tubelets is classified.

Shapes: N windows, T chunks, P = h w patches, D width, K labels.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.image_backbones import ImageVit
from training.models.layers import Attention, DropPath, new_mlp
from training.models.vivit.window import LayeredHead


class FactorisedSelfLayer(nn.Module):
    """A layer (N, T, P, D) -> (N, T, P, D): space, time, MLP, each pre-norm with a residual (equations 4 to 6)."""

    def __init__(self, *, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm_time, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attention = Attention(dim=dim, heads=heads)
        self.time_attention = Attention(dim=dim, heads=heads)
        self.mlp = new_mlp(dim=dim, hidden=round(dim * mlp_ratio))
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the patches of each chunk, then over the chunks of each patch, then apply the MLP."""
        _, chunks, patches, dim = x.shape
        inside = self.attention(self.norm1(x).reshape(-1, patches, dim)).reshape(-1, chunks, patches, dim)
        x = x + self.drop(inside)
        along = self.norm_time(x).transpose(1, 2).reshape(-1, chunks, dim)
        along = self.time_attention(along).reshape(-1, patches, chunks, dim).transpose(1, 2)
        x = x + self.drop(along)
        dropped: Tensor = self.drop(self.mlp(self.norm2(x)))
        return x + dropped


class FactorisedSelfHead(LayeredHead):
    """The head of variant `factorised_self`; `training.models.vivit.recipe.SIZES` has the paper's sizes."""

    @staticmethod
    def new_layer(*, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> nn.Module:
        """See `LayeredHead`."""
        return FactorisedSelfLayer(dim=dim, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path)

    def start_from_image(self, image: ImageVit) -> None:
        """See `WindowHead`; attention over time adds nothing at first (section 3.4).

        Only its last projection starts at zero. If the others did, too, no gradient would ever reach them.
        """
        super().start_from_image(image)
        for layer in self.layers:
            assert isinstance(layer, FactorisedSelfLayer)
            nn.init.zeros_(layer.time_attention.out.weight)
            nn.init.zeros_(layer.time_attention.out.bias)

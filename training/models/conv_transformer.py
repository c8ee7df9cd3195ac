"""Implement a convolutional video transformer: convolutions over space, convolutions and attention over time.

A convolutional network encodes each chunk. Over time, a convolution mixes neighbouring chunks before attention. The
class token has no neighbours, so it bypasses the convolution; its output is classified. The convolution projects the
attention's q, k and v, as CvT does over space (Wu et al. 2021, section 3.2).

Shapes: N windows or chunks, T chunks, t frames per chunk, M images of C channels, D width, K labels.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.models.base import BaseModelRecipe, ClipModel
from training.models.input_pixels import InputKind, PixelInput
from training.models.layers import DropPath, Layer, attend, drop_path_rates, split_heads
from training.models.positions import Positions


class ConvTransformerRecipe(BaseModelRecipe):
    """The recipe keys of `ConvTransformer`."""

    kind: Literal["conv_transformer"] = "conv_transformer"
    frames_per_chunk: int = Field(1, ge=1, le=64)
    widths: tuple[int, ...] = Field((48, 96, 192), min_length=1, max_length=6, description="channels of each stage")
    blocks: tuple[int, ...] = Field((2, 2, 4), min_length=1, max_length=6, description="residual blocks of each stage")
    heads: int = Field(4, ge=1)
    layers: int = Field(3, ge=1, description="layers of the temporal transformer")
    kernel: int = Field(3, ge=1, le=15, description="chunks that the temporal convolution covers; odd")
    mlp_ratio: float = Field(2.0, gt=0)
    drop_path: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1, description="before the classifier")
    input: InputKind = Field("rgb", description="frames, differences of neighbouring frames within a chunk, or both")
    channels: Literal[1, 3] = Field(3, description="1 for grey frames: reads the first of the three channels")

    @model_validator(mode="after")
    def _fits(self) -> ConvTransformerRecipe:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"blocks={list(self.blocks)}: one number for each of widths={list(self.widths)}")
        if self.widths[-1] % self.heads:
            raise ValueError(f"heads={self.heads}: must divide the last of widths={list(self.widths)}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: must be odd, to be centred on a chunk")
        if self.input != "rgb" and self.frames_per_chunk < 2:
            raise ValueError(f"input={self.input}: needs frames_per_chunk of 2 or more")
        return self

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return ConvTransformer(recipe=self, labels=labels)


class ConvNextBlock(nn.Module):
    """A residual block (N, C, h, w): depthwise 5 x 5, then a pointwise MLP, as in ConvNeXt but with batch norms."""

    def __init__(self, *, width: int, drop_path: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 3 * width, 1),
            nn.GELU(),
            nn.Conv2d(3 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        nn.init.zeros_(self.body[-1].weight)  # type: ignore[arg-type]  # a block starts as the identity
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the input; the shape stays the same."""
        dropped: Tensor = self.drop(self.body(x))
        return x + dropped


class ConvTransformerEncoder(nn.Module):
    """Encode one chunk's frames (N, t, H, W, 3) uint8 RGB into a feature (N, D), D the last stage's width.

    The frames of a chunk enter as channels of one image. The first stage works at a quarter of the height and width;
    each further stage halves them.
    """

    def __init__(
        self,
        *,
        frames_per_chunk: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        drop_path: float,
        input_kind: InputKind,
        channels: Literal[1, 3],
    ) -> None:
        super().__init__()
        self.pixels = PixelInput(frames=frames_per_chunk, input_kind=input_kind, channels=channels)
        drops = iter(drop_path_rates(sum(blocks), drop_path))
        stages: list[nn.Module] = []
        before = self.pixels.images * channels
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            size, stride = (7, 4) if index == 0 else (3, 2)
            stages += [nn.Conv2d(before, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width)]
            stages += [ConvNextBlock(width=width, drop_path=next(drops)) for _ in range(count)]
            before = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(before)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        feature: Tensor = self.norm(self.stages(self.pixels(frames).flatten(1, 2)).mean(dim=(2, 3)))
        return feature


class ConvAttention(nn.Module):
    """Attention over time with convolutional projections: (N, 1 + T, D) -> (N, 1 + T, D), or (N, 1, D).

    With `class_only` it computes the class token alone, for the last layer.
    """

    def __init__(self, *, dim: int, heads: int, kernel: int, class_only: bool) -> None:
        super().__init__()
        self.heads, self.class_only = heads, class_only
        self.scale = float((dim // heads) ** -0.5)
        self.near = nn.ModuleList(
            # In the last layer the class token is the only query, and it bypasses the convolution: q needs none.
            nn.Identity() if class_only and name == "q" else nn.Conv1d(dim, dim, kernel, padding="same", groups=dim)
            for name in "qkv"
        )
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens; the class token bypasses the convolutions."""
        first, rest = x[:, :1], x[:, 1:].transpose(1, 2)
        near_q, near_k, near_v = self.near
        k, v = (torch.cat([first, near(rest).transpose(1, 2)], dim=1) for near in (near_k, near_v))
        q = first if self.class_only else torch.cat([first, near_q(rest).transpose(1, 2)], dim=1)
        q, k, v = self.q(q) * self.scale, self.k(k), self.v(v)
        mixed = attend(split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class ConvTransformerHead(nn.Module):
    """Classify the features of one window (N, T, D), oldest first, into logits (N, K)."""

    def __init__(
        self,
        *,
        chunks: int,
        dim: int,
        heads: int,
        layers: int,
        kernel: int,
        mlp_ratio: float,
        drop_path: float,
        dropout: float,
        labels: int,
    ) -> None:
        super().__init__()
        self.positions = Positions(grid=(chunks,), dim=dim, class_token=True)
        self.layers = nn.Sequential(
            *(
                Layer(
                    ConvAttention(dim=dim, heads=heads, kernel=kernel, class_only=index == layers - 1),
                    dim=dim,
                    mlp_ratio=mlp_ratio,
                    drop_path=drop,
                )
                for index, drop in enumerate(drop_path_rates(layers, drop_path))
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        token = self.norm(self.layers(self.positions(features)))[:, 0]
        logits: Tensor = self.classify(self.dropout(token))
        return logits


class ConvTransformer(ClipModel):
    """A convolutional encoder and a temporal transformer; `ConvTransformerRecipe` describes each key."""

    encoder: ConvTransformerEncoder
    head: ConvTransformerHead

    def __init__(self, *, recipe: ConvTransformerRecipe, labels: int) -> None:
        super().__init__()
        self.encoder = ConvTransformerEncoder(
            frames_per_chunk=recipe.frames_per_chunk,
            widths=recipe.widths,
            blocks=recipe.blocks,
            drop_path=recipe.drop_path,
            input_kind=recipe.input,
            channels=recipe.channels,
        )
        self.head = ConvTransformerHead(
            chunks=recipe.chunks,
            dim=recipe.widths[-1],
            heads=recipe.heads,
            layers=recipe.layers,
            kernel=recipe.kernel,
            mlp_ratio=recipe.mlp_ratio,
            drop_path=recipe.drop_path,
            dropout=recipe.dropout,
            labels=labels,
        )

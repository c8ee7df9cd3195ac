"""Implement CNN+Transformer hybrids: a timm backbone encodes each chunk, a small transformer reads the window.

There are two heads. `published` is the head of Keras's example "Video Classification with Transformers": 20 frames,
DenseNet121's 1,024 features, one post-norm layer with one attention head and an MLP of width 4, max pooling; 4,237,321
parameters for 5 classes. `strong` is this project's own: it normalises the features and projects them to a smaller
width, adds the difference to the chunk before, and uses pre-norm layers.

Shapes: N windows or chunks, T chunks, t frames per chunk, M images of them, F features, D width, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.errors import RecipeError
from training.models.base import BaseModelRecipe, ClipModel
from training.models.image_backbones import load_backbone, new_timm
from training.models.input_pixels import InputKind, PixelInput, images_in
from training.models.layers import Attention, Stack, new_mlp
from training.models.positions import Positions

Triple = tuple[float, float, float]


class HybridRecipe(BaseModelRecipe):
    """The recipe keys of `Hybrid`."""

    kind: Literal["hybrid"] = "hybrid"
    frames_per_chunk: int = Field(1, ge=1, le=64)
    backbone: str = Field("densenet121", description="a CNN or image transformer by its name in timm")
    backbone_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="further arguments of timm.create_model"
    )
    weights: Path | Literal["timm"] | None = Field(
        None, description="a .safetensors file, or timm: the published weights, downloaded"
    )
    mean: Triple | None = Field(None, description="of pixels scaled to 0..1; by default the backbone's own")
    std: Triple | None = Field(None, description="of pixels scaled to 0..1; by default the backbone's own")
    input: InputKind = Field("rgb", description="frames, differences of neighbouring frames within a chunk, or both")
    channels: Literal[1, 3] = Field(3, description="1 for grey frames: reads the first of the three channels")
    fusion: Literal["channels", "features"] = Field(
        "channels", description="channels: the backbone reads all images of a chunk at once; features: one by one"
    )
    head: Literal["published", "strong"] = "strong"
    dim: int = Field(256, ge=8, description="strong: width of the transformer")
    heads: int = Field(4, ge=1, description="strong: attention heads")
    layers: int = Field(2, ge=1, description="strong: layers of the transformer")
    drop_path: float = Field(0.1, ge=0, lt=1, description="strong: stochastic depth")
    dropout: float = Field(0.5, ge=0, lt=1, description="before the classifier")

    @model_validator(mode="after")
    def _fits(self) -> HybridRecipe:
        # A run's folder holds the recipe with every key, so the defaults of unused keys are accepted.
        for name in self.unused_keys:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: head published has fixed sizes; remove the key, or set head: strong")
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim}: must be a multiple of heads={self.heads}")
        if self.input != "rgb" and self.frames_per_chunk < 2:
            raise ValueError(f"input={self.input}: needs frames_per_chunk of 2 or more")
        return self

    @property
    def unused_keys(self) -> tuple[str, ...]:
        """See `BaseModelRecipe`."""
        return ("dim", "heads", "layers", "drop_path") if self.head == "published" else ()

    def without_weights(self) -> HybridRecipe:
        """See `BaseModelRecipe`."""
        return self.model_copy(update={"weights": None})

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return Hybrid(recipe=self, labels=labels)


class HybridEncoder(nn.Module):
    """Encode one chunk's frames (N, t, H, W, 3) uint8 RGB into the backbone's pooled feature (N, F).

    With `fusion: channels` the M images enter as M C channels and F is the backbone's width. With `fusion: features`
    the backbone encodes each image by itself and F is M times that width.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        frames_per_chunk: int,
        backbone: str,
        kwargs: Mapping[str, bool | int | float | str],
        weights: Path | Literal["timm"] | None,
        mean: Triple | None,
        std: Triple | None,
        input_kind: InputKind,
        channels: Literal[1, 3],
        fusion: Literal["channels", "features"],
    ) -> None:
        super().__init__()
        self.images = images_in(frames_per_chunk, input_kind)
        self.joined = fusion == "channels"
        inputs = channels * (self.images if self.joined else 1)
        self.backbone = new_timm(
            backbone, pretrained=weights == "timm", **{"num_classes": 0, "in_chans": inputs, **kwargs}
        )
        if isinstance(weights, Path):
            load_backbone(self.backbone, weights)
        own = getattr(self.backbone, "pretrained_cfg", {})
        half = (0.5, 0.5, 0.5)
        self.pixels = PixelInput(
            frames=frames_per_chunk,
            input_kind=input_kind,
            channels=channels,
            mean=mean or own.get("mean", half),
            std=std or own.get("std", half),
        )
        # timm's num_features is not the output width of every family, so run one image and look at the shape.
        with torch.no_grad():
            out = self.backbone.eval()(torch.zeros(1, inputs, height, width)).shape
        if len(out) != 2:
            raise RecipeError(f"backbone={backbone}: returns shape {tuple(out[1:])} for an image, expected one vector")
        self.backbone.train()
        self.width = int(out[1]) * (1 if self.joined else self.images)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        x = self.pixels(frames)
        if self.joined:
            feature: Tensor = self.backbone(x.flatten(1, 2))
            return feature
        each: Tensor = self.backbone(x.flatten(0, 1))
        return each.reshape(-1, self.width)


class PublishedLayer(nn.Module):
    """A post-norm layer (N, T, F) -> (N, T, F), with Keras's norm epsilon of 1e-3 and attention dropout of 0.3."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(dim=dim, heads=1, dropout=0.3)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-3), nn.LayerNorm(dim, eps=1e-3)
        self.mlp = new_mlp(dim=dim, hidden=hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the layer; `mask` (N, 1, 1, T) is True where a chunk counts."""
        x = self.norm1(x + self.attention(x, mask))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


class PublishedHead(nn.Module):
    """Classify the features of one window (N, T, F), oldest first, into logits (N, K)."""

    def __init__(self, *, chunks: int, features: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.positions = Positions(grid=(chunks,), dim=features, class_token=False)
        self.layer = PublishedLayer(dim=features, hidden=4)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(features, labels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify one window; `mask` (N, T) is True where a chunk counts. The others do not affect the result."""
        x = self.layer(self.positions(features), None if mask is None else mask[:, None, None])
        if mask is not None:
            x = x.masked_fill(~mask[..., None], float("-inf"))
        logits: Tensor = self.classify(self.dropout(x.amax(dim=1)))
        return logits


class StrongHead(nn.Module):
    """Classify the features of one window (N, T, F), oldest first, into logits (N, K)."""

    def __init__(
        self,
        *,
        chunks: int,
        features: int,
        dim: int,
        heads: int,
        layers: int,
        drop_path: float,
        dropout: float,
        labels: int,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.narrow, self.change = nn.Linear(features, dim), nn.Linear(features, dim, bias=False)
        self.positions = Positions(grid=(chunks,), dim=dim, class_token=False)
        self.stack = Stack(dim=dim, heads=heads, layers=layers, mlp_ratio=2.0, drop_path=drop_path, pool="mean")
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify one window; `mask` as in `PublishedHead`. The first chunk's difference is zero."""
        x = self.norm(features)
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
        x = self.positions(self.dropout(self.narrow(x) + self.change(x - before)))
        pooled = self.stack(x, None if mask is None else mask[:, None, None])
        logits: Tensor = self.classify(self.dropout(pooled))
        return logits


class Hybrid(ClipModel):
    """A timm backbone and a temporal transformer; `HybridRecipe` describes each key."""

    encoder: HybridEncoder
    head: PublishedHead | StrongHead

    def __init__(self, *, recipe: HybridRecipe, labels: int) -> None:
        super().__init__()
        self.encoder = HybridEncoder(
            height=recipe.height,
            width=recipe.width,
            frames_per_chunk=recipe.frames_per_chunk,
            backbone=recipe.backbone,
            kwargs=recipe.backbone_kwargs,
            weights=recipe.weights,
            mean=recipe.mean,
            std=recipe.std,
            input_kind=recipe.input,
            channels=recipe.channels,
            fusion=recipe.fusion,
        )
        chunks, features, dropout = recipe.chunks, self.encoder.width, recipe.dropout
        self.head = (
            PublishedHead(chunks=chunks, features=features, dropout=dropout, labels=labels)
            if recipe.head == "published"
            else StrongHead(
                chunks=chunks,
                features=features,
                dim=recipe.dim,
                heads=recipe.heads,
                layers=recipe.layers,
                drop_path=recipe.drop_path,
                dropout=dropout,
                labels=labels,
            )
        )

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify whole windows; `mask` (N, T) is True where a chunk counts, for clips shorter than a window."""
        logits: Tensor = self.head(self.features(frames), mask)
        return logits

"""Encode each frame with a pretrained CNN; a small head learns where in the feature map to attend.

The published CNN+Transformer hybrid averages the CNN's last feature map over the frame. That average hides an actor
who fills a tenth of the frame, such as a player on a court or two people in a street. Here the feature is the map
itself, F = (P, C). The head pools the map with a few learned attention maps, adds their mean positions and reads the
sequence with temporal convolutions. The CNN can stay frozen: the head learns everything that a small set teaches.

Shapes: N chunks or windows, T chunks of one frame, P positions of the last map, C its channels, Q queries, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.errors import RecipeError
from training.models.base import BaseModelRecipe, ClipModel
from training.models.image_backbones import load_backbone, new_timm
from training.models.input_pixels import PixelInput

Triple = tuple[float, float, float]


class AttentiveRecipe(BaseModelRecipe):
    """The recipe keys of `AttentiveModel`."""

    kind: Literal["attentive"] = "attentive"
    frames_per_chunk: Literal[1] = 1
    backbone: str = Field("mobilenetv2_100", description="a CNN by its name in timm; it must support features_only")
    backbone_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="further arguments of timm.create_model"
    )
    weights: Path | Literal["timm"] | None = Field(
        None, description="a .safetensors file, or timm: the published weights, downloaded"
    )
    mean: Triple = Field((0.5, 0.5, 0.5), description="of pixels scaled to 0..1")
    std: Triple = Field((0.5, 0.5, 0.5), description="of pixels scaled to 0..1")
    stage: int = Field(
        -1, description="which feature map of the backbone: -1 the last, at 1/32 of the size; -2 the one before"
    )
    queries: int = Field(4, ge=1, le=64, description="attention maps per frame")
    pooled_channels: int = Field(64, ge=4, description="channels that each attention map pools")
    dim: int = Field(128, ge=8, description="width of the head")
    layers: int = Field(2, ge=1, le=16, description="temporal convolutions")
    dropout: float = Field(0.4, ge=0, lt=1)

    def without_weights(self) -> AttentiveRecipe:
        """See `BaseModelRecipe`."""
        return self.model_copy(update={"weights": None})

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return AttentiveModel(recipe=self, labels=labels)


class AttentiveEncoder(nn.Module):
    """Encode one frame (N, 1, H, W, 3) uint8 RGB into the backbone's feature map (N, P, C), row by row."""

    def __init__(
        self,
        *,
        height: int,
        width: int,
        backbone: str,
        kwargs: Mapping[str, bool | int | float | str],
        weights: Path | Literal["timm"] | None,
        mean: Triple,
        std: Triple,
        stage: int,
    ) -> None:
        super().__init__()
        self.pixels = PixelInput(frames=1, mean=mean, std=std)
        self.backbone = new_timm(
            backbone, pretrained=weights == "timm", **{"features_only": True, "out_indices": (stage,), **kwargs}
        )
        if isinstance(weights, Path):
            load_backbone(self.backbone, weights)
        with torch.no_grad():
            out = self.backbone.eval()(torch.zeros(1, 3, height, width))[0].shape
        if len(out) != 4:
            raise RecipeError(
                f"backbone={backbone}: its feature map is {tuple(out[1:])}, expected (C, rows, columns); use a CNN"
            )
        self.backbone.train()
        self.channels, self.rows, self.columns = (int(n) for n in out[1:])

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        x: Tensor = self.backbone(self.pixels(frames).flatten(0, 1))[0]
        return x.flatten(2).transpose(1, 2)


class AttentiveHead(nn.Module):
    """Classify the feature maps of one window (N, T, P, C), oldest first, into logits (N, K)."""

    def __init__(
        self,
        *,
        rows: int,
        columns: int,
        channels: int,
        queries: int,
        pooled_channels: int,
        dim: int,
        layers: int,
        dropout: float,
        labels: int,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.project, self.attend = nn.Linear(channels, pooled_channels), nn.Linear(channels, queries)
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        self.register_buffer("places", torch.stack([x, y], dim=-1).reshape(-1, 2), persistent=False)
        self.embed = nn.Linear(2 * (queries * (pooled_channels + 2) + pooled_channels), dim)
        self.near = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        n, t, p, c = features.shape
        maps = self.norm(features.reshape(-1, c)).reshape(-1, p, c)
        projected = self.project(maps).relu()  # (N T, P, pooled_channels)
        weights = self.attend(maps).transpose(1, 2).softmax(dim=2)  # (N T, Q, P)
        parts = [(weights @ projected).flatten(1), (weights @ self.places).flatten(1), projected.mean(dim=1)]
        x = torch.cat(parts, dim=1).reshape(n, t, -1)
        # The difference to the frame before; zero for the first frame.
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        x = self.embed(self.dropout(torch.cat([x, change], dim=2))).relu().transpose(1, 2)  # (N, dim, T)
        for near in self.near:
            x = x + near(self.dropout(x)).relu()
        logits: Tensor = self.classify(self.dropout(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)))
        return logits


class AttentiveModel(ClipModel):
    """A CNN encoder and a head with learned spatial attention; `AttentiveRecipe` describes each key."""

    encoder: AttentiveEncoder
    head: AttentiveHead

    def __init__(self, *, recipe: AttentiveRecipe, labels: int) -> None:
        super().__init__()
        self.encoder = AttentiveEncoder(
            height=recipe.height,
            width=recipe.width,
            backbone=recipe.backbone,
            kwargs=recipe.backbone_kwargs,
            weights=recipe.weights,
            mean=recipe.mean,
            std=recipe.std,
            stage=recipe.stage,
        )
        self.head = AttentiveHead(
            rows=self.encoder.rows,
            columns=self.encoder.columns,
            channels=self.encoder.channels,
            queries=recipe.queries,
            pooled_channels=recipe.pooled_channels,
            dim=recipe.dim,
            layers=recipe.layers,
            dropout=recipe.dropout,
            labels=labels,
        )

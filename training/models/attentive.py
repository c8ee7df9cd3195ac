"""A pretrained CNN looks at each frame, and a small head chooses where in it to look and what changed.

The published CNN+Transformer hybrid averages the CNN's last map over the picture. Where the actor is a tenth of the
picture, as a player on a court or two people in a street, that buries them. Here the map itself is the feature,
F = (P, C), and the head pools it with a few learned attention maps, adds where they look, and reads the sequence with
temporal convolutions. The CNN can stay frozen: everything that is learned from a small set is in the head.

Shapes: N chunks or windows, T chunks of one frame, P places of the last map, C its channels, Q queries, K labels.
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
    """The words of `AttentiveModel`."""

    kind: Literal["attentive"] = "attentive"
    frames_per_chunk: Literal[1] = 1
    backbone: str = Field("mobilenetv2_100", description="timm's name of a CNN that has features_only")
    backbone_kwargs: dict[str, bool | int | float | str] = Field({}, description="further words for timm.create_model")
    weights: Path | Literal["timm"] | None = Field(
        None, description="a .safetensors, or timm: its own, from the network"
    )
    mean: Triple = Field((0.5, 0.5, 0.5), description="of pixels from 0 to 1")
    std: Triple = Field((0.5, 0.5, 0.5), description="of pixels from 0 to 1")
    stage: int = Field(-1, description="which of the backbone's maps: -1 the last, at 1/32; -2 the one before it")
    queries: int = Field(4, ge=1, le=64, description="places to look at in a frame")
    pooled_channels: int = Field(64, ge=4, description="channels of what is seen there")
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
    """One frame (N, 1, H, W, 3) uint8 RGB -> the backbone's map (N, P, C), rows first."""

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
                f"backbone={backbone}: its map is {tuple(out[1:])}, wanted (C, rows, columns); take a CNN"
            )
        self.backbone.train()
        self.channels, self.rows, self.columns = (int(n) for n in out[1:])

    def forward(self, frames: Tensor) -> Tensor:
        """The graph that serving runs once per chunk."""
        x: Tensor = self.backbone(self.pixels(frames).flatten(0, 1))[0]
        return x.flatten(2).transpose(1, 2)


class AttentiveHead(nn.Module):
    """The maps of one window (N, T, P, C), oldest first -> logits (N, K)."""

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
        """The graph that serving runs once per window."""
        n, t, p, c = features.shape
        maps = self.norm(features.reshape(-1, c)).reshape(-1, p, c)
        seen = self.project(maps).relu()  # (N T, P, pooled_channels)
        where = self.attend(maps).transpose(1, 2).softmax(dim=2)  # (N T, Q, P)
        parts = [(where @ seen).flatten(1), (where @ self.places).flatten(1), seen.mean(dim=1)]
        x = torch.cat(parts, dim=1).reshape(n, t, -1)
        # What changed since the frame before; nothing is known before the first.
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        x = self.embed(self.dropout(torch.cat([x, change], dim=2))).relu().transpose(1, 2)  # (N, dim, T)
        for near in self.near:
            x = x + near(self.dropout(x)).relu()
        logits: Tensor = self.classify(self.dropout(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)))
        return logits


class AttentiveModel(ClipModel):
    """Built from its recipe, whose words say what each means."""

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

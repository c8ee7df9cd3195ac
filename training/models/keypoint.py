"""A model that reads where things are: a small CNN points, the head reads the path that the points take.

For gestures drawn in the air the class is the fingertip's path, and what the hand, the sleeve and the room look like is
not. So the feature of a chunk is not a picture's description but a few points, each the expectation of a heat map (the
spatial soft-argmax of Levine et al. 2016, "End-to-end training of deep visuomotor policies", section 4.2: a softmax and
two products), and a short description of the whole. The first point can be supervised: `with_point`.

Shapes: N chunks or windows, T chunks, t frames per chunk, P points, C described channels, F = 3 P + C + 1, K labels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.models.base import BaseModelRecipe, ClipModel
from training.models.layers import ClassStack


class KeypointRecipe(BaseModelRecipe):
    """The words of `KeypointModel`."""

    kind: Literal["keypoint"] = "keypoint"
    height: int = Field(ge=16, le=4096, multiple_of=16, description="pixels")
    width: int = Field(ge=16, le=4096, multiple_of=16, description="pixels")
    stage_channels: tuple[int, int, int, int] = Field((16, 32, 64, 96), description="channels at 1/2, 1/4, 1/8, 1/16")
    points: int = Field(8, ge=1, le=256)
    described_channels: int = Field(24, ge=0, le=4096, description="channels of the description of the whole picture")
    dim: int = Field(96, ge=8, description="width of the head")
    heads: int = Field(4, ge=1)
    layers: int = Field(2, ge=1, description="of the head's transformer")
    dropout: float = Field(0.1, ge=0, lt=1)

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return KeypointModel(labels=labels, **self.model_dump(exclude={"kind"}))


class InvertedResidual(nn.Module):
    """An inverted residual (Sandler et al. 2018) of expansion 2: (N, C, h, w) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        out: Tensor = x + self.body(x)
        return out


def _downsample(wide: int, wider: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)
    )


def _upsample(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C, 2 h, 2 w), each place four times; torch's own becomes a Resize that opset 17 lacks."""
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


def _mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, 1, 1), row by row: one long sum in single precision differs from engine to engine."""
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


class KeypointEncoder(nn.Module):
    """One chunk's frames (N, t, H, W, 3) uint8 RGB -> feature (N, F)."""

    def __init__(
        self,
        *,
        height: int,
        width: int,
        frames_per_chunk: int,
        stage_channels: tuple[int, int, int, int],
        points: int,
        described_channels: int,
    ) -> None:
        super().__init__()
        a, b, c, d = stage_channels
        self.stem = _downsample(3 * frames_per_chunk, a)
        self.fine = nn.Sequential(_downsample(a, b), InvertedResidual(b))
        self.middle = nn.Sequential(_downsample(b, c), InvertedResidual(c), InvertedResidual(c))
        self.coarse = nn.Sequential(_downsample(c, d), InvertedResidual(d), InvertedResidual(d))
        self.to_middle, self.to_fine = nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1)
        self.mix_middle, self.mix_fine = InvertedResidual(c), InvertedResidual(b)
        self.maps = nn.Conv2d(b, points, 1)
        self.describe = nn.Linear(d, described_channels + 1)
        rows, columns = height // 4, width // 4
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        self.register_buffer("places", torch.stack([x, y], dim=-1).reshape(-1, 2), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """-> (N, P x, P y, P peaks, C, visibility logit), lengths as shares of the picture centred on 0."""
        x = self._input(frames)
        fine = self.fine(self.stem(x))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.mix_middle(middle + _upsample(self.to_middle(coarse)))
        fine = self.mix_fine(fine + _upsample(self.to_fine(middle)))
        maps = self.maps(fine).flatten(2)  # (N, P, h w)
        where = maps.softmax(dim=2)
        points = where @ self.places  # (N, P, 2)
        # How sure: near 1 where a map has one sharp peak, near 0 where it is spread out.
        peaks = where.amax(dim=2)
        described = self.describe(coarse.mean(dim=(2, 3)))
        return torch.cat([points[..., 0] * 4 - 2, points[..., 1] * 4 - 2, peaks, described], dim=1)

    def with_point(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F), and what they say of the first point (N, 3): x, y in shares, logit of being visible."""
        features = self(frames)
        count = self.maps.out_channels
        x, y = (features[:, 0] + 2) / 4, (features[:, count] + 2) / 4
        return features, torch.stack([x, y, features[:, -1]], dim=1)

    def _input(self, frames: Tensor) -> Tensor:
        """(N, 3 t, H, W): the last frame, and what changed since each one before it, whatever the light's strength."""
        x = frames.to(torch.float32).permute(0, 1, 4, 2, 3)
        last = x[:, -1]
        centred = last - _mean(last)
        spread = _mean(centred.square()).sqrt() + 8.0
        changed = (last[:, None] - x[:, :-1]).flatten(1, 2)
        return torch.cat([centred / spread, 2 * changed / spread], dim=1)


class KeypointHead(nn.Module):
    """The features of one window (N, T, F), oldest first -> logits (N, K)."""

    def __init__(
        self, *, features: int, chunks: int, dim: int, heads: int, layers: int, dropout: float, labels: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * features, dim)
        self.near = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.stack = ClassStack(tokens=chunks, dim=dim, heads=heads, layers=layers, mlp_ratio=2.0, drop_path=dropout)
        self.classify = nn.Linear(dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """The graph that serving runs once per window."""
        before = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        x = self.embed(torch.cat([features, 4 * (features - before)], dim=2))
        for near in self.near:
            x = x + F.gelu(near(x.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.classify(self.dropout(self.stack(self.dropout(x))))
        return logits


class KeypointModel(ClipModel):
    """Window (N, T, t, H, W, 3) uint8 RGB -> logits (N, K); `head(encoder(chunk) for each chunk)`."""

    encoder: KeypointEncoder
    head: KeypointHead

    def __init__(
        self,
        *,
        labels: int,
        height: int,
        width: int,
        frames_per_chunk: int,
        chunks: int,
        stage_channels: tuple[int, int, int, int] = (16, 32, 64, 96),
        points: int = 8,
        described_channels: int = 24,
        dim: int = 96,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = KeypointEncoder(
            height=height,
            width=width,
            frames_per_chunk=frames_per_chunk,
            stage_channels=stage_channels,
            points=points,
            described_channels=described_channels,
        )
        features = 3 * points + described_channels + 1
        self.head = KeypointHead(
            features=features, chunks=chunks, dim=dim, heads=heads, layers=layers, dropout=dropout, labels=labels
        )

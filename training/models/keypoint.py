"""Implement a keypoint model: a small CNN locates points, the head reads the path of the points.

The class of a gesture drawn in the air is the fingertip's path; it does not depend on how the hand, the sleeve or the
background look. So the feature of a chunk is a few points and a short description of the whole frame. Each point is
the expectation of a heat map, the spatial soft-argmax of Levine et al. 2016 ("End-to-end training of deep visuomotor
policies", section 4.2): a softmax and two products. Training can supervise the first point: `with_point`.

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
    """The recipe keys of `KeypointModel`."""

    kind: Literal["keypoint"] = "keypoint"
    height: int = Field(ge=16, le=4096, multiple_of=16, description="pixels")
    width: int = Field(ge=16, le=4096, multiple_of=16, description="pixels")
    stage_channels: tuple[int, int, int, int] = Field(
        (16, 32, 64, 96), description="channels at 1/2, 1/4, 1/8, 1/16 of the size"
    )
    points: int = Field(8, ge=1, le=256, description="points per chunk")
    described_channels: int = Field(24, ge=0, le=4096, description="channels that describe the whole frame")
    dim: int = Field(96, ge=8, description="width of the head")
    heads: int = Field(4, ge=1, description="attention heads of the head's transformer")
    layers: int = Field(2, ge=1, description="layers of the head's transformer")
    dropout: float = Field(0.1, ge=0, lt=1)

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return KeypointModel(labels=labels, **self.model_dump(exclude={"kind"}))


class InvertedResidual(nn.Module):
    """An inverted residual block (Sandler et al. 2018) with expansion 2: (N, C, h, w) -> (N, C, h, w)."""

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
        """Add the branch to the input; the shape stays the same."""
        out: Tensor = x + self.body(x)
        return out


def _downsample(inputs: int, outputs: int) -> nn.Sequential:
    """Halve height and width: (N, inputs, h, w) -> (N, outputs, h/2, w/2)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _upsample(x: Tensor) -> Tensor:
    """Double height and width, nearest: (N, C, h, w) -> (N, C, 2 h, 2 w).

    torch's own function exports a Resize that opset 17 lacks.
    """
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


def _mean(x: Tensor) -> Tensor:
    """Average (N, C, H, W) -> (N, 1, 1, 1) axis by axis: one long sum in single precision differs between engines."""
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


class KeypointEncoder(nn.Module):
    """Encode one chunk's frames (N, t, H, W, 3) uint8 RGB into a feature (N, F)."""

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
        """Encode one chunk: (N, F) = P x, P y, P peaks, C channels, a visibility logit; x and y run from -2 to 2."""
        x = self._input(frames)
        fine = self.fine(self.stem(x))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.mix_middle(middle + _upsample(self.to_middle(coarse)))
        fine = self.mix_fine(fine + _upsample(self.to_fine(middle)))
        maps = self.maps(fine).flatten(2)  # (N, P, h w)
        weights = maps.softmax(dim=2)
        points = weights @ self.places  # (N, P, 2)
        # The confidence: near 1 where a map has one sharp peak, near 0 where it is spread out.
        peaks = weights.amax(dim=2)
        described = self.describe(coarse.mean(dim=(2, 3)))
        return torch.cat([points[..., 0] * 4 - 2, points[..., 1] * 4 - 2, peaks, described], dim=1)

    def with_point(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, F) and the first point (N, 3): x and y from 0 to 1, the logit that it is visible."""
        features = self(frames)
        count = self.maps.out_channels
        x, y = (features[:, 0] + 2) / 4, (features[:, count] + 2) / 4
        return features, torch.stack([x, y, features[:, -1]], dim=1)

    def _input(self, frames: Tensor) -> Tensor:
        """Return (N, 3 t, H, W): the last frame and its differences to the earlier ones, normalised for brightness."""
        x = frames.to(torch.float32).permute(0, 1, 4, 2, 3)
        last = x[:, -1]
        centred = last - _mean(last)
        deviation = _mean(centred.square()).sqrt() + 8.0
        differences = (last[:, None] - x[:, :-1]).flatten(1, 2)
        return torch.cat([centred / deviation, 2 * differences / deviation], dim=1)


class KeypointHead(nn.Module):
    """Classify the features of one window (N, T, F), oldest first, into logits (N, K)."""

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
        """Classify one window; serving runs this graph once per window."""
        before = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        x = self.embed(torch.cat([features, 4 * (features - before)], dim=2))
        for near in self.near:
            x = x + F.gelu(near(x.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.classify(self.dropout(self.stack(self.dropout(x))))
        return logits


class KeypointModel(ClipModel):
    """A CNN that locates points and a head that reads their path; `KeypointRecipe` describes each argument."""

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

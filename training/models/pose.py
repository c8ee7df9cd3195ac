"""A model that finds the largest person in each frame and reads how his joints move.

What somebody does with his body is the same on every court, and what the court looks like is not. So all that a chunk
says of its frame is where the joints of one person are: MoveNet (`training.models.movenet`), trained on pictures of
many thousands of people, sees the whole frame once and is never trained further. The head puts the person in its
middle at unit size and reads the motion with temporal convolutions; it is the only thing that learns from a small set.

What mirrors see is read by the same weights, both ways round, and averaged: a left-hander's stroke is a right-hander's
in a mirror. Take another model where left and right are classes. While it learns, every window's joints are moved a
little, as another camera or another body would have them, and each of the head's members learns from other windows.

Shapes: N chunks or windows, T chunks of one frame, J = 17 joints, F = 3 J + 2, K labels. Lengths are in pictures'
heights, from the picture's middle.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.models.base import BaseModelRecipe, ClipModel
from training.models.input_pixels import PixelInput
from training.models.movenet import JOINTS, MIRRORED, STRIDE, MoveNet, load_movenet

_NEAR = 1.8
"""Cells, as in the published graphs: how much nearness to the person counts against heat."""
_LEFT_SHOULDER, _LEFT_HIP = 5, 11
_PAIRS = ((9, 10), (9, 0), (10, 0), (9, 6), (10, 5), (9, 11), (10, 12), (15, 16))
"""Joints whose distance is told outright: wrists and ankles; wrist and nose, far shoulder, hip."""


class PoseRecipe(BaseModelRecipe):
    """The words of `PoseModel`."""

    kind: Literal["pose"] = "pose"
    height: int = Field(ge=64, le=1024, multiple_of=32, description="pixels")
    width: int = Field(ge=64, le=1024, multiple_of=32, description="pixels")
    frames_per_chunk: Literal[1] = 1
    multiplier: float = Field(1.5, ge=0.25, le=2, description="of MoveNet's width: 1.5 is multipose, 1.0 lightning")
    weights: Path | None = Field(None, description="MoveNet's TensorFlow.js .json, its .bin beside it")
    dim: int = Field(64, ge=8, description="width of the head")
    kernel: int = Field(5, ge=3, le=15, description="chunks that a temporal convolution sees")
    dilations: tuple[int, ...] = Field((1, 1, 2), min_length=1, description="of the temporal convolutions")
    members: int = Field(3, ge=1, le=32, description="heads that learn apart and are averaged")
    dropout: float = Field(0.4, ge=0, lt=1)
    feature_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of what is told of the joints that training leaves out"
    )
    joint_dropout: float = Field(
        0.05, ge=0, lt=1, description="share of joints that training puts in the body's middle"
    )
    noise: float = Field(0.01, ge=0, le=0.5, description="of the person's size, on every joint, while it learns")
    rotate: float = Field(8.0, ge=0, le=90, description="degrees, to either side, while it learns")
    stretch: float = Field(0.12, ge=0, le=0.5, description="width and height, up to this share more or less")

    def without_weights(self) -> PoseRecipe:
        """See `BaseModelRecipe`."""
        return self.model_copy(update={"weights": None})

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return PoseModel(recipe=self, labels=labels)


class PoseEncoder(nn.Module):
    """One frame (N, 1, H, W, 3) uint8 RGB -> (N, F): J times x and y, J times how sure, the person's size, how sure."""

    y: Tensor
    x: Tensor

    def __init__(self, *, height: int, width: int, multiplier: float) -> None:
        super().__init__()
        self.pixels = PixelInput(frames=1)
        self.net = MoveNet(multiplier=multiplier)
        rows, columns = height // STRIDE, width // STRIDE
        y, x = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
        self.register_buffer("y", y.flatten(), persistent=False)
        self.register_buffer("x", x.flatten(), persistent=False)
        self.middle, self.scale = ((columns - 1) / 2, (rows - 1) / 2), 1 / rows

    def forward(self, frames: Tensor) -> Tensor:
        """The graph that serving runs once per chunk."""
        maps = self.net(self.pixels(frames).flatten(0, 1))
        n = frames.shape[0]
        reach = maps.reach.reshape(n, JOINTS, 2, -1)
        # The one who is surest and largest: who plays is nearer to the camera than who looks on.
        sure = maps.centre.sigmoid().reshape(n, -1)
        sides = reach.amax(dim=1) - reach.amin(dim=1)  # (N, 2, P)
        person = (sure * sides.sum(dim=1)).argmax(dim=1, keepdim=True)  # (N, 1)
        there = person[:, None, None].expand(-1, JOINTS, 2, -1)
        around = reach.gather(3, there)  # (N, J, 2, 1)
        y, x = self.y[person] + around[:, :, 0, 0], self.x[person] + around[:, :, 1, 0]  # (N, J)
        # A joint is where it is hot, near to where the person's middle says that it should be.
        heat = maps.heat.sigmoid().reshape(n, JOINTS, -1)
        far = ((self.y - y[..., None]).square() + (self.x - x[..., None]).square()).sqrt()
        cell = (heat / (far + _NEAR)).argmax(dim=2, keepdim=True)  # (N, J, 1)
        within = maps.offset.reshape(n, JOINTS, 2, -1).gather(3, cell[:, :, None].expand(-1, -1, 2, -1))
        y, x = self.y[cell[..., 0]] + within[:, :, 0, 0], self.x[cell[..., 0]] + within[:, :, 1, 0]
        points = torch.stack([(x - self.middle[0]) * self.scale, (y - self.middle[1]) * self.scale], dim=2)
        known = heat.gather(2, cell)[..., 0]
        size = sides.gather(2, person[:, None].expand(-1, 2, -1)).amax(dim=1) * self.scale
        return torch.cat([points.flatten(1), known, size, sure.gather(1, person)], dim=1)


class TemporalConvNet(nn.Module):
    """Temporal convolutions: what is told of each chunk (N, T, D) -> logits (N, K)."""

    def __init__(
        self,
        *,
        features: int,
        dim: int,
        kernel: int,
        dilations: tuple[int, ...],
        dropout: float,
        feature_dropout: float,
        labels: int,
    ) -> None:
        super().__init__()
        self.norm, self.feature_dropout = nn.BatchNorm1d(features), nn.Dropout1d(feature_dropout)
        self.embed = nn.Conv1d(features, dim, 1)
        self.near = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(dim, dim, kernel, padding=kernel // 2 * dilation, dilation=dilation),
                nn.BatchNorm1d(dim),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            for dilation in dilations
        )
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * dim, labels)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        x = self.embed(self.feature_dropout(self.norm(features.transpose(1, 2)))).relu()
        for near in self.near:
            x = x + near(x)
        logits: Tensor = self.classify(self.dropout(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)))
        return logits


class PoseHead(nn.Module):
    """The features of one window (N, T, F), oldest first -> logits (N, K)."""

    mirrored: Tensor

    def __init__(self, *, recipe: PoseRecipe, labels: int) -> None:
        super().__init__()
        self.joint_dropout, self.noise, self.rotate, self.stretch = (
            recipe.joint_dropout,
            recipe.noise,
            recipe.rotate,
            recipe.stretch,
        )
        self.register_buffer("mirrored", torch.tensor(MIRRORED), persistent=False)
        self.members = nn.ModuleList(
            TemporalConvNet(
                features=5 * JOINTS + 3 + len(_PAIRS),
                dim=recipe.dim,
                kernel=recipe.kernel,
                dilations=recipe.dilations,
                dropout=recipe.dropout,
                feature_dropout=recipe.feature_dropout,
                labels=labels,
            )
            for _ in range(recipe.members)
        )

    def forward(self, features: Tensor) -> Tensor:
        """The graph that serving runs once per window."""
        n, t = features.shape[:2]
        points = features[:, :, : 2 * JOINTS].reshape(n, t, JOINTS, 2)
        sure = features[:, :, 2 * JOINTS : 3 * JOINTS]
        person = features[:, :, 3 * JOINTS + 1 :]
        points = points / features[:, :, 3 * JOINTS].mean(dim=1).clamp(min=1e-3)[:, None, None, None]
        if self.training:
            points, sure = self._augmented(points, sure)
            # Each window teaches one member: what the members say differs only as far as it is not known.
            parts = torch.cat([_motion_features(points, sure), person], dim=2).tensor_split(len(self.members))
            return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True) if len(part)])
        turned = torch.stack([-points[..., 0], points[..., 1]], dim=3)[:, :, self.mirrored]
        ways = [_motion_features(points, sure), _motion_features(turned, sure[:, :, self.mirrored])]
        logits = [member(torch.cat([way, person], dim=2)) for member in self.members for way in ways]
        return torch.stack(logits).mean(dim=0)

    def _augmented(self, points: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
        """The same motion of another body before another camera, in a mirror for half of the windows."""
        n, device = len(points), points.device
        angle = (2 * torch.rand(n, device=device) - 1) * math.radians(self.rotate)
        sides = 1 + (2 * torch.rand(n, 2, device=device) - 1) * self.stretch
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(n, 2, 2)
        points = points @ (sides[:, :, None] * turn).transpose(1, 2)[:, None]
        points = points + self.noise * torch.randn_like(points)
        hidden = torch.rand(n, 1, JOINTS, device=device) < self.joint_dropout
        points = torch.where(hidden[..., None], points[:, :, 5:13].mean(dim=2, keepdim=True), points)
        sure = sure.masked_fill(hidden, 0.0)
        turned = torch.rand(n, device=device) < 0.5
        flipped = torch.stack([-points[..., 0], points[..., 1]], dim=3)[:, :, self.mirrored]
        points = torch.where(turned[:, None, None, None], flipped, points)
        return points, torch.where(turned[:, None, None], sure[:, :, self.mirrored], sure)


def _motion_features(points: Tensor, sure: Tensor) -> Tensor:
    """Joints (N, T, J, 2) in units of the person's size, and how sure (N, T, J) -> (N, T, 5 J + 2 + pairs).

    Joints around the trunk's middle, their motion, how sure they are, the trunk's motion, distances of pairs.
    """
    shoulders, hips = (points[:, :, at : at + 2].mean(dim=2) for at in (_LEFT_SHOULDER, _LEFT_HIP))
    trunk = (shoulders + hips) / 2
    around = points - trunk[:, :, None]
    # Half a person's size from one chunk to the next is another person.
    moved = _differences(trunk).clamp(-0.5, 0.5)
    first, second = (list(part) for part in zip(*_PAIRS, strict=True))
    apart = (around[:, :, first] - around[:, :, second]).square().sum(dim=3).add(1e-8).sqrt()
    return torch.cat([around.flatten(2), _differences(around.flatten(2)), sure, moved, apart], dim=2)


def _differences(x: Tensor) -> Tensor:
    """(N, T, D): by how much each chunk differs from the one before it; the first by nothing."""
    return F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))


class PoseModel(ClipModel):
    """Built from its recipe, whose words say what each means."""

    encoder: PoseEncoder
    head: PoseHead

    def __init__(self, *, recipe: PoseRecipe, labels: int) -> None:
        super().__init__()
        self.encoder = PoseEncoder(height=recipe.height, width=recipe.width, multiplier=recipe.multiplier)
        if recipe.weights is not None:
            load_movenet(self.encoder.net, recipe.weights)
        self.head = PoseHead(recipe=recipe, labels=labels)

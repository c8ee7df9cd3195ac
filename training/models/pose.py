"""Locate the joints of the largest person in each frame and classify how they move.

A stroke or a gesture looks the same on every court, but courts differ. So a chunk's feature holds only the joints of
one person. MoveNet (`training.models.movenet`), trained on images of many thousands of people, locates them and is not
trained further. The head centres the person, scales it to unit size and reads the motion with temporal convolutions.
Only the head learns from a small set.

The head reads each window and its mirror image with the same weights and averages the two: a left-hander's stroke is a
right-hander's in a mirror. Use another model where left and right are classes. Training moves the joints of every
window a little, as another camera or another body would, and each member of the head's ensemble learns from different
windows.

Shapes: N chunks or windows, T chunks of one frame, J = 17 joints, F = 3 J + 2, K labels. Lengths are in units of the
frame's height, measured from the frame's centre.
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

_DISTANCE_OFFSET = 1.8
"""Cells, as in the published graphs: weighs the distance from the expected position against the heat map."""
_LEFT_SHOULDER, _LEFT_HIP = 5, 11
_PAIRS = ((9, 10), (9, 0), (10, 0), (9, 6), (10, 5), (9, 11), (10, 12), (15, 16))
"""Joints whose distance is a feature: wrists; each wrist and the nose, the far shoulder, the near hip; ankles."""


class PoseRecipe(BaseModelRecipe):
    """The recipe keys of `PoseModel`."""

    kind: Literal["pose"] = "pose"
    height: int = Field(ge=64, le=1024, multiple_of=32, description="pixels")
    width: int = Field(ge=64, le=1024, multiple_of=32, description="pixels")
    frames_per_chunk: Literal[1] = 1
    multiplier: float = Field(
        1.5, ge=0.25, le=2, description="MoveNet's width: 1.5 multipose, 1.0 lightning, 1.75 thunder"
    )
    weights: Path | None = Field(None, description="MoveNet's TensorFlow.js .json; its .bin is in the same folder")
    dim: int = Field(64, ge=8, description="width of the head")
    kernel: int = Field(5, ge=3, le=15, description="chunks that a temporal convolution covers")
    dilations: tuple[int, ...] = Field((1, 1, 2), min_length=1, description="dilations of the temporal convolutions")
    members: int = Field(3, ge=1, le=32, description="size of the ensemble in the head; outputs are averaged")
    dropout: float = Field(0.4, ge=0, lt=1)
    feature_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the joints' features in training")
    joint_dropout: float = Field(
        0.05, ge=0, lt=1, description="share of joints that training moves to the body's centre"
    )
    noise: float = Field(
        0.01, ge=0, le=0.5, description="noise on each joint in training, relative to the person's size"
    )
    rotate: float = Field(8.0, ge=0, le=90, description="largest rotation in training, degrees")
    stretch: float = Field(0.12, ge=0, le=0.5, description="largest relative change of width and height in training")

    def without_weights(self) -> PoseRecipe:
        """See `BaseModelRecipe`."""
        return self.model_copy(update={"weights": None})

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return PoseModel(recipe=self, labels=labels)


class PoseEncoder(nn.Module):
    """Encode one frame (N, 1, H, W, 3) uint8 RGB into the joints of one person, a feature (N, F).

    F = x and y of J joints, J confidences, the person's size and the confidence of the person.
    """

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
        self.centre, self.scale = ((columns - 1) / 2, (rows - 1) / 2), 1 / rows

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        maps = self.net(self.pixels(frames).flatten(0, 1))
        n = frames.shape[0]
        reach = maps.reach.reshape(n, JOINTS, 2, -1)
        # Choose by confidence times size: a player is nearer to the camera than a spectator.
        confidence = maps.centre.sigmoid().reshape(n, -1)
        sides = reach.amax(dim=1) - reach.amin(dim=1)  # (N, 2, P)
        person = (confidence * sides.sum(dim=1)).argmax(dim=1, keepdim=True)  # (N, 1)
        offsets = reach.gather(3, person[:, None, None].expand(-1, JOINTS, 2, -1))  # (N, J, 2, 1)
        y, x = self.y[person] + offsets[:, :, 0, 0], self.x[person] + offsets[:, :, 1, 0]  # (N, J)
        # A joint is where its heat map is high and close to the position that the person's centre predicts.
        heat = maps.heat.sigmoid().reshape(n, JOINTS, -1)
        distance = ((self.y - y[..., None]).square() + (self.x - x[..., None]).square()).sqrt()
        cell = (heat / (distance + _DISTANCE_OFFSET)).argmax(dim=2, keepdim=True)  # (N, J, 1)
        within = maps.offset.reshape(n, JOINTS, 2, -1).gather(3, cell[:, :, None].expand(-1, -1, 2, -1))
        y, x = self.y[cell[..., 0]] + within[:, :, 0, 0], self.x[cell[..., 0]] + within[:, :, 1, 0]
        points = torch.stack([(x - self.centre[0]) * self.scale, (y - self.centre[1]) * self.scale], dim=2)
        joint_confidence = heat.gather(2, cell)[..., 0]
        size = sides.gather(2, person[:, None].expand(-1, 2, -1)).amax(dim=1) * self.scale
        return torch.cat([points.flatten(1), joint_confidence, size, confidence.gather(1, person)], dim=1)


class TemporalConvNet(nn.Module):
    """Temporal convolutions that classify motion features (N, T, D) into logits (N, K)."""

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
        """Convolve over time, then pool by mean and maximum."""
        x = self.embed(self.feature_dropout(self.norm(features.transpose(1, 2)))).relu()
        for near in self.near:
            x = x + near(x)
        logits: Tensor = self.classify(self.dropout(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)))
        return logits


class PoseHead(nn.Module):
    """Classify the features of one window (N, T, F), oldest first, into logits (N, K)."""

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
        """Classify one window; serving runs this graph once per window."""
        n, t = features.shape[:2]
        points = features[:, :, : 2 * JOINTS].reshape(n, t, JOINTS, 2)
        confidence = features[:, :, 2 * JOINTS : 3 * JOINTS]
        person = features[:, :, 3 * JOINTS + 1 :]
        points = points / features[:, :, 3 * JOINTS].mean(dim=1).clamp(min=1e-3)[:, None, None, None]
        if self.training:
            points, confidence = self._augment(points, confidence)
            # Each window trains one member of the ensemble, so that the members differ where the data leave room.
            parts = torch.cat([_motion_features(points, confidence), person], dim=2).tensor_split(len(self.members))
            return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True) if len(part)])
        mirrored, mirrored_confidence = self._mirror(points, confidence)
        views = [_motion_features(points, confidence), _motion_features(mirrored, mirrored_confidence)]
        logits = [member(torch.cat([view, person], dim=2)) for member in self.members for view in views]
        return torch.stack(logits).mean(dim=0)

    def _mirror(self, points: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Mirror the joints and exchange left and right."""
        return torch.stack([-points[..., 0], points[..., 1]], dim=3)[:, :, self.mirrored], confidence[
            :, :, self.mirrored
        ]

    def _augment(self, points: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate, stretch and disturb the joints, hide some, and mirror half of the windows."""
        n, device = len(points), points.device
        angle = (2 * torch.rand(n, device=device) - 1) * math.radians(self.rotate)
        sides = 1 + (2 * torch.rand(n, 2, device=device) - 1) * self.stretch
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(n, 2, 2)
        points = points @ (sides[:, :, None] * rotation).transpose(1, 2)[:, None]
        points = points + self.noise * torch.randn_like(points)
        hidden = torch.rand(n, 1, JOINTS, device=device) < self.joint_dropout
        points = torch.where(hidden[..., None], points[:, :, 5:13].mean(dim=2, keepdim=True), points)
        confidence = confidence.masked_fill(hidden, 0.0)
        flip = torch.rand(n, device=device) < 0.5
        mirrored, mirrored_confidence = self._mirror(points, confidence)
        points = torch.where(flip[:, None, None, None], mirrored, points)
        return points, torch.where(flip[:, None, None], mirrored_confidence, confidence)


def _motion_features(points: Tensor, confidence: Tensor) -> Tensor:
    """Compute motion features (N, T, 5 J + 2 + pairs) from joints (N, T, J, 2) and confidences (N, T, J).

    Joints are in units of the person's size. The features: joints relative to the trunk's centre, their motion, their
    confidences, the trunk's motion, the distances of `_PAIRS`.
    """
    shoulders, hips = (points[:, :, left : left + 2].mean(dim=2) for left in (_LEFT_SHOULDER, _LEFT_HIP))
    trunk = (shoulders + hips) / 2
    relative = points - trunk[:, :, None]
    # A motion of half the person's size between two chunks means that another person was chosen.
    trunk_motion = _differences(trunk).clamp(-0.5, 0.5)
    first, second = (list(part) for part in zip(*_PAIRS, strict=True))
    distances = (relative[:, :, first] - relative[:, :, second]).square().sum(dim=3).add(1e-8).sqrt()
    return torch.cat(
        [relative.flatten(2), _differences(relative.flatten(2)), confidence, trunk_motion, distances], dim=2
    )


def _differences(x: Tensor) -> Tensor:
    """Subtract from each chunk the one before: (N, T, D) -> (N, T, D); the first difference is zero."""
    return F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))


class PoseModel(ClipModel):
    """MoveNet as the encoder and temporal convolutions as the head; `PoseRecipe` describes each key."""

    encoder: PoseEncoder
    head: PoseHead

    def __init__(self, *, recipe: PoseRecipe, labels: int) -> None:
        super().__init__()
        self.encoder = PoseEncoder(height=recipe.height, width=recipe.width, multiplier=recipe.multiplier)
        if recipe.weights is not None:
            load_movenet(self.encoder.net, recipe.weights)
        self.head = PoseHead(recipe=recipe, labels=labels)

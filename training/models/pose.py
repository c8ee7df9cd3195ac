"""Locate the joints of the people in each frame, follow one person, and classify how the joints move.

A stroke or a gesture looks the same on every court, but courts differ. So a chunk's feature holds only the joints of
the M largest people. MoveNet (`training.models.movenet`), trained on images of many thousands of people, locates them
and is not trained further. The head follows one person through the window (`training.models.person_path`), centres the
person, scales it to unit size and reads the motion with temporal convolutions. Only the head learns from a small set.

The head reads each window and its mirror image with the same weights and averages the two: a left-hander's stroke is a
right-hander's in a mirror. Use another model where left and right are classes. Training moves the joints of every
window a little, as another camera or another body would, and each member of the head's ensemble learns from different
windows.

Shapes: N chunks or windows, T chunks of one frame, M people, J = 17 joints, F = 3 J + 2, K labels. Lengths are in units
of the frame's height, measured from the frame's centre.
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
from training.models.person_path import follow_person

_DISTANCE_OFFSET = 1.8
"""Cells, as in the published graphs: weighs the distance from the expected position against the heat map."""
_NEIGHBOURHOOD = 5
"""Cells across: a smaller distance between two centres is the same person."""
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
    people: int = Field(4, ge=1, le=32, description="people of a frame, largest first, among whom the head chooses")
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
    """Encode one frame (N, 1, H, W, 3) uint8 RGB into the joints of its M largest people, a feature (N, M, F).

    F = x and y of J joints, J confidences, the person's size and the confidence of the person. The first person has the
    highest confidence times size. Where a frame has fewer than M people, the rest is noise with a confidence near 0, or
    zeros.
    """

    y: Tensor
    x: Tensor

    def __init__(self, *, height: int, width: int, multiplier: float, people: int) -> None:
        super().__init__()
        self.people = people
        self.pixels = PixelInput(frames=1)
        self.net = MoveNet(multiplier=multiplier)
        rows, columns = height // STRIDE, width // STRIDE
        y, x = torch.meshgrid(torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
        self.register_buffer("y", y.flatten(), persistent=False)
        self.register_buffer("x", x.flatten(), persistent=False)
        self.centre, self.scale = ((columns - 1) / 2, (rows - 1) / 2), 1 / rows

    def extra_repr(self) -> str:
        """Describe the feature; the cache of features keeps the outputs of different encoders apart by it."""
        return f"people={self.people}"

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        maps = self.net(self.pixels(frames).flatten(0, 1))
        n = frames.shape[0]
        reach = maps.reach.reshape(n, JOINTS, 2, -1)
        # Order by confidence times size: a player is nearer to the camera than a spectator.
        confidence = maps.centre.sigmoid()  # (N, 1, rows, columns)
        sides = reach.amax(dim=1) - reach.amin(dim=1)  # (N, 2, P)
        score = confidence * sides.sum(dim=1).reshape(confidence.shape)
        # The cells about a person's centre predict the same person, so only the best cell of a neighbourhood counts.
        is_peak = score >= F.max_pool2d(score, _NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2)
        found, people = (score * is_peak).flatten(1).topk(self.people, dim=1)  # (N, M)
        offsets = reach.flatten(1, 2).gather(2, people[:, None].expand(-1, 2 * JOINTS, -1))  # (N, 2 J, M)
        offsets = offsets.transpose(1, 2).reshape(n, self.people, JOINTS, 2)
        y, x = self.y[people][..., None] + offsets[..., 0], self.x[people][..., None] + offsets[..., 1]  # (N, M, J)
        # A joint is where its heat map is high and close to the position that the person's centre predicts.
        heat = maps.heat.sigmoid().reshape(n, 1, JOINTS, -1)
        distance = ((self.y - y[..., None]).square() + (self.x - x[..., None]).square()).sqrt()  # (N, M, J, P)
        cell = (heat / (distance + _DISTANCE_OFFSET)).argmax(dim=3)  # (N, M, J)
        by_joint = cell.transpose(1, 2)  # (N, J, M)
        within = maps.offset.reshape(n, JOINTS, 2, -1).gather(3, by_joint[:, :, None].expand(-1, -1, 2, -1))
        within = within.permute(0, 3, 1, 2)  # (N, M, J, 2)
        y, x = self.y[cell] + within[..., 0], self.x[cell] + within[..., 1]
        points = torch.stack([(x - self.centre[0]) * self.scale, (y - self.centre[1]) * self.scale], dim=3)
        joint_confidence = heat[:, 0].gather(2, by_joint).transpose(1, 2)
        size = sides.amax(dim=1).gather(1, people)[..., None] * self.scale
        sure = confidence.flatten(1).gather(1, people)[..., None]
        features = torch.cat([points.flatten(2), joint_confidence, size, sure], dim=2)
        # Cells without a peak are equal in score, so each framework would choose other ones: give zeros.
        return features.where((found > 0)[..., None], 0.0)


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
    """Classify the features of one window (N, T, M, F), oldest first, into logits (N, K)."""

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
        features = follow_person(features)
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

    may_tie = True  # where a frame shows no person, the cells of a joint's map are nearly equal
    encoder: PoseEncoder
    head: PoseHead

    def __init__(self, *, recipe: PoseRecipe, labels: int) -> None:
        super().__init__()
        self.encoder = PoseEncoder(
            height=recipe.height, width=recipe.width, multiplier=recipe.multiplier, people=recipe.people
        )
        if recipe.weights is not None:
            load_movenet(self.encoder.net, recipe.weights)
        self.head = PoseHead(recipe=recipe, labels=labels)

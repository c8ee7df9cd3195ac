"""Measure how disorderly things move; the encoder has no weights, so the model cannot memorise a scene.

A network that learns from a few dozen cameras memorises the cameras. This encoder learns nothing. It measures optical
flow between frames (Lucas and Kanade 1981, coarse to fine as in Bouguet 2001), subtracts the camera's own motion, and
describes the rest by a few numbers. The number that best indicates a fight: how far, in blocks that move, the motion
of the parts cancels out in their mean. Walkers and cars move as a whole; people who fight do not. The head is a
linear classifier on the mean and the maximum of these numbers over the window.

Shapes: N chunks or windows, T chunks of t frames, Q = N (t - 1) pairs of frames, h and w half the frame's height and
width, V numbers per chunk, K labels. Motion is in pixels of the half-size frame per frame interval.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.models.base import BaseModelRecipe, ClipModel

LEVELS: Final = 3
"""Pyramid levels, each half the size of the one before. At the coarsest, 1/8 of the frame, an iteration moves a match
by up to 16 of the frame's pixels."""
BLOCKS: Final = (4, 8, 16)
"""Sides, in pixels, of the blocks in which motion is compared with its mean."""
_TINY: Final = 1e-8
_FLOOR: Final = 0.01  # added before the logarithm, so that much smaller values all count as zero
_MOVES: Final = (0.4, 0.6)  # speeds: still below the first, moving above the second, partly in between


class MotionRecipe(BaseModelRecipe):
    """The recipe keys of `MotionModel`."""

    kind: Literal["motion"] = "motion"
    height: int = Field(ge=32, le=4096, multiple_of=32, description="pixels")
    width: int = Field(ge=32, le=4096, multiple_of=32, description="pixels")
    frames_per_chunk: int = Field(4, ge=3, le=64, description="motion and acceleration are measured within a chunk")
    patch_size: int = Field(7, ge=3, le=31, description="side of the matched patch, in pixels of the half-size frame")
    damping: float = Field(
        0.02, gt=0, description="squared contrast that a patch needs to be matched; regularises the flow"
    )
    iterations: int = Field(3, ge=1, le=10, description="matching iterations at each of three sizes")
    dropout: float = Field(0.2, ge=0, lt=1)

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return MotionModel(recipe=self, labels=labels)


class LucasKanadeFlow(nn.Module):
    """Compute optical flow (Q, 2, h, w), x first, between grey frames (Q, 1, h, w).

    `finest_iterations` replaces `iterations` at the largest size, which costs most.
    Where a patch has too little contrast to be matched, the flow is zero.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        patch_size: int,
        damping: float,
        iterations: int,
        finest_iterations: int | None = None,
    ) -> None:
        super().__init__()
        self.patch_size, self.damping = patch_size, damping
        self.iterations = [finest_iterations or iterations, *[iterations] * (LEVELS - 1)]
        self.sizes = [(height >> level, width >> level) for level in range(LEVELS)]
        for level, (h, w) in enumerate(self.sizes):
            y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            # Pixel centres in grid_sample's units: -1 and 1 are the borders of the frame.
            self.register_buffer(f"centres_{level}", torch.stack([2 * x / w - 1, 2 * y / h - 1], -1), persistent=False)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Match from the coarsest level to the finest; each level starts from the flow of the one before."""
        befores, afters = [before], [after]
        for _ in range(1, LEVELS):
            befores.append(F.avg_pool2d(befores[-1], 2))
            afters.append(F.avg_pool2d(afters[-1], 2))
        flow = torch.zeros_like(befores[-1]).expand(-1, 2, -1, -1)
        for level in reversed(range(LEVELS)):
            if level < LEVELS - 1:
                flow = 2 * self._sample(_box(flow, 3), torch.zeros_like(befores[level]).expand(-1, 2, -1, -1), level)
            flow = self._match(flow, befores[level], afters[level], level)
        return flow

    def _match(self, flow: Tensor, before: Tensor, after: Tensor, level: int) -> Tensor:
        """Minimise the patch's squared difference by Newton's method; `damping` keeps the 2 x 2 matrix regular."""
        wide = F.pad(before, (1, 1, 1, 1), mode="replicate")
        dx = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2
        dy = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2
        squares = self._patch_mean(torch.cat([dx * dx, dy * dy], dim=1)) + self.damping
        xx, yy, xy = squares[:, :1], squares[:, 1:], self._patch_mean(dx * dy)
        determinant = xx * yy - xy * xy
        for _ in range(self.iterations[level]):
            residual = self._sample(after, flow, level) - before
            gradient = self._patch_mean(torch.cat([dx * residual, dy * residual], dim=1))
            bx, by = gradient[:, :1], gradient[:, 1:]
            step = torch.cat([xy * by - yy * bx, xy * bx - xx * by], dim=1) / determinant
            flow = flow + step.clamp(-2, 2)
        return flow

    def _patch_mean(self, x: Tensor) -> Tensor:
        """Average around each pixel with the triangular weights of two box filters."""
        return _box(_box(x, self.patch_size), self.patch_size)

    def _sample(self, x: Tensor, flow: Tensor, level: int) -> Tensor:
        """Sample `x`, of any size, at the pixels of `level` displaced by the flow."""
        h, w = self.sizes[level]
        centres: Tensor = getattr(self, f"centres_{level}")
        displacement = torch.stack([flow[:, 0] * (2 / w), flow[:, 1] * (2 / h)], dim=-1)
        return F.grid_sample(x, centres + displacement, mode="bilinear", padding_mode="border", align_corners=False)


def _box(x: Tensor, side: int) -> Tensor:
    """Average `side` x `side` pixels around each; separate passes over rows and columns are faster."""
    x = F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)


def _magnitude(flow: Tensor) -> Tensor:
    """Return the length of each flow vector: (…, 2, h, w) -> (…, 1, h, w)."""
    return (flow.square().sum(dim=-3, keepdim=True) + _TINY).sqrt()


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """Rise linearly from 0 at `low` to 1 at `high`: a threshold that rounding cannot flip."""
    return ((x - low) / (high - low)).clamp(0, 1)


def _mean(x: Tensor) -> Tensor:
    """Average (Q, C, h, w) -> (Q, C) axis by axis: one long sum in single precision differs between engines."""
    return x.mean(dim=3).mean(dim=2)


class MotionEncoder(nn.Module):
    """Describe the motion in one chunk (N, t, H, W, 3) uint8 RGB by the logarithms of V numbers (N, V); no weights."""

    directions: Tensor

    def __init__(
        self,
        *,
        height: int,
        width: int,
        frames_per_chunk: int,
        patch_size: int,
        damping: float,
        iterations: int,
        finest_iterations: int | None = None,
    ) -> None:
        super().__init__()
        self.frames = frames_per_chunk
        self.sides: tuple[int, int] = height // 2, width // 2
        self.flow = LucasKanadeFlow(
            height=self.sides[0],
            width=self.sides[1],
            patch_size=patch_size,
            damping=damping,
            iterations=iterations,
            finest_iterations=finest_iterations,
        )
        angles = torch.arange(8) * (math.pi / 4)
        self.register_buffer(
            "directions", torch.stack([angles.cos(), angles.sin()], 1)[:, :, None, None], persistent=False
        )

    def extra_repr(self) -> str:
        """Return the settings, which identify cached features, since there are no weights to identify them."""
        flow = self.flow
        return (
            f"{self.frames} frames, patch_size={flow.patch_size}, damping={flow.damping}, iterations={flow.iterations}"
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Encode one chunk; serving runs this graph once per chunk."""
        return self.measure(frames)[0]

    def measure(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers (N, V) and the motion between the frames, without the camera's, (Q, 2, h, w), x first."""
        h, w = self.sides
        grey = F.avg_pool2d(frames.to(torch.float32).mean(dim=4), 2)  # (N, t, h, w)
        centred = grey - grey.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)
        deviation = (
            centred.square().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True).sqrt()
        )
        grey = centred / (deviation + 8)
        before, after = (x.reshape(-1, 1, h, w) for x in (grey[:, :-1], grey[:, 1:]))
        flow = self._without_camera_motion(self.flow(before, after))
        pairs = torch.cat(
            [self._speed_features(flow), self._difference_features(after - before), self._disorder_features(flow)],
            dim=1,
        )
        pairs = pairs.reshape(-1, self.frames - 1, pairs.shape[1])
        numbers = torch.cat(
            [pairs.mean(dim=1), self._acceleration_features(flow.reshape(-1, self.frames - 1, 2, h, w))], dim=1
        )
        return (numbers.clamp(min=0) + _FLOOR).log(), flow

    def _without_camera_motion(self, flow: Tensor) -> Tensor:
        """Subtract the motion of most of the frame, a robust mean in which outliers have little weight."""
        common = _mean(flow)[:, :, None, None]
        for _ in range(3):
            distance = 4 * (flow - common).square().sum(dim=1, keepdim=True)
            weight = 1 - distance / (1 + distance)  # 1 / (1 + distance), but TensorRT 8.6 has no reciprocal
            common = (_mean(weight * flow) / _mean(weight))[:, :, None, None]
        return flow - common

    def _speed_features(self, flow: Tensor) -> Tensor:
        """Measure the share of the frame above each of four speeds, and power means of the speed."""
        speed = _magnitude(flow)
        moving = _mean(_ramp(speed, *_MOVES))
        faster = [_mean(_ramp(speed, 0.8 * limit, 1.2 * limit)) for limit in (0.5, 1, 2, 4)]
        power = [_mean(speed), _mean(speed.square()).sqrt(), _mean(speed.square().square()).sqrt().sqrt()]
        moving_speed = _mean(speed * _ramp(speed, *_MOVES)) / (moving + 1e-4)
        return torch.cat([*faster, *power, moving_speed, self._direction_entropy(flow, speed)], dim=1)

    def _direction_entropy(self, flow: Tensor, speed: Tensor) -> Tensor:
        """Return the entropy of the directions of motion, (Q, 1)."""
        along = F.conv2d(flow, self.directions).clamp(min=0).square() / (speed + 0.1)  # (Q, 8, h, w)
        share = _mean(along * _ramp(speed, *_MOVES))
        share = share / (share.sum(dim=1, keepdim=True) + 1e-5)
        return -(share * (share + 1e-6).log()).sum(dim=1, keepdim=True)

    def _difference_features(self, change: Tensor) -> Tensor:
        """Measure how much pixels change, relative to the frame's contrast; this works where matching fails, too."""
        change = change.abs()
        parts = [_mean(_ramp(change, low, high)) for low, high in ((0.08, 0.12), (0.25, 0.35), (0.7, 0.9))]
        return torch.cat([_mean(change), *parts], dim=1)

    def _disorder_features(self, flow: Tensor) -> Tensor:
        """Measure, in blocks of each size, how far motion cancels out and how much it varies."""
        speed, out = _magnitude(flow), []
        for side in BLOCKS:
            whole, each = _magnitude(F.avg_pool2d(flow, side)), F.avg_pool2d(speed, side)
            cancels = (1 - whole / (each + 1e-3)).clamp(min=0)
            lost = cancels * each
            moving = _ramp(each, *_MOVES)
            count = moving.sum(dim=3).sum(dim=2) + 0.05
            power = F.avg_pool2d(flow.square().sum(dim=1, keepdim=True), side)
            spread = (power - whole.square()).clamp(min=_TINY).sqrt()
            out += [
                (cancels * moving).sum(dim=3).sum(dim=2) / count,
                (lost * moving).sum(dim=3).sum(dim=2) / ((each * moving).sum(dim=3).sum(dim=2) + 0.05),
                (spread / (each + 0.3) * moving).sum(dim=3).sum(dim=2) / count,
                *(f for x in (lost, spread) for f in (_mean(x), x.amax(dim=3).amax(dim=2))),
            ]
        return torch.cat(out, dim=1)

    def _acceleration_features(self, flow: Tensor) -> Tensor:
        """Measure how flow changes over time, in moving pixels and overall: (N, t - 1, 2, h, w) -> (N, 4)."""
        moves = _ramp(_magnitude(flow), *_MOVES)
        change, either = (
            _magnitude(flow[:, 1:] - flow[:, :-1])[:, :, 0],
            torch.maximum(moves[:, 1:], moves[:, :-1])[:, :, 0],
        )
        rms = change.square().mean(dim=3).mean(dim=2).mean(dim=1).sqrt()
        there = (change * either).sum(dim=3).sum(dim=2) / (either.sum(dim=3).sum(dim=2) + 1)
        mean = change.mean(dim=3).mean(dim=2)
        return torch.stack([there.mean(dim=1), mean.mean(dim=1), rms, mean.amax(dim=1)], dim=1)


class MotionHead(nn.Module):
    """Classify the numbers of one window (N, T, V), oldest first, into logits (N, K)."""

    def __init__(self, *, numbers: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2 * numbers, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * numbers, labels)
        nn.init.zeros_(self.classify.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Classify one window; serving runs this graph once per window."""
        pooled = torch.cat([features.mean(dim=1), features.amax(dim=1)], dim=1)
        logits: Tensor = self.classify(self.dropout(self.norm(pooled)))
        return logits


class MotionModel(ClipModel):
    """An encoder that measures motion and a linear head; `MotionRecipe` describes each key."""

    # Where a patch can hardly be matched, the iterations amplify rounding: up to 8e-5 on rendered windows.
    encoder_tolerance = 1e-3

    encoder: MotionEncoder
    head: MotionHead

    def __init__(self, *, recipe: MotionRecipe, labels: int) -> None:
        super().__init__()
        sizes: dict[str, Any] = recipe.model_dump(exclude={"kind", "chunks", "dropout"})
        self.encoder = MotionEncoder(**sizes)
        with torch.inference_mode():
            chunk = torch.zeros(1, recipe.frames_per_chunk, recipe.height, recipe.width, 3, dtype=torch.uint8)
            numbers = self.encoder(chunk).shape[1]
        self.head = MotionHead(numbers=numbers, dropout=recipe.dropout, labels=labels)

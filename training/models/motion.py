"""How disorderly things move, and nothing else: no picture reaches the head, so it cannot learn a scene by heart.

A set of a few dozen cameras teaches a network the cameras. Here the encoder learns nothing: it measures the motion
between frames by matching (Lucas and Kanade 1981, coarse to fine as in Bouguet 2001), takes the camera's own out, and
describes what is left by a few numbers. One of them says most where people fight: in blocks that move, how far the
motion of the parts cancels out in their mean. Walkers and cars move as a whole, a brawl does not. The head is a
linear rule on those numbers' mean and peak over the window.

Shapes: N chunks or windows, T chunks of t frames, Q = N (t - 1) pairs of frames, h and w half the picture's sides,
V numbers of a chunk, K labels. Motion is in pixels of 1/2 the picture per frame interval.
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
"""Sizes, each half the one before. At the coarsest, 1/8 of the picture, a round finds up to 16 of its pixels."""
BLOCKS: Final = (4, 8, 16)
"""Sides of the blocks in which motion is compared with its mean."""
_TINY: Final = 1e-8
_FLOOR: Final = 0.01  # under a logarithm: what is smaller than this counts as nothing
_MOVES: Final = (0.4, 0.6)  # below it nothing moves, above it something does; between, in part


class MotionRecipe(BaseModelRecipe):
    """The words of `MotionModel`."""

    kind: Literal["motion"] = "motion"
    height: int = Field(ge=32, le=4096, multiple_of=32, description="pixels")
    width: int = Field(ge=32, le=4096, multiple_of=32, description="pixels")
    frames_per_chunk: int = Field(4, ge=3, le=64, description="motion and its change are measured within a chunk")
    window: int = Field(7, ge=3, le=31, description="side of the patch that is matched, of a picture of half the size")
    damping: float = Field(0.02, gt=0, description="contrast, squared, from which a patch is matched at all")
    iterations: int = Field(3, ge=1, le=10, description="of matching, at each of three sizes")
    dropout: float = Field(0.2, ge=0, lt=1)

    def build(self, *, labels: int) -> ClipModel:
        """See `BaseModelRecipe`."""
        return MotionModel(recipe=self, labels=labels)


class LucasKanadeFlow(nn.Module):
    """Grey pictures (Q, 1, h, w) before and after -> how each place moved (Q, 2, h, w), x first.

    Where a patch has too little contrast to be matched, it is said not to move.
    """

    def __init__(self, *, height: int, width: int, window: int, damping: float, iterations: int) -> None:
        super().__init__()
        self.window, self.damping, self.iterations = window, damping, iterations
        self.sizes = [(height >> level, width >> level) for level in range(LEVELS)]
        for level, (h, w) in enumerate(self.sizes):
            y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            # Where each place lies, in grid_sample's units: from -1 to 1 between the picture's borders.
            self.register_buffer(f"places_{level}", torch.stack([2 * x / w - 1, 2 * y / h - 1], -1), persistent=False)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """From the coarsest size to the finest, each starting from what the one before it found."""
        befores, afters = [before], [after]
        for _ in range(1, LEVELS):
            befores.append(F.avg_pool2d(befores[-1], 2))
            afters.append(F.avg_pool2d(afters[-1], 2))
        flow = torch.zeros_like(befores[-1]).expand(-1, 2, -1, -1)
        for level in reversed(range(LEVELS)):
            if level < LEVELS - 1:
                flow = 2 * self._sampled(_box(flow, 3), torch.zeros_like(befores[level]).expand(-1, 2, -1, -1), level)
            flow = self._matched(flow, befores[level], afters[level], level)
        return flow

    def _matched(self, flow: Tensor, before: Tensor, after: Tensor, level: int) -> Tensor:
        """Newton's steps on the patch's squared difference; `damping` keeps its 2 x 2 matrix from being singular."""
        wide = F.pad(before, (1, 1, 1, 1), mode="replicate")
        dx = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2
        dy = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2
        squares = self._patch(torch.cat([dx * dx, dy * dy], dim=1)) + self.damping
        xx, yy, xy = squares[:, :1], squares[:, 1:], self._patch(dx * dy)
        determinant = xx * yy - xy * xy
        for _ in range(self.iterations):
            gap = self._sampled(after, flow, level) - before
            pulls = self._patch(torch.cat([dx * gap, dy * gap], dim=1))
            bx, by = pulls[:, :1], pulls[:, 1:]
            step = torch.cat([xy * by - yy * bx, xy * bx - xx * by], dim=1) / determinant
            flow = flow + step.clamp(-2, 2)
        return flow

    def _patch(self, x: Tensor) -> Tensor:
        return _box(_box(x, self.window), self.window)

    def _sampled(self, x: Tensor, flow: Tensor, level: int) -> Tensor:
        """`x`, of any size, where the places of `level` have gone to."""
        h, w = self.sizes[level]
        places: Tensor = getattr(self, f"places_{level}")
        moved = torch.stack([flow[:, 0] * (2 / w), flow[:, 1] * (2 / h)], dim=-1)
        return F.grid_sample(x, places + moved, mode="bilinear", padding_mode="border", align_corners=False)


def _box(x: Tensor, side: int) -> Tensor:
    """The mean of `side` x `side` places around each, by rows, then by columns: the same, quicker."""
    x = F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)


def _size(flow: Tensor) -> Tensor:
    """(…, 2, h, w) -> (…, 1, h, w)."""
    return (flow.square().sum(dim=-3, keepdim=True) + _TINY).sqrt()


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`: a threshold that no rounding can flip."""
    return ((x - low) / (high - low)).clamp(0, 1)


def _mean(x: Tensor) -> Tensor:
    """(Q, C, h, w) -> (Q, C), row by row: one long sum in single precision differs from engine to engine."""
    return x.mean(dim=3).mean(dim=2)


class MotionEncoder(nn.Module):
    """One chunk's frames (N, t, H, W, 3) uint8 RGB -> logarithms of V numbers (N, V). It has nothing that learns."""

    directions: Tensor

    def __init__(
        self, *, height: int, width: int, frames_per_chunk: int, window: int, damping: float, iterations: int
    ) -> None:
        super().__init__()
        self.frames = frames_per_chunk
        self.sides: tuple[int, int] = height // 2, width // 2
        self.flow = LucasKanadeFlow(
            height=self.sides[0], width=self.sides[1], window=window, damping=damping, iterations=iterations
        )
        angles = torch.arange(8) * (math.pi / 4)
        self.register_buffer(
            "directions", torch.stack([angles.cos(), angles.sin()], 1)[:, :, None, None], persistent=False
        )

    def extra_repr(self) -> str:
        """What tells this encoder's features from another's."""
        flow = self.flow
        return f"{self.frames} frames, window={flow.window}, damping={flow.damping}, iterations={flow.iterations}"

    def forward(self, frames: Tensor) -> Tensor:
        """The graph that serving runs once per chunk."""
        h, w = self.sides
        grey = F.avg_pool2d(frames.to(torch.float32).mean(dim=4), 2)  # (N, t, h, w)
        centred = grey - grey.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)
        spread = centred.square().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True).sqrt()
        grey = centred / (spread + 8)
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
        return (numbers.clamp(min=0) + _FLOOR).log()

    def _without_camera_motion(self, flow: Tensor) -> Tensor:
        """Less what most of the picture does: a mean that counts what is far from it for little."""
        common = _mean(flow)[:, :, None, None]
        for _ in range(3):
            gap = 4 * (flow - common).square().sum(dim=1, keepdim=True)
            weight = 1 - gap / (1 + gap)  # 1 / (1 + gap), but TensorRT 8.6 has no reciprocal
            common = (_mean(weight * flow) / _mean(weight))[:, :, None, None]
        return flow - common

    def _speed_features(self, flow: Tensor) -> Tensor:
        """How much of the picture moves how fast; means of speed that more and more favour its peaks."""
        speed = _size(flow)
        moves = _mean(_ramp(speed, *_MOVES))
        faster = [_mean(_ramp(speed, 0.8 * limit, 1.2 * limit)) for limit in (0.5, 1, 2, 4)]
        power = [_mean(speed), _mean(speed.square()).sqrt(), _mean(speed.square().square()).sqrt().sqrt()]
        where = _mean(speed * _ramp(speed, *_MOVES)) / (moves + 1e-4)
        return torch.cat([*faster, *power, where, self._direction_entropy(flow, speed)], dim=1)

    def _direction_entropy(self, flow: Tensor, speed: Tensor) -> Tensor:
        """Entropy of the directions of what moves, (Q, 1)."""
        along = (flow[:, None] * self.directions).sum(dim=2).clamp(min=0).square() / (speed + 0.1)  # (Q, 8, h, w)
        share = _mean(along * _ramp(speed, *_MOVES))
        share = share / (share.sum(dim=1, keepdim=True) + 1e-5)
        return -(share * (share + 1e-6).log()).sum(dim=1, keepdim=True)

    def _difference_features(self, change: Tensor) -> Tensor:
        """What changed, in parts of the picture's own contrast, where matching fails too."""
        change = change.abs()
        parts = [_mean(_ramp(change, low, high)) for low, high in ((0.08, 0.12), (0.25, 0.35), (0.7, 0.9))]
        return torch.cat([_mean(change), *parts], dim=1)

    def _disorder_features(self, flow: Tensor) -> Tensor:
        """In blocks of each size: how far motion cancels out, and how it is spread."""
        speed, out = _size(flow), []
        for side in BLOCKS:
            whole, each = _size(F.avg_pool2d(flow, side)), F.avg_pool2d(speed, side)
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
        """(N, t - 1, 2, h, w) -> (N, 4): how motion changes from pair to pair, where it moves and everywhere."""
        moves = _ramp(_size(flow), *_MOVES)
        change, either = _size(flow[:, 1:] - flow[:, :-1])[:, :, 0], torch.maximum(moves[:, 1:], moves[:, :-1])[:, :, 0]
        rms = change.square().mean(dim=3).mean(dim=2).mean(dim=1).sqrt()
        there = (change * either).sum(dim=3).sum(dim=2) / (either.sum(dim=3).sum(dim=2) + 1)
        mean = change.mean(dim=3).mean(dim=2)
        return torch.stack([there.mean(dim=1), mean.mean(dim=1), rms, mean.amax(dim=1)], dim=1)


class MotionHead(nn.Module):
    """The numbers of one window (N, T, V), oldest first -> logits (N, K)."""

    def __init__(self, *, numbers: int, dropout: float, labels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2 * numbers, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * numbers, labels)
        nn.init.zeros_(self.classify.weight)

    def forward(self, features: Tensor) -> Tensor:
        """The graph that serving runs once per window."""
        pooled = torch.cat([features.mean(dim=1), features.amax(dim=1)], dim=1)
        logits: Tensor = self.classify(self.dropout(self.norm(pooled)))
        return logits


class MotionModel(ClipModel):
    """Built from its recipe, whose words say what each means."""

    encoder: MotionEncoder
    head: MotionHead

    def __init__(self, *, recipe: MotionRecipe, labels: int) -> None:
        super().__init__()
        words: dict[str, Any] = recipe.model_dump(exclude={"kind", "chunks", "dropout"})
        self.encoder = MotionEncoder(**words)
        with torch.inference_mode():
            chunk = torch.zeros(1, recipe.frames_per_chunk, recipe.height, recipe.width, 3, dtype=torch.uint8)
            numbers = self.encoder(chunk).shape[1]
        self.head = MotionHead(numbers=numbers, dropout=recipe.dropout, labels=labels)

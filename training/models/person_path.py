"""Follow one person through a window: choose one of the people of each frame by dynamic programming.

The largest person of a frame is not always the same one: beside a player there are opponents, coaches and spectators.
A path takes one person from each frame. Its score is the sum over its steps of confidence times size times the motion
of the arms, less a cost for jumps of place and size. The path with the highest score is found exactly (the Viterbi
algorithm). The graph has no loop, because a window has a fixed number of steps.

A frame may miss the person. So a path may keep the person of the frame before for one frame, which gains nothing.

Shapes: N windows, T chunks of one frame, M people in a frame, J = 17 joints, F = 3 J + 2, S = 2 M states of a path in a
frame: the people of this frame, then those of the frame before. Lengths are in units of the person's size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from training.models.movenet import JOINTS

_TRUNK = (5, 6, 11, 12)
"""Shoulders and hips."""
_ARMS = (7, 8, 9, 10)
"""Elbows and wrists."""
_PLACE, _GROWTH = (0.25, 0.5), (math.log(1.25), math.log(1.6))
"""Lengths, and logarithms of the ratio of two sizes, between two frames. Up to the first value, a step is the motion of
one person; from the second value on, it is a jump to another person."""
_JUMP_COST = 4.0
"""In steps of the largest person with the most motion."""
_STILL, _FULL_MOTION = 0.02, 0.2
"""Lengths that the arms move about the trunk between two frames: the gain of a person at rest, and the largest gain."""


def follow_person(people: Tensor) -> Tensor:
    """Choose one person from each frame: features (N, T, M, F) of `PoseEncoder` -> (N, T, F)."""
    with torch.no_grad():
        path = _best_path(*_scores(people))
    states = _with_frame_before(people)
    return states.gather(2, path[:, :, None, None].expand(-1, -1, 1, states.shape[3]))[:, :, 0]


def _with_frame_before(x: Tensor) -> Tensor:
    """Append to each frame's people those of the frame before: (N, T, M, ...) -> (N, T, S, ...)."""
    return torch.cat([x, torch.cat([x[:, :1], x[:, :-1]], dim=1)], dim=2)


def _scores(people: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of the first states (N, S), and of the steps from each state to each state (N, T - 1, S, S)."""
    points = people[..., : 2 * JOINTS].reshape(*people.shape[:3], JOINTS, 2)
    size, confidence = people[..., 3 * JOINTS].clamp(min=1e-3), people[..., 3 * JOINTS + 1]  # (N, T, M)
    trunk = points[..., _TRUNK, :].mean(dim=3)
    arms = (points[..., _ARMS, :] - trunk[..., None, :]) / size[..., None, None]
    gain = confidence * size
    gain = gain / gain.amax(dim=2).mean(dim=1).clamp(min=1e-6)[:, None, None]
    gain = torch.cat([gain, torch.zeros_like(gain)], dim=2)
    size, trunk, arms = (_with_frame_before(x) for x in (size, trunk, arms))

    before, after = np.s_[:, :-1, :, None], np.s_[:, 1:, None]
    place = (trunk[before] - trunk[after]).square().sum(dim=4).sqrt() / torch.maximum(size[before], size[after])
    growth = (size[before].log() - size[after].log()).abs()
    motion = (arms[before] - arms[after]).square().sum(dim=5).sqrt().mean(dim=4).clamp(max=_FULL_MOTION)
    # Both ends count. Otherwise a step back from a doubtful place beside the person would gain a large motion.
    step = torch.minimum(gain[before], gain[after]) * (_STILL + motion)
    full = _STILL + _FULL_MOTION
    return gain[:, 0] * (_STILL / full), step / full - _JUMP_COST * (_ramp(place, *_PLACE) + _ramp(growth, *_GROWTH))


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """Rise from 0 at `low` to 1 at `high`."""
    return ((x - low) / (high - low)).clamp(0, 1)


def _best_path(first: Tensor, steps: Tensor) -> Tensor:
    """Return the states (N, T) of the path with the highest score; the arguments are those that `_scores` returns."""
    best, sources = first, []
    for step in steps.unbind(dim=1):
        best, source = (best[:, :, None] + step).max(dim=1)
        sources.append(source)
    path = [best.argmax(dim=1, keepdim=True)]
    for source in reversed(sources):
        path.append(source.gather(1, path[-1]))
    return torch.cat(path[::-1], dim=1)

"""Paths of a fingertip: the ten shapes, drawn by people or from templates, and other motions.

Paths are (F, 2) float64: x and y as shares of the frame's width and height, y downwards. The class includes the
direction: a circle is drawn counter-clockwise, a square clockwise, as in EgoGestAR (Mohatta et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.arrays import F64
from training.errors import DataError

Rng = np.random.Generator

DRAWN_SIZE = (640.0, 480.0)  # width and height, in pixels, of the frames in which people drew paths
_ASPECT = DRAWN_SIZE[0] / DRAWN_SIZE[1]

_STAR = [(-0.45, 0.95), (0.0, -1.0), (0.5, 0.95), (-0.95, -0.2), (0.95, -0.3), (-0.5, 1.0)]
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "caret": [(-0.7, 1.0), (0.0, -1.0), (0.7, 1.0)],
    "delete": [(-0.8, -1.0), (0.9, 0.8), (-0.9, 0.8), (0.9, -1.0)],
    "down": [(0.0, -1.0), (0.0, 1.0)],
    "left": [(1.0, 0.0), (-1.0, 0.0)],
    "right": [(-1.0, 0.0), (1.0, 0.0)],
    "square": [(-1.0, -0.9), (1.0, -0.9), (1.0, 0.9), (-1.0, 0.9), (-1.0, -0.9)],
    "star": _STAR,
    "tick": [(-0.8, -0.3), (-0.25, 0.7), (1.0, -0.8)],
    "up": [(0.0, 1.0), (0.0, -1.0)],
}
_STRAIGHT = ("down", "left", "right", "up")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPaths:
    """Paths that people drew: `points` (P, 2) pixels of 640x480; path i is offsets[i] to offsets[i + 1]."""

    points: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    labels: tuple[str, ...]

    def choose(self, rng: Rng, label: str) -> F64 | None:
        """Choose a path of `label`, (P, 2) shares of the frame, or None where there is none."""
        found = [i for i, name in enumerate(self.labels) if name == label]
        if not found:
            return None
        i = found[int(rng.integers(len(found)))]
        return np.asarray(self.points[self.offsets[i] : self.offsets[i + 1]] / DRAWN_SIZE, np.float64)


def load_paths(path: Path) -> DrawnPaths:
    """Read an .npz with `points`, `offsets` and `labels`. Raises `DataError` for a file of another format."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            points, offsets, labels = npz["points"], npz["offsets"].astype(np.int64), npz["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no drawn paths ({error}); the file must hold points, offsets and labels") from error
    if points.ndim != 2 or points.shape[1] != 2 or len(offsets) != len(labels) + 1 or offsets[-1] != len(points):
        raise DataError(
            f"{path}: points {points.shape}, {len(offsets)} offsets and {len(labels)} labels do not fit together"
        )
    if (np.diff(offsets) < 2).any():
        raise DataError(f"{path}: path {int((np.diff(offsets) < 2).argmax())} has fewer than two points; remove it")
    return DrawnPaths(points=points.astype(np.float32), offsets=offsets, labels=tuple(str(name) for name in labels))


def gesture_path(rng: Rng, label: str, frames: int, drawn: DrawnPaths | None) -> F64:
    """Draw one of the ten shapes somewhere in the frame; sometimes the finger rests at the start or the end."""
    path = drawn.choose(rng, label) if drawn is not None and rng.random() < 0.6 else None
    if path is None:
        path = _template(rng, label)
        if rng.random() < 0.15 and label == "caret":  # some people close it
            path = np.concatenate([path, np.linspace(path[-1], path[0], 12)[1:]])
    else:
        path = _vary(rng, path)
    return _timed(rng, _placed(rng, path), frames)


def other_path(rng: Rng, frames: int) -> F64:
    """Draw another motion: rest, to and fro, up and down, a wave, a scribble, an eight, a spiral, in and out."""
    kind = rng.choice(["rest", "fro", "scribble", "eight", "pass", "shake"], p=[0.15, 0.27, 0.25, 0.08, 0.1, 0.15])
    t = np.linspace(0, 1, 120)
    if kind == "rest":
        path = rng.uniform(0.3, 0.7, 2) + _wobble(rng, 120, 0.02)
        return _timed(rng, path, frames)
    if kind == "fro":
        angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
        turns = rng.choice([2, 3, 4, 5, 6]) + rng.uniform(-0.2, 0.2)
        along = np.cos(np.pi * turns * t) * rng.choice([-1, 1]) * rng.uniform(0.5, 1.0)
        path = along[:, None] * np.array([np.cos(angle), np.sin(angle)]) + _wobble(rng, 120, rng.uniform(0.03, 0.3))
    elif kind == "scribble":
        path = np.cumsum(_wobble(rng, 120, 1.0), axis=0) if rng.random() < 0.4 else _wobble(rng, 120, 1.0)
    elif kind == "eight":
        turn = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 2 * np.pi * t * rng.uniform(0.9, 2.2)
        path = np.stack([np.sin(turn), np.sin(2 * turn) * rng.uniform(0.3, 0.7)], axis=1)
    elif kind == "pass":  # the hand comes, points at something, and leaves the way it came
        path = np.array([[0.2, 1.6], [0.0, 0.0], [0.05, 0.05], [0.3, 1.7]]) * rng.uniform(0.7, 1.2, 2)
        path = _through(path + rng.normal(0, 0.12, path.shape), 120, 0.06, rng)
    else:
        path = _wobble(rng, 120, 0.25) + np.array([rng.normal(0, 0.3), rng.normal(0, 0.3)]) * t[:, None]
    return _timed(rng, _placed(rng, path, squeeze=kind != "pass"), frames)


def _template(rng: Rng, label: str) -> F64:
    if label == "circle":
        start = rng.uniform(-np.pi, np.pi) * 0.4 - np.pi * 0.25  # most begin at the top or at the right
        turn = start - 2 * np.pi * np.linspace(0, rng.uniform(0.88, 1.12), 160)
        path = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (1 + _wobble(rng, 160, 0.06)[:, :1])
        return _tilted(rng, path)
    corners = np.array(_CORNERS[label])
    spread = 0.06 if label in _STRAIGHT else 0.13
    corners = corners + rng.normal(0, spread, corners.shape)
    return _tilted(rng, _through(corners, 160, rng.uniform(0, 0.12), rng))


def _tilted(rng: Rng, path: F64) -> F64:
    """Rotate a square path a little, and give it about the size and proportions of people's drawings in a 4:3 frame."""
    a = rng.normal(0, 0.09)
    turned = path @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    size = rng.uniform(0.14, 0.36)
    stretched = turned * size * np.exp(rng.normal(0, 0.15, 2)) * [1.0, min(_ASPECT, 0.4 / size)]
    return np.asarray(stretched + 0.5, np.float64)


def _vary(rng: Rng, path: F64) -> F64:
    centre = path.mean(axis=0)
    a = rng.normal(0, 0.07)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    around = (path - centre) * [_ASPECT, 1] @ turn / [_ASPECT, 1]
    around = around * np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.12, 2))
    return np.asarray(around + centre + _wobble(rng, len(path), rng.uniform(0, 0.02)), np.float64)


def _through(corners: F64, points: int, roundness: float, rng: Rng) -> F64:
    """Draw a line through `corners` at about constant speed, with rounded corners and slightly bent strokes."""
    lengths = np.hypot(*np.diff(corners, axis=0).T)
    at = np.concatenate([[0], np.cumsum(lengths)]) / lengths.sum()
    t = np.linspace(0, 1, points)
    path = np.stack([np.interp(t, at, corners[:, axis]) for axis in (0, 1)], axis=1)
    bend = np.abs(np.sin(np.pi * np.interp(t, at, np.arange(len(corners)))))[:, None]
    return _smooth(path + bend * rng.normal(0, 0.06, 2), roundness * points)


def _smooth(path: F64, sigma: float) -> F64:
    if sigma < 0.5:
        return path
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], kernel / kernel.sum(), mode="valid") for i in (0, 1)], axis=1)


def _wobble(rng: Rng, points: int, size: float) -> F64:
    """Draw smooth noise (P, 2) of about `size`."""
    knots = int(rng.integers(4, 11))
    noise = rng.normal(0, size, (knots, 2))
    t = np.linspace(0, knots - 1, points)
    return _smooth(np.stack([np.interp(t, np.arange(knots), noise[:, i]) for i in (0, 1)], axis=1), points / knots / 3)


def _placed(rng: Rng, path: F64, *, squeeze: bool = True) -> F64:
    """Move the path, and shrink it where needed, so that the tip rarely leaves the frame."""
    low, high = path.min(axis=0), path.max(axis=0)
    if squeeze:
        limit = rng.uniform([0.5, 0.45], [0.95, 0.9])
        path = (path - (low + high) / 2) * np.minimum(1, limit / np.maximum(high - low, 1e-6))
    else:
        path = path - (low + high) / 2
    half = (path.max(axis=0) - path.min(axis=0)) / 2
    free = np.maximum(0.5 - half - 0.03, 0)
    centre = 0.5 + rng.normal(0, 1, 2) * np.minimum(free, [0.16, 0.14]) + [0, 0.03]
    if rng.random() < 0.12:
        centre += rng.uniform(-0.12, 0.12, 2)
    return np.asarray(path + centre, np.float64)


def _timed(rng: Rng, path: F64, frames: int) -> F64:
    """Resample the path to `frames` at a varying pace, in some clips with rests before and after."""
    pace = np.exp(_wobble(rng, 64, rng.uniform(0.1, 0.5))[:, 0])
    at = np.concatenate([[0], np.cumsum(pace)])
    at = at / at[-1]
    before, after = rng.choice([0.0, 1.0], 2, p=[0.5, 0.5]) * rng.exponential(0.07, 2)
    if rng.random() < 0.15:
        before, after = rng.uniform(0, 0.35, 2)
    start, stop = min(before, 0.4), 1 - min(after, 0.4)
    t = np.clip((np.linspace(0, 1, frames) - start) / (stop - start), 0, 1)
    t = np.interp(t, np.linspace(0, 1, len(at)), at) * (len(path) - 1)
    x = np.stack([np.interp(t, np.arange(len(path)), path[:, i]) for i in (0, 1)], axis=1)
    return np.asarray(x + rng.normal(0, 0.002, x.shape))

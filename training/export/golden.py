"""Choose the golden window of a bundle: wrong numbers must show on it, and it must not show real people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engines.arrays import F32, U8
from training.data.shape import Shape

CANDIDATES = 24
"""The number of windows from which one is chosen."""
CLEAR_LEAD = 0.22
"""The smallest accepted lead of the best class's probability over the second's.

It is slightly more than twice the tolerance of INT8, the coarsest precision.
"""
CLEAR_DISTANCE = 0.06
"""The smallest accepted distance of an independent label's probability to its threshold, more than INT8's tolerance."""


def choose_golden_window(model: nn.Module, windows: Iterable[U8], limits: F32 | None = None) -> U8:
    """Return the first window of `rank_golden_windows`."""
    return rank_golden_windows(model, windows, limits)[0]


def rank_golden_windows(model: nn.Module, windows: Iterable[U8], limits: F32 | None = None) -> list[U8]:
    """Rank windows (T, t, H, W, 3) uint8 as the golden window of a model, best first.

    `limits`: (K,) the thresholds of independent labels, else None.
    """
    ranked = []
    with torch.inference_mode():
        for window in windows:
            copy = np.array(window)
            (logits,) = model(torch.from_numpy(copy)[None])
            ranked.append((_lead_rank(logits) if limits is None else _distance_rank(logits, limits), copy))
    assert ranked  # there is at least one window
    return [window for _, window in sorted(ranked, key=lambda item: item[0])]


def _distance_rank(logits: Tensor, limits: F32) -> tuple[bool, float]:
    """Put the least certain window first among those in which all independent labels are far from their thresholds.

    A label near its threshold could be present in one engine and absent in another. Windows with such a label come
    last, those with the largest smallest distance first.
    """
    probabilities = logits.sigmoid().numpy()
    nearest = float(np.abs(probabilities - limits).min())
    is_near = nearest < CLEAR_DISTANCE
    return is_near, -nearest if is_near else float(np.abs(probabilities - 0.5).min())


def _lead_rank(logits: Tensor) -> tuple[bool, float]:
    """Put the least certain window first among those whose two best classes are far apart.

    With probabilities near 0 or 1, wrong numbers would not be noticed. With two nearly equal probabilities, an engine
    within its precision's tolerance could have another best class. Such windows come last, the largest lead first.
    """
    best, second = logits.softmax(dim=-1).topk(2).values.tolist()
    is_near = best - second < CLEAR_LEAD
    return is_near, second - best if is_near else best


def render_windows(shape: Shape, *, count: int = CANDIDATES) -> Iterator[U8]:
    """Render windows of coloured discs and bars that drift over a soft background: the same on every machine."""
    for seed in range(count):
        rng = np.random.default_rng([seed, 17])
        coarse = rng.integers(30, 220, (4, 5, 3)).astype(np.uint8)
        ground = np.asarray(cv2.resize(coarse, (shape.width, shape.height), interpolation=cv2.INTER_CUBIC), np.uint8)
        objects = [_draw_object(rng) for _ in range(rng.integers(2, 6))]
        frames = np.stack([_render_frame(ground, objects, i / max(shape.window - 1, 1)) for i in range(shape.window)])
        yield frames.reshape(shape.chunks, shape.frames_per_chunk, shape.height, shape.width, 3)


def _draw_object(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, tuple[int, int, int], bool]:
    """Draw (start, end, size, colour, whether it is a disc); places and size are shares of the frame."""
    colour = rng.integers(0, 256, 3)
    return (
        rng.uniform(0, 1, 2),
        rng.uniform(0, 1, 2),
        float(rng.uniform(0.05, 0.25)),
        (int(colour[0]), int(colour[1]), int(colour[2])),
        bool(rng.random() < 0.5),
    )


def _render_frame(
    ground: U8, objects: list[tuple[np.ndarray, np.ndarray, float, tuple[int, int, int], bool]], progress: float
) -> U8:
    frame = ground.copy()
    height, width = frame.shape[:2]
    for begin, end, size, colour, is_disc in objects:
        x, y = begin + (end - begin) * progress
        radius = max(int(size * height), 1)
        centre = (int(x * width), int(y * height))
        if is_disc:
            cv2.circle(frame, centre, radius, colour, -1)
        else:
            corner = (centre[0] + radius, centre[1] + max(radius // 3, 1))
            cv2.rectangle(frame, (centre[0] - radius, centre[1] - max(radius // 3, 1)), corner, colour, -1)
    return np.asarray(frame, np.uint8)

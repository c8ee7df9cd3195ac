"""The golden window of a bundle: one on which a wrong number would be noticed, and that shows nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from torch import nn

from engines.arrays import U8
from training.data.recipes import Shape

CANDIDATES = 24
CLEAR_LEAD = 0.22
"""Of the best class's probability over the second's: twice what INT8, the coarsest precision, may be off, and a bit."""


def telling_window(model: nn.Module, windows: Iterable[U8]) -> U8:
    """Of the windows, each (T, t, H, W, 3) uint8, the least sure one that is no near tie.

    Where probabilities are near 0 or 1, wrong numbers would go unnoticed; where two are nearly equal, the best class of
    an engine that is right within its precision's tolerance would be the other one.
    """
    seen = []
    with torch.inference_mode():
        for window in windows:
            best, second = model(torch.from_numpy(np.array(window))[None]).softmax(dim=-1)[0].topk(2).values.tolist()
            seen.append((best - second < CLEAR_LEAD, best if best - second >= CLEAR_LEAD else second - best, window))
    assert seen  # there is at least one
    return np.array(min(seen, key=lambda item: item[:2])[2])


def drawn_windows(shape: Shape, *, count: int = CANDIDATES) -> Iterator[U8]:
    """Windows of coloured discs and bars that drift over a soft background: the same on every machine."""
    for seed in range(count):
        rng = np.random.default_rng([seed, 17])
        coarse = rng.integers(30, 220, (4, 5, 3)).astype(np.uint8)
        ground = np.asarray(cv2.resize(coarse, (shape.width, shape.height), interpolation=cv2.INTER_CUBIC), np.uint8)
        things = [_thing(rng) for _ in range(rng.integers(2, 6))]
        frames = np.stack([_picture(ground, things, i / max(shape.window - 1, 1)) for i in range(shape.window)])
        yield frames.reshape(shape.chunks, shape.frames_per_chunk, shape.height, shape.width, 3)


def _thing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, tuple[int, int, int], bool]:
    """(where from, where to, as shares of the picture, size, colour, whether it is round)."""
    colour = rng.integers(0, 256, 3)
    return (
        rng.uniform(0, 1, 2),
        rng.uniform(0, 1, 2),
        float(rng.uniform(0.05, 0.25)),
        (int(colour[0]), int(colour[1]), int(colour[2])),
        bool(rng.random() < 0.5),
    )


def _picture(
    ground: U8, things: list[tuple[np.ndarray, np.ndarray, float, tuple[int, int, int], bool]], at: float
) -> U8:
    picture = ground.copy()
    height, width = picture.shape[:2]
    for begin, end, size, colour, is_round in things:
        x, y = begin + (end - begin) * at
        radius = max(int(size * height), 1)
        centre = (int(x * width), int(y * height))
        if is_round:
            cv2.circle(picture, centre, radius, colour, -1)
        else:
            corner = (centre[0] + radius, centre[1] + max(radius // 3, 1))
            cv2.rectangle(picture, (centre[0] - radius, centre[1] - max(radius // 3, 1)), corner, colour, -1)
    return np.asarray(picture, np.uint8)

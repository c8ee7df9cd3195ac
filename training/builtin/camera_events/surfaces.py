"""Draw surfaces: noise, plain and mottled ones, stripes, tiles, repeated patterns, and mixtures of random fields."""

from __future__ import annotations

import cv2
import numpy as np

from engines.arrays import F32

Rng = np.random.Generator


def fractal_noise(rng: Rng, height: int, width: int, *, roughness: float, channels: int = 1) -> F32:
    """Draw noise (height, width, channels) in 0..1 whose octaves fall off by `roughness` (0 smooth, 1 white)."""
    total = np.zeros((height, width, channels), np.float32)
    size, weight = 2, 1.0
    while size < max(height, width):
        rows, columns = min(size, height), min(int(size * 1.5), width)
        drawn = rng.standard_normal((rows, columns, channels), dtype=np.float32)
        octave = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC)
        total += weight * octave.reshape(height, width, channels)
        size, weight = size * 2, weight * roughness
    total -= total.min()
    return np.asarray(total / (total.max() + 1e-6), np.float32)


def random_colour(rng: Rng, *, saturation: float = 0.35, low: float = 20, high: float = 235) -> F32:
    """Draw a colour, (3,), whose grey level is from `low` to `high`; its channels differ with `saturation`."""
    grey = rng.uniform(low, high)
    return np.asarray(np.clip(grey * (1 + saturation * rng.normal(0, 0.5, 3)), 0, 255), np.float32)


def texture(rng: Rng, height: int, width: int) -> F32:
    """Draw a plain, mottled, striped, tiled, leafy, printed or patterned surface; (height, width, 3) in 0..255."""
    kinds = ["plain", "mottled", "stripes", "tiles", "leaves", "print", "pattern"]
    kind = rng.choice(kinds, p=[0.24, 0.24, 0.1, 0.14, 0.14, 0.09, 0.05])
    if kind == "pattern":
        return repeated_pattern(rng, height, width)
    base = np.full((height, width, 3), random_colour(rng), np.float32)
    other = random_colour(rng)
    if kind == "plain":
        return base * (0.94 + 0.12 * fractal_noise(rng, height, width, roughness=0.5))
    if kind == "mottled":
        mask = fractal_noise(rng, height, width, roughness=rng.uniform(0.5, 0.95))
    elif kind == "leaves":
        noise = fractal_noise(rng, height, width, roughness=rng.uniform(0.8, 1.05))
        mask = np.clip((noise - 0.5) * rng.uniform(2, 8) + 0.5, 0, 1)
    else:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.02, 0.2) * width + 3
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        if kind == "stripes":
            mask = (np.sin(along * 2 * np.pi / period) > rng.uniform(-0.9, 0.9))[..., None]
        elif kind == "tiles":
            joint = rng.uniform(0.03, 0.12)
            mask = (((along / period) % 1 < joint) | ((across / period * rng.uniform(0.5, 2)) % 1 < joint))[..., None]
        else:
            cells = rng.random((int(height / period) + 2, int(width / period) + 2)) < 0.4
            grid = cv2.resize(cells.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
            mask = np.asarray(grid, np.float32)[..., None]
    mixed = base + (other - base) * mask.astype(np.float32)
    return np.asarray(mixed * (0.9 + 0.2 * fractal_noise(rng, height, width, roughness=0.6)), np.float32)


def repeated_pattern(rng: Rng, height: int, width: int) -> F32:
    """Draw one small motif in rows and columns, as on cloth or wallpaper; (height, width, 3) in 0..255.

    The motif has checks, crossing stripes, dots, or a random drawing, in two to four colours. The surface is turned,
    and lies in waves.
    """
    size = int(rng.choice([2, 4, 6, 8, 12]))
    colours = np.stack([random_colour(rng, saturation=0.8) for _ in range(4)])
    kind = rng.choice(["checks", "crossing", "dots", "drawing"], p=[0.2, 0.3, 0.25, 0.25])
    if kind == "checks":
        motif = colours[np.add.outer(np.arange(2), np.arange(2)) % 2]
    elif kind == "crossing":
        along, across = colours[rng.integers(0, 2, size)], colours[rng.integers(0, 3, size)]
        motif = (along[:, None] + across[None]) / 2
    elif kind == "dots":
        y, x = np.mgrid[-1:1:24j, -1:1:24j]
        motif = colours[(np.hypot(x, y) < rng.uniform(0.3, 0.9)).astype(np.int64)]
    else:
        motif = colours[rng.integers(0, int(rng.integers(2, 5)), (size, size))]
        motif = np.concatenate([motif, motif[:, ::-1]], axis=1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = (fractal_noise(rng, height, width, roughness=0.2, channels=2) - 0.5) * rng.choice([0, 0.1, 0.3]) * width
    angle = rng.uniform(0, np.pi / 2) if rng.random() < 0.6 else 0.0
    period = np.exp(rng.uniform(np.log(0.03), np.log(0.3))) * width * np.array([1, rng.uniform(0.6, 1.5)])
    columns = ((x + waves[..., 0]) * np.cos(angle) + (y + waves[..., 1]) * np.sin(angle)) / max(period[0], 3)
    rows = ((y + waves[..., 1]) * np.cos(angle) - (x + waves[..., 0]) * np.sin(angle)) / max(period[1], 3)
    down = np.floor(rows * motif.shape[0]).astype(np.int64) % motif.shape[0]
    across = np.floor(columns * motif.shape[1]).astype(np.int64) % motif.shape[1]
    drawn = motif[down, across]
    return np.asarray(drawn * (0.85 + 0.3 * fractal_noise(rng, height, width, roughness=0.4)), np.float32)


def mixed_texture(rng: Rng, height: int, width: int) -> F32:
    """Draw a surface that no other function here draws: two or three random fields, combined, bent and coloured.

    A network that has seen a thousand of these should also know the surfaces that nobody thought of. Returns
    (height, width, 3) in 0..255.
    """
    field = _random_field(rng, height, width)
    for _ in range(int(rng.integers(1, 3))):
        other = _random_field(rng, height, width)
        share = rng.uniform(0.2, 0.8)
        combine = rng.choice(["mean", "product", "largest", "choice"])
        if combine == "mean":
            field = field * share + other * (1 - share)
        elif combine == "product":
            field = field * other
        elif combine == "largest":
            field = np.maximum(field, other)
        else:
            field = np.where(_random_field(rng, height, width) > share, field, other)
    field = field - field.min()
    field = field / (field.max() + 1e-6)
    if rng.random() < 0.4:  # contour lines and folds of the values
        field = 0.5 + 0.5 * np.sin(field * rng.uniform(4, 40))
    colours = np.stack(
        [random_colour(rng, saturation=rng.choice([0.1, 0.5, 1.2])) for _ in range(int(rng.integers(2, 6)))]
    )
    place = np.clip(field, 0, 1) * (len(colours) - 1)
    if rng.random() < 0.35:  # flat areas, as in print
        return np.asarray(colours[np.rint(place).astype(np.int64)], np.float32)
    below = np.minimum(place.astype(np.int64), len(colours) - 2)
    part = (place - below)[..., None].astype(np.float32)
    return np.asarray(colours[below] * (1 - part) + colours[below + 1] * part, np.float32)


def _random_field(rng: Rng, height: int, width: int) -> F32:
    """Draw noise, spots, stripes, rings, cells or fibres, (height, width) in about 0..1."""
    kind = rng.choice(["noise", "spots", "stripes", "rings", "cells", "fibres"])
    if kind == "noise":
        return fractal_noise(rng, height, width, roughness=rng.uniform(0.3, 1.0))[..., 0]
    if kind == "spots":  # noise of one size
        rows = int(np.exp(rng.uniform(np.log(4), np.log(60))))
        drawn = rng.random((rows, max(int(rows * width / height * rng.uniform(0.5, 2)), 2)), dtype=np.float32)
        return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    if kind == "cells":  # the distance to the nearest of many points
        points = np.ones((height, width), np.uint8)
        count = int(np.exp(rng.uniform(np.log(10), np.log(600))))
        points[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
        distance = cv2.distanceTransform(points, cv2.DIST_L2, 3)
        return np.asarray(np.minimum(distance / (np.percentile(distance, 99) + 1e-6), 1), np.float32)
    if kind == "fibres":
        drawn = fractal_noise(rng, height, width, roughness=1.0)[..., 0]
        length = max(int(rng.uniform(0.02, 0.2) * width), 3)
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        middle, reach = length / 2, np.array([np.cos(angle), np.sin(angle)]) * length / 2
        start, stop = (tuple(int(v) for v in middle + side * reach) for side in (-1, 1))
        cv2.line(kernel, start, stop, 1.0)
        fibres = cv2.filter2D(drawn, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
        low, high = np.percentile(fibres, [1, 99])
        return np.asarray(np.clip((fibres - low) / (high - low + 1e-6), 0, 1), np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32) / width
    bent = rng.uniform(0, 0.4) * fractal_noise(rng, height, width, roughness=rng.uniform(0.2, 0.6), channels=2)
    period = np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    if kind == "rings":
        centre = rng.uniform(-0.3, 1.3, 2)
        along = np.hypot(x + bent[..., 0] - centre[0], y + bent[..., 1] - centre[1])
    else:
        angle = rng.uniform(0, np.pi)
        along = (x + bent[..., 0]) * np.float32(np.cos(angle)) + (y + bent[..., 1]) * np.float32(np.sin(angle))
    return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * along / period), np.float32)

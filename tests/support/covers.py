"""Cover a film's lens: pictures of materials that lie on it, which slide in and out again."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from engines.arrays import F32, U8

PATTERNS: Final = ("stripes", "checks", "dots", "flowers", "weave")
MATERIALS: Final = ("cloth", "soft cloth", "black cap", "white paper", "tape", "hand")


def make_cover(material: str, height: int, width: int, rng: np.random.Generator) -> F32:
    """Return the picture of one of `MATERIALS`, or of one of `PATTERNS` in focus: (height, width, 3) float32, RGB."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = ((x / width - 0.5) * rng.uniform(-1, 1) + (y / height - 0.5) * rng.uniform(-1, 1))[..., None]
    if material == "black cap":
        picture = rng.uniform(2, 14) + 4 * slope + np.zeros(3)
    elif material == "white paper":
        picture = rng.uniform(170, 245) - np.array([0, 3, 10]) * rng.uniform(0, 2) + 50 * slope
    elif material == "tape":
        picture = np.array([150, 110, 60]) * rng.uniform(0.4, 1.2) * (1 + 0.5 * slope)
    elif material == "hand":
        fingers = sum(np.exp(-(((x - width * (k + 0.5) / 4 + 20 * (y / height - 0.5)) / 6) ** 2)) for k in range(4))
        skin = np.array([190, 110, 90]) * rng.uniform(0.3, 1.1) * (1 + 0.9 * slope)
        picture = cv2.GaussianBlur(skin * (1 - 0.5 * np.asarray(fingers)[..., None]), (0, 0), 5)
    else:
        pattern = material if material in PATTERNS else str(rng.choice(PATTERNS))
        picture = _cloth(pattern, height, width, rng)
        if material == "soft cloth":
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(3, 12))
    return np.clip(picture, 0, 255).astype(np.float32)


def _cloth(pattern: str, height: int, width: int, rng: np.random.Generator) -> F32:
    """Draw a cloth in two colours with folds, at twice the size, so that its edges are smooth."""
    h, w = 2 * height, 2 * width
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.15) * w
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if pattern == "stripes":
        mix = (np.sin(2 * np.pi * u / period) > 0).astype(np.float32)
    elif pattern == "checks":
        mix = ((np.sin(2 * np.pi * u / period) > 0) * 0.5 + (np.sin(2 * np.pi * v / period) > 0) * 0.5).astype(
            np.float32
        )
    elif pattern == "dots":
        mix = (np.hypot(u % period - period / 2, v % period - period / 2) < 0.28 * period).astype(np.float32)
    elif pattern == "flowers":
        mix = np.zeros((h, w), np.float32)
        for _ in range(60):
            radius = rng.uniform(0.02, 0.08) * w
            centre = np.array([rng.uniform(0, w), rng.uniform(0, h)])
            for turn in np.arange(5) * 2 * np.pi / 5:
                at = (centre + radius * np.array([np.cos(turn), np.sin(turn)])).astype(int)
                cv2.circle(mix, (int(at[0]), int(at[1])), max(1, int(radius / 2)), float(rng.uniform(0.4, 1)), -1)
    else:
        threads = [2 * np.pi * axis / rng.uniform(4, 9) for axis in (u, v)]
        mix = 0.5 + 0.25 * np.sin(threads[0]) + 0.25 * np.sin(threads[1])
    ground = rng.uniform(60, 200, 3)
    other = np.clip(ground + rng.choice([-1, 1]) * rng.uniform(40, 110, 3), 0, 255)
    folds = cv2.GaussianBlur(rng.normal(0, 1, (h, w)).astype(np.float32), (0, 0), rng.uniform(0.1, 0.2) * w)
    mix = mix[..., None]
    picture = (ground * (1 - mix) + other * mix) * (1 + 0.18 * (folds / folds.std())[..., None])
    picture = picture + rng.normal(0, 6, (h, w, 1))
    return np.asarray(cv2.resize(picture.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))


def cover_frames(
    frames: U8,
    material: str,
    start: int,
    stop: int,
    rng: np.random.Generator,
    *,
    ramp: int = 3,
    noise: float = 2.0,
) -> U8:
    """Return a copy of frames (F, H, W, 3) in which a cover slides over the picture within `ramp` frames.

    The picture is covered from frame `start` to `stop`. `noise`: the sensor's, as a standard deviation in grey levels.
    """
    height, width = frames.shape[1:3]
    picture = make_cover(material, height, width, rng)
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :].repeat(height, 0)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, 1)
    place = (across, 1 - across, down, 1 - down)[int(rng.integers(4))]
    out = frames.copy()
    for number in range(max(0, start - ramp), min(len(frames), stop + ramp)):
        share = min(1.0, (number - start + ramp + 1) / (ramp + 1), (stop + ramp - number) / (ramp + 1))
        hidden = np.clip((share * 1.2 - place) / 0.1, 0, 1)[..., None] if share < 1 else np.float32(1)
        grain = rng.normal(0, noise, (height, width, 1)) + rng.normal(0, 0.4 * noise, (height, width, 3))
        mixed = frames[number] * (1 - hidden) + hidden * (picture + grain)
        out[number] = np.clip(mixed, 0, 255).astype(np.uint8)
    return out

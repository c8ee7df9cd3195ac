"""Compose streams as a camera gives them: a hand comes, rests, draws the shape of a clip, rests, and goes away.

A clip of a shape begins and ends with the shape. In a stream, the model also sees what happens around it. The hand of
the clip's first or last frame is cut out with the median of the clip, which shows the background alone, and moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import cv2
import numpy as np

from engines.arrays import F32, F64, U8

Rng = np.random.Generator
Lead = Literal["rest", "enter", "cut"]
"""The time before a shape: the finger rests where the shape begins, or it comes, or the clip begins at once."""
Trail = Literal["rest", "leave", "return", "cut"]
"""The time after a shape: the finger rests, the hand goes away, it first moves back quickly, or the clip ends."""

_MEDIAN_OF: Final = 15
"""Frames of a clip whose median is its background."""
_HAND_LEVELS: Final = 28
"""Grey levels by which a hand differs from the background."""
_HAND_SHARES: Final = (0.01, 0.5)
"""Smallest and largest share of the frame that a hand fills. Outside of these, the median shows no background."""
_RETURNS: Final = {"left": (0.5, 0.0), "right": (-0.5, 0.0), "up": (0.0, 0.4), "down": (0.0, -0.4)}
"""The way back after a straight stroke, in shares of the frame."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip to compose from: `frames` (F, h, w, 3) uint8 RGB at `rate` frames per second.

    `last` is the index of the frame in which the shape ends. A film without a shape has the label `other`.
    """

    frames: U8
    rate: float
    label: str
    last: int

    @cached_property
    def background(self) -> U8:
        """Return (h, w, 3) the median of a few frames."""
        few = self.frames[:: max(len(self.frames) // _MEDIAN_OF, 1)]
        return np.asarray(np.median(few, axis=0), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Composed frames (F, h, w, 3) uint8 RGB. The shape begins in frame `first` and ends in frame `last`."""

    frames: U8
    first: int
    last: int


def compose_scene(
    rng: Rng, clip: Footage, fps: float, *, lead: Lead, trail: Trail, before_s: float, after_s: float
) -> Scene:
    """Compose a scene at `fps`: `before_s` seconds before the shape, the whole clip, and `after_s` seconds after it."""
    middle = clip.frames[np.arange(0, len(clip.frames) - 0.5, clip.rate / fps).round().astype(np.int64)]
    before = before_shape(rng, clip, lead, round(before_s * fps), fps)
    after = after_shape(rng, clip, trail, round(after_s * fps), fps)
    last = len(before) + min(round(clip.last / clip.rate * fps), len(middle) - 1)
    return Scene(frames=np.concatenate([before, middle, after]), first=len(before), last=last)


def before_shape(rng: Rng, clip: Footage, lead: Lead, frames: int, fps: float) -> U8:
    """Return (frames, h, w, 3) from before the shape.

    Where the clip's median does not show the background, the hand rests instead of coming.
    """
    image, background = clip.frames[0], clip.background
    hand = _hand(image, background)
    moving = round(rng.uniform(0.3, 0.9) * fps)
    resting = round(rng.choice([0.0, rng.uniform(0, 1.0)]) * fps)
    if lead == "cut":
        return np.empty((0, *image.shape), np.uint8)
    if lead == "rest" or hand is None or moving + resting >= frames:
        return _rest(rng, image, frames)
    empty = _rest(rng, background, frames - moving - resting)
    way = _outside(rng) * (1 - _eased(moving))[:, None]
    return np.concatenate([empty, _slide(image, background, hand, way), _rest(rng, image, resting)])


def after_shape(rng: Rng, clip: Footage, trail: Trail, frames: int, fps: float) -> U8:
    """Return (frames, h, w, 3) from after the shape; as in `before_shape`, the hand may rest instead of going."""
    image, background = clip.frames[-1], clip.background
    hand = _hand(image, background)
    resting = round(rng.uniform(0.05, 0.8) * fps)
    if trail == "cut":
        return np.empty((0, *image.shape), np.uint8)
    if trail == "rest" or hand is None or resting >= frames:
        return _rest(rng, image, frames)
    parts = [_rest(rng, image, resting)]
    at = np.zeros(2)
    if trail == "return":
        back = np.array(_RETURNS.get(clip.label, rng.uniform(-0.35, 0.35, 2))) * rng.uniform(0.7, 1.1)
        way = back * _eased(round(rng.uniform(0.2, 0.45) * fps))[:, None]
        waiting = np.repeat(back[None], round(rng.uniform(0.1, 0.8) * fps), axis=0)
        parts.append(_slide(image, background, hand, np.concatenate([way, waiting])))
        at = back
    way = at + (_outside(rng) - at) * _eased(round(rng.uniform(0.3, 0.9) * fps))[:, None]
    parts.append(_slide(image, background, hand, way))
    left = frames - sum(map(len, parts))
    return np.concatenate([*parts, _rest(rng, background, max(left, 0))])[:frames]


def _outside(rng: Rng) -> F64:
    """Return a random (x, y) outside the frame, in shares of it: a hand in a first-person view leaves below."""
    return np.array([rng.normal(0.1, 0.35), rng.uniform(0.75, 1.1)])


def _eased(frames: int) -> F64:
    """Return (frames,) shares of a way, from 0 to 1: slow, fast, slow."""
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * (np.arange(frames) + 1) / max(frames, 1)), np.float64)


def _hand(image: U8, background: U8) -> F32 | None:
    """Return (h, w) how much each pixel shows the hand, 0 to 1; None if it cannot be separated from the background."""
    differs = (cv2.absdiff(image, background).max(axis=2) > _HAND_LEVELS).astype(np.uint8)
    size = max(round(image.shape[0] / 24), 3)
    # Where the camera moves, edges of the background differ, too. They are thin, or apart from the hand.
    opened = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((size - 1, size - 1), np.uint8))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((size, size), np.uint8))
    _, parts, facts, _ = cv2.connectedComponentsWithStats(closed)
    if len(facts) < 2:
        return None
    hand = (parts == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    if not _HAND_SHARES[0] <= hand.mean() <= _HAND_SHARES[1]:
        return None
    grown = cv2.dilate(hand, np.ones((3, 3), np.uint8)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grown, (0, 0), size / 4), np.float32)


def _slide(image: U8, background: U8, hand: F32, way: F64) -> U8:
    """Move the hand of `image` over the background along `way` (F, 2), in shares of the frame."""
    h, w = hand.shape
    out = np.empty((len(way), h, w, 3), np.uint8)
    for frame, (x, y) in zip(out, way, strict=True):
        move = np.array([[1, 0, x * w], [0, 1, y * h]])
        alpha = cv2.warpAffine(hand, move, (w, h))[..., None]
        moved = cv2.warpAffine(image, move, (w, h), borderMode=cv2.BORDER_REPLICATE)
        frame[...] = background * (1 - alpha) + moved * alpha
    return out


def _rest(rng: Rng, image: U8, frames: int) -> U8:
    """Hold `image` for `frames`, as a camera on a head does: it moves by about a pixel, and each frame has noise."""
    h, w = image.shape[:2]
    drift = np.clip(np.cumsum(rng.normal(0, 0.0015, (frames, 2)), axis=0), -0.01, 0.01) * (w, h)
    noise = rng.normal(0, rng.uniform(0.5, 3.0), (2 * h, 2 * w, 1)).astype(np.int16)
    out = np.empty((frames, h, w, 3), np.uint8)
    for frame, (x, y) in zip(out, drift, strict=True):
        moved = cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), (w, h), borderMode=cv2.BORDER_REFLECT)
        top, left = rng.integers(h), rng.integers(w)
        frame[...] = (moved + noise[top : top + h, left : left + w]).clip(0, 255)
    return out

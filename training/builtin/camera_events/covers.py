"""Covers of the lens: their materials, their edges, and how they hide a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F32, U8
from training.builtin.camera_events.surfaces import Rng, fractal_noise, mixed_texture, repeated_pattern, texture

_MATERIALS = {
    "black": 0.1,
    "flat": 0.16,
    "tape": 0.13,
    "plain": 0.07,
    "folds": 0.1,
    "cloth": 0.13,
    "mixed": 0.13,
    "pattern": 0.08,
    "text": 0.04,
    "hand": 0.04,
    "smear": 0.02,
}
"""Materials and their shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LensCover:
    """A cover on the lens of a camera whose frames are (height, width).

    surface: the cover where it hides all, (height, width, 3) in grey levels; edge: (height, width), `edge < c` where
    a cover of the share c lies; softness: width of the edge, as a share of the frame; shine: how much of the scene's
    light comes through, without its details; drift: horizontal sway in pixels; brightening: amplitude of the slow
    change of the light on the cover.
    """

    surface: F32
    edge: F32
    softness: float
    shine: float
    drift: float
    brightening: float

    @classmethod
    def drawn(cls, rng: Rng, height: int, width: int) -> LensCover:
        """Draw a material, a shape of the edge, and how the cover moves."""
        return cls(
            surface=draw_surface(rng, height, width),
            edge=draw_edge(rng, height, width),
            softness=float(np.exp(rng.uniform(np.log(0.015), np.log(0.14)))),
            shine=float(rng.uniform(0.1, 0.6)) if rng.random() < 0.2 else 0.0,
            # Far less than a shaking camera: else a moving texture would be a sign of a cover.
            drift=float(rng.uniform(0, 0.012) * width) if rng.random() < 0.4 else 0.0,
            brightening=float(rng.uniform(-0.3, 0.3)) if rng.random() < 0.4 else 0.0,
        )

    def opacity(self, share: float) -> F32:
        """Return the opacity (height, width) of a cover of `share`, 0..1."""
        # A share of 1 leaves no pixel of the scene: the edge is soft over `softness` of the frame.
        reach = share * (1 + 1.08 * self.softness)
        return np.asarray(np.clip((np.float32(reach) - self.edge) * np.float32(1 / self.softness), 0, 1), np.float32)

    def over(self, frame: U8, share: float, *, number: int, exposure: float) -> U8:
        """Cover `share` of a frame, the clip's frame `number`; `exposure` is the logarithm of the camera's gain."""
        alpha = self.opacity(share)
        surface = self.surface
        if shift := int(self.drift * np.sin(number / 3)):
            surface = np.roll(surface, shift, axis=1)
        if gain := self.brightening * np.sin(number / 8) + exposure:
            surface = surface * np.float32(np.exp(gain))
        if self.shine:
            small = cv2.resize(frame, (8, 6), interpolation=cv2.INTER_AREA)
            light = cv2.resize(small, frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)
            surface = surface * np.float32(1 - self.shine) + light * np.float32(self.shine)
        mixed = cv2.blendLinear(frame.astype(np.float32), np.asarray(surface, np.float32), 1 - alpha, alpha)
        return np.asarray(cv2.convertScaleAbs(np.maximum(mixed, 0)), np.uint8)


def draw_edge(rng: Rng, height: int, width: int) -> F32:
    """Draw in which order a cover hides the pixels: (height, width), 0 first, 1 last.

    The values are ranks, so `edge < c` covers the share c of the frame, whatever the shape: straight, waved, or round.
    """
    rows, columns = -(-height // 4), -(-width // 4)  # an edge has no small details
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
    kind = rng.choice(["upright", "oblique", "waved", "round"], p=[0.4, 0.2, 0.25, 0.15])
    angle = rng.integers(4) * np.pi / 2 if kind == "upright" else rng.uniform(0, 2 * np.pi)
    order = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    if kind == "round":  # from a point outwards, or all but a hole
        middle = rng.uniform(-1.2, 1.2, 2)
        order = np.hypot(x - middle[0], (y - middle[1]) * rows / columns) * rng.choice([-1, 1])
    if kind in ("waved", "round"):
        order = order + rng.uniform(0, 0.6) * (fractal_noise(rng, rows, columns, roughness=0.3)[..., 0] - 0.5)
    # Pixels of one row or column of a straight edge have one rank.
    _, numbers, counts = np.unique(np.round(order, 4), return_inverse=True, return_counts=True)
    ranks = ((np.cumsum(counts) - counts / 2) / order.size)[numbers].reshape(order.shape)
    return np.asarray(cv2.resize(ranks.astype(np.float32), (width, height)), np.float32)


def draw_surface(rng: Rng, height: int, width: int) -> F32:
    """Draw a cap, paper, tape, plastic, cloth, a print, a text, a hand or a smear: (height, width, 3) in 0..255."""
    cover: npt.NDArray[Any]
    kind = rng.choice(list(_MATERIALS), p=list(_MATERIALS.values()))
    if kind == "black":
        cover = np.full((height, width, 3), rng.uniform(0, 25), np.float32)
    elif kind == "flat":  # paper, plastic: white, grey or coloured
        cover = np.broadcast_to(_tone(rng), (height, width, 3))
    elif kind == "tape":
        cover = _strips(rng, height, width)
    elif kind == "plain":
        cover = np.full((height, width, 3), rng.uniform(10, 230, 3), np.float32)
        cover = cover * (0.85 + 0.3 * fractal_noise(rng, height, width, roughness=0.2))
    elif kind == "hand":
        cover = np.array([215, 130, 105]) * rng.uniform(0.15, 1.0) * fractal_noise(rng, height, width, roughness=0.3)
    elif kind == "folds":
        cover = _folds(rng, height, width)
    else:
        draw = {"pattern": repeated_pattern, "text": _text, "mixed": mixed_texture}.get(str(kind), texture)
        cover = np.clip(draw(rng, height, width), 0, 255)
        if kind == "smear":
            cover = cover * 0.3 + rng.uniform(60, 230, 3) * 0.7
        # A cover on the lens is far out of focus. Cloth or paper that hangs before the camera may be sharp.
        blurs = [0.004, 0.012, 0.03, 0.08] if kind == "smear" else [0.0015, 0.004, 0.012, 0.03]
        cover = cv2.GaussianBlur(cover, (0, 0), float(rng.choice(blurs)) * width)
    if rng.random() < 0.6:  # light that falls on it from one side, or passes at its edge
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        side = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))[..., None]
        cover = cover * (1 + np.float32(rng.uniform(0.1, 0.7)) * side)
        if rng.random() < 0.3:
            cover = cover + rng.uniform(5, 90) * np.exp((side - 1.2) * rng.uniform(3, 9))
    return np.asarray(np.clip(cover, 0, 255), np.float32)


def _tone(rng: Rng) -> F32:
    """Draw a white, grey, black or coloured tone, (3,) in 0..255."""
    return np.asarray(np.clip(rng.uniform(30, 250) * (1 + rng.choice([0.02, 0.3]) * rng.normal(0, 0.5, 3)), 0, 255))


def _strips(rng: Rng, height: int, width: int) -> F32:
    """Draw parallel strips of tape that overlap, lit unevenly and out of focus: (height, width, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    across = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / width
    tones = np.ones((height, width), np.float32)
    for place in rng.uniform(-0.2, 1.1, rng.integers(1, 5)):
        strip = (across > place) & (across < place + rng.uniform(0.1, 0.9))
        tones *= np.where(strip, np.float32(rng.uniform(0.78, 1.1)), np.float32(1))
    tones *= 0.9 + 0.2 * fractal_noise(rng, height, width, roughness=rng.choice([0.1, 0.4]))[..., 0]
    tones = np.asarray(cv2.GaussianBlur(tones, (0, 0), float(rng.choice([0.004, 0.015, 0.03])) * width), np.float32)
    return np.asarray(tones[..., None] * _tone(rng), np.float32)


def _folds(rng: Rng, height: int, width: int) -> F32:
    """Draw smooth cloth that hangs in folds: light and dark bands, straight or waved; (height, width, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / width
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    waves = rng.uniform(0, 0.3) * (fractal_noise(rng, height, width, roughness=0.25)[..., 0] - 0.5)
    shade = np.sin(2 * np.pi * (rng.uniform(0.6, 5) * (along + waves) + rng.random()))
    shade = np.sign(shade) * np.abs(shade) ** rng.uniform(0.5, 1.5)
    return np.asarray((1 - rng.uniform(0.05, 0.4) * (1 + shade))[..., None] * _tone(rng), np.float32)


def _text(rng: Rng, height: int, width: int) -> F32:
    """Draw a printed page, slightly turned: lines of words in columns, in ink on paper; (height, width, 3)."""
    line = max(float(np.exp(rng.uniform(np.log(0.015), np.log(0.08)))) * width, 3.0)  # pixels from line to line
    size = int(1.5 * max(height, width))
    lines, letters = int(size / line), int(size / line * 2.2)
    ink = rng.random((lines, letters)) < rng.uniform(0.7, 0.9)  # a cell without ink is a space
    column = int(rng.integers(12, 50))
    ink[:, np.arange(letters) % column < 2] = False
    ink[rng.random(lines) < rng.choice([0.0, 0.15])] = False  # between paragraphs
    strokes = ink[:, None, :, None] * (rng.random((lines, 4, letters, 4)) < 0.6) * [[[[0]], [[1]], [[1]], [[0]]]]
    cells = strokes.reshape(lines * 4, letters * 4).astype(np.float32)
    turn = np.asarray(cv2.getRotationMatrix2D((size / 2, size / 2), float(rng.normal(0, 12)), 1.0), np.float64)
    turn[:, 2] -= np.array([(size - width) / 2, (size - height) / 2])
    page = cv2.warpAffine(
        cv2.resize(cells, (size, size), interpolation=cv2.INTER_AREA),
        turn,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    paper, tone = rng.uniform(140, 250) * rng.uniform(0.85, 1, 3), rng.uniform(0, 90) * rng.uniform(0.5, 1, 3)
    return np.asarray(paper + (tone - paper) * np.asarray(page)[..., None], np.float32)

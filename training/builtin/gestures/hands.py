"""Sprites of a hand and its forearm: a pointing finger or another pose, with skin, sleeve, light and shade.

Coordinates are in units of the palm's width. The tip of the index finger is at the origin, and the finger lies along
+y. A sprite is premultiplied RGBA, float32 in 0..255 and 0..1, with the place of its tip and its scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F32
from training.builtin.camera_events.surfaces import Rng, fractal_noise, texture

_SKINS = np.array([[240, 200, 175], [225, 175, 140], [200, 145, 110], [165, 110, 80], [125, 80, 58], [85, 55, 42]])
_SCALE = 40.0  # sprite pixels in a palm's width
_WIDTH, _HEIGHT = 300, 420
_TIP = (110.0, 24.0)

POSES = ("point", "open", "fist", "two", "flat")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandStyle:
    """The appearance of a hand, which stays the same during a clip."""

    skin: npt.NDArray[np.float64]
    light: float
    sleeve_from: float
    cloth: F32
    bend: float
    slim: float
    band: float | None
    shade: float
    thumb: float
    curl: float


def draw_hand_style(rng: Rng) -> HandStyle:
    """Draw the style of a hand: any skin tone of the world, and a light from a torch's to a silhouette's."""
    a, b = int(rng.integers(len(_SKINS))), rng.random()
    skin = _SKINS[a] * b + _SKINS[max(a - 1, 0)] * (1 - b)
    light = float(
        rng.choice([rng.uniform(0.75, 1.2), rng.uniform(0.3, 0.8), rng.uniform(0.03, 0.3)], p=[0.6, 0.28, 0.12])
    )
    tint = rng.normal(1, 0.07, 3) * np.exp(rng.normal(0, 0.12) * np.array([1, 0, -1]))
    return HandStyle(
        skin=skin * tint,
        light=light,
        sleeve_from=float(rng.choice([99.0, rng.uniform(2.5, 6.0)], p=[0.55, 0.45])),
        cloth=texture(rng, _HEIGHT, _WIDTH),
        bend=float(rng.normal(0.45, 0.3)),
        slim=float(rng.uniform(0.85, 1.2)),
        band=float(rng.uniform(2.3, 2.9)) if rng.random() < 0.2 else None,
        shade=float(rng.uniform(0.15, 0.7) * rng.choice([-1, 1])),
        thumb=float(rng.random()),
        curl=float(rng.normal(0, 0.1)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandSprite:
    """A drawn hand: `rgba` (h, w, 4) float32, premultiplied; `tip` (x, y) and `palm_width` in its pixels."""

    rgba: F32
    tip: tuple[float, float] = _TIP
    palm_width: float = _SCALE


def hand_sprite(rng: Rng, style: HandStyle, pose: str) -> HandSprite:
    """Draw a right hand in `pose`, one of POSES, from its owner's point of view."""
    parts = np.zeros((_HEIGHT, _WIDTH), np.float32)  # height above the background, which gives edges between fingers
    mask = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    s = style.slim

    def limb(points: list[tuple[float, float]], radii: list[float], depth: float) -> None:
        """Draw a limb through `points` with `radii`, over the limbs drawn before."""
        shape = np.zeros_like(mask)
        for (p, q), (a, b) in zip(pairwise(points), pairwise(radii), strict=True):
            _capsule(shape, p, q, a * s, b * s)
        soft = cv2.distanceTransform(shape, cv2.DIST_L2, 3)
        bulge = np.sqrt(np.clip(soft / (max(radii) * s * _SCALE), 0, 1))
        parts[shape > 0] = (depth + bulge)[shape > 0]
        mask[shape > 0] = 255

    wrist = (0.38, 2.35)
    reach = 9.0
    elbow = (wrist[0] + reach * np.sin(style.bend), wrist[1] + reach * np.cos(style.bend))
    limb([wrist, elbow], [0.36, 0.75], 0.0)
    limb([(0.35, 1.5), (0.4, 1.95), wrist], [0.5, 0.48, 0.38], 0.1)
    if pose in ("open", "two", "flat"):
        fan = {"open": 0.3, "two": 0.16, "flat": 0.05}[pose]
        for i in range(1, 4):
            folded = pose == "two" and i > 1
            base = (0.05 + 0.26 * i, 1.15 + 0.05 * i)
            length = 0.3 if folded else (1.12, 1.0, 0.78)[i - 1] * rng.uniform(0.9, 1.1)
            angle = fan * (i - 0.3) + rng.normal(0, 0.05)
            limb([base, (base[0] + length * np.sin(angle), base[1] - length * np.cos(angle))], [0.15, 0.12], 0.3)
    else:
        for i in range(1, 4):
            knuckle = (0.08 + 0.25 * i, 1.08 + 0.07 * i + rng.normal(0, 0.03))
            limb([knuckle, (knuckle[0] - 0.03, knuckle[1] + 0.45)], [0.17, 0.16], 0.3)
    thumb_out = 0.55 if pose == "open" else 0.1 * style.thumb
    if pose != "flat" or style.thumb > 0.5:
        base = (0.0, 1.85)
        limb([base, (-0.16 - thumb_out * 0.6, 1.5), (-0.05 - thumb_out, 1.18)], [0.2, 0.16, 0.12], 0.35)
    if pose == "fist":
        limb([(0.05, 1.0), (0.05, 1.4)], [0.17, 0.16], 0.3)
    else:
        limb([(0.0, 0.14), (0.02 + style.curl, 0.6), (0.06, 1.15), (0.15, 1.5)], [0.12, 0.15, 0.17, 0.2], 0.4)
    return HandSprite(rgba=_shade(rng, style, parts, mask, pose))


def _capsule(out: npt.NDArray[np.uint8], p: tuple[float, float], q: tuple[float, float], a: float, b: float) -> None:
    """Draw a line from p to q whose radius changes from a to b, in palm widths."""
    start, stop = (np.array(v) * _SCALE + _TIP for v in (p, q))
    way = stop - start
    across = np.array([-way[1], way[0]]) / (np.hypot(*way) + 1e-6) * _SCALE
    outline = np.stack([start + across * a, stop + across * b, stop - across * b, start - across * a])
    cv2.fillPoly(out, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    for centre, radius in ((start, a), (stop, b)):
        place = (int(centre[0] * 16), int(centre[1] * 16))
        cv2.circle(out, place, int(radius * _SCALE * 16), 255, -1, cv2.LINE_8, 4)


def _shade(rng: Rng, style: HandStyle, parts: F32, mask: npt.NDArray[np.uint8], pose: str) -> F32:
    y, x = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float32)
    along = (y - _TIP[1]) / _SCALE
    depth = cv2.GaussianBlur(parts, (0, 0), 1.2)
    slope = cv2.Sobel(depth, cv2.CV_32F, 1, 0, ksize=3) * style.shade - 0.3 * cv2.Sobel(
        depth, cv2.CV_32F, 0, 1, ksize=3
    )
    tone = 0.82 + 0.22 * np.clip(depth, 0, 1.4) / 1.4 - 0.5 * np.clip(slope, -0.35, 0.35)
    tone *= 0.9 + 0.2 * fractal_noise(rng, _HEIGHT, _WIDTH, roughness=0.7)[..., 0]
    rgb = tone[..., None] * style.skin.astype(np.float32)
    if pose == "point" and style.thumb < 0.7:  # the nail
        nail = (int(_TIP[0]), int(_TIP[1] + 0.13 * _SCALE))
        cv2.ellipse(rgb, nail, (3, 5), 0, 0, 360, [float(v) for v in style.skin * 1.12 + 12], -1, cv2.LINE_AA)
    if style.sleeve_from < 50:
        # Distance along the forearm, which leaves the wrist at an angle.
        down = (y - _TIP[1]) / _SCALE * np.cos(style.bend) + (x - _TIP[0]) / _SCALE * np.sin(style.bend)
        worn = down > style.sleeve_from
        rgb[worn] = (style.cloth * (0.6 + 0.4 * np.clip(depth, 0, 1))[..., None])[worn]
    elif style.band is not None:
        ring = np.abs(along - style.band - 0.15 * np.sin(x / 30)) < 0.09
        rgb[ring] = style.cloth[ring]
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.9).astype(np.float32) / 255
    lit = np.clip(rgb * style.light, 0, 255)
    return np.asarray(np.dstack([lit * alpha[..., None], alpha]), np.float32)

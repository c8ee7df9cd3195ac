"""Cover the camera with a material."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from support.unseen.film import Disturbed, Material, Rng, always, disc, field, mostly_after

from engines.arrays import F32, F64, U8

SHARES: Final = {"65-80 %": (0.65, 0.8), "85-95 %": (0.85, 0.95), "100 %": (1.0, 1.0)}
"""Ranges for the share of the picture that a cover hides."""


def draw_material(material: Material, height: int, width: int, rng: Rng, *, in_focus: bool) -> F32:
    """Return a material, turned a little and lit from a side: (height, width, 3) float32, 0 to 255."""
    h, w = 2 * height, 2 * width
    picture = material.draw(rng, h, w)
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), float(rng.uniform(-18, 18)), float(rng.uniform(1, 1.3)))
    picture = cv2.warpAffine(picture, turn, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.3)
    y, x = np.indices((height, width), np.float32)
    lit = np.exp(-fall * (x / width * np.cos(angle) + y / height * np.sin(angle)))
    picture = picture * (lit / lit.mean())[..., None]
    if not in_focus:
        picture = cv2.filter2D(picture, -1, disc(rng.uniform(0.025, 0.06) * width), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(np.clip(picture, 0, 255), np.float32)


def cover(
    rng: Rng, frames: U8, times_s: F64, material: Material, *, in_focus: bool, share: str, coming: bool
) -> Disturbed:
    """Cover a range of `SHARES` of the picture: from the first frame on, or coming within 0.15 to 0.6 s.

    The camera's exposure follows what it sees, and its sensor adds noise to the cover.
    """
    _, height, width, _ = frames.shape
    picture = draw_material(material, height, width, rng, in_focus=in_focus)
    hidden = float(rng.uniform(*SHARES[share]))
    order, toward = _order(rng, height, width, material.edge)
    ranked = np.sort(order, axis=None)
    soft = 1.2 if in_focus else float(rng.uniform(0.06, 0.16)) * width
    onset, takes = (float(rng.uniform(0.5, 0.8)), float(rng.uniform(0.15, 0.6))) if coming else (-1.0, 0.5)
    grain, settle, sway = rng.uniform(0.8, 4), rng.uniform(0.3, 1.0), rng.uniform(0, 0.03)
    adapted = float(np.clip((105 / max(picture.mean(), 1)) ** 0.4, 0.75, 2.0))
    out = np.empty_like(frames)

    def edge(part: float) -> float:
        return float(ranked[int(part * (len(ranked) - 1))])

    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        done = float(np.clip((time_s - onset) / takes, 0, 1))
        part = hidden * done * done * (3 - 2 * done)
        if part <= 0:
            out[number] = frame
            continue
        alpha = np.clip((edge(part) - order) / soft + 0.5, 0, 1)[..., None] if part < 1 else np.float32(1)
        lid = picture
        if done < 1 and toward is not None:  # the material moves with its edge
            dx, dy = toward * (edge(part) - edge(hidden))
            lid = cv2.warpAffine(
                picture, np.array([[1, 0, dx], [0, 1, dy]]), (width, height), borderMode=cv2.BORDER_REFLECT_101
            )
        if material.clear:
            lid = lid * (1 - material.clear) + material.clear * cv2.blur(frame, (width // 6, width // 6))
        gain = 1 + (adapted - 1) * (1 - np.exp(-max(time_s - onset - takes / 2, 0) / settle) if coming else 1.0)
        gain *= 1 + sway * np.sin(2 * np.pi * time_s / 1.7)
        mixed = frame * (1 - alpha) + lid * alpha
        speckle = rng.normal(0, grain, (height, width, 1)) + rng.normal(0, grain / 2, (height, width, 3))
        out[number] = np.clip((mixed + speckle * alpha) * gain, 0, 255)
    return Disturbed(frames=out, times_s=times_s, counts=mostly_after(onset + takes) if coming else always)


def _order(rng: Rng, height: int, width: int, edge: str) -> tuple[F32, Any]:
    """Return the order in pixels in which the picture is covered, and the direction (2,) in which the cover slides.

    A cover comes from a side or a corner, from two sides, or from about the middle. Its edge is straight or irregular.
    """
    y, x = np.indices((height, width), np.float32)
    kind = "middle" if edge == "spray" else str(rng.choice(["side", "side", "two sides", "middle"]))
    toward = None
    if kind == "side":
        angle = int(rng.integers(8)) * np.pi / 4 + rng.uniform(-0.15, 0.15)
        toward = np.array([np.cos(angle), np.sin(angle)])
        order = x * toward[0] + y * toward[1]
    elif kind == "two sides":
        slit = x - width * rng.uniform(0.35, 0.65) if rng.random() < 0.5 else y - height * rng.uniform(0.35, 0.65)
        order = -np.abs(slit)
    else:
        power = rng.uniform(1.6, 5)
        dx, dy = (x / width - rng.uniform(0.4, 0.6)) * 2, (y / height - rng.uniform(0.4, 0.6)) * 2
        order = (np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power) * height / 2
    if edge == "spray":
        order = order + 0.1 * height * field(rng, height, width, 7) + 0.04 * height * rng.normal(size=order.shape)
    elif edge == "lumps":
        order = order + 0.12 * height * field(rng, height, width, 6) + 0.06 * height * field(rng, height, width, 25)
        toward = None
    elif rng.random() < 0.5:
        order = order + 0.05 * height * field(rng, height, width, 5) + 0.01 * height * field(rng, height, width, 40)
    return np.asarray(order, np.float32), toward

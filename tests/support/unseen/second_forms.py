"""The second group's forms of motion, blur, light and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from support.unseen.film import (
    FACTORS,
    RADII,
    STEP_S,
    STRENGTHS,
    SWINGS,
    TURNS,
    Disturb,
    Disturbed,
    Rng,
    always,
    blurred,
    disc,
    field,
    inside,
    mostly_after,
    shaken,
    to_grey,
    to_light,
    view,
)

from engines.arrays import F32, F64, U8


def moved(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Turn the camera by 8, 15 or 25 % of the width: with backlash, or aslant in steps."""
    share = TURNS[strength]
    _, h, w, _ = frames.shape
    sign, begin = float(rng.choice([-1, 1])), float(rng.uniform(0.4, 0.7))
    if form == "backlash":  # a motor turns too far, stops, and falls back
        takes, back, pause = rng.uniform(0.25, 0.45), rng.uniform(0.15, 0.3), rng.uniform(0.1, 0.2)
        gone = np.clip((times_s - begin) / takes, 0, 1)
        fallen = np.clip((times_s - begin - takes - pause) / 0.1, 0, 1)
        path = gone * gone * (3 - 2 * gone) * (1 + back) - back * fallen - 0.5
        takes += pause + 0.1
        shift = np.c_[sign * share * w * path, np.zeros(len(path))]
        seen = view(frames, (0.9, 0.6), shift)
    else:  # each step takes 0.08 s
        steps, every = int(rng.integers(3, 5)), rng.uniform(0.17, 0.23)
        takes = (steps - 1) * every + 0.08
        path = sum(np.clip((times_s - begin - k * every) / 0.08, 0, 1) for k in range(steps)) / steps - 0.5
        shift = np.c_[sign * share * w * path, rng.choice([-1, 1]) * 0.6 * share * h * path]
        seen = view(frames, (0.8, 0.7), shift)
    return Disturbed(frames=seen, times_s=times_s, counts=inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Shake the camera by steps on its floor (an RMS of 1, 1.8 or 3 % of the width), or a loudspeaker's bass (2/3)."""
    rms = SWINGS[strength] * frames.shape[2]
    step_s = STEP_S / 2
    fine = np.arange(0, times_s[-1] + 0.05, step_s)
    at = np.arange(-rng.uniform(0, 0.5), fine[-1], rng.uniform(0.42, 0.55))
    after = fine[:, None] - at - rng.normal(0, 0.02, len(at))
    if form == "footsteps":  # each rings and dies away, upright above all
        ring = np.where(after > 0, np.sin(2 * np.pi * rng.uniform(3.5, 5) * after) * np.exp(-after / 0.22), 0)
        path = ring @ (rng.uniform(0.7, 1.3, (len(at), 2)) * [rng.uniform(0.2, 0.4), 1])
        seen = shaken(frames, times_s, path / path.std(axis=0).max() * rms, step_s)
    else:  # the swing is faster than a frame, so an exposure of 15 ms smears it
        loud = np.where(after > 0, np.exp(-after / rng.uniform(0.2, 0.35)), 0).sum(axis=1) + 0.25
        swing = loud * np.sin(2 * np.pi * rng.uniform(31, 44) * fine)
        path = swing[:, None] / swing.std() * rms / 1.5 * np.array([1, rng.uniform(0.3, 0.7)])
        exposed = [shaken(frames, times_s + k * step_s, path, step_s).astype(np.float32) for k in range(7)]
        seen = np.mean(exposed, axis=0).round().astype(np.uint8)
    return Disturbed(frames=seen, times_s=times_s, counts=always)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur with a disc of 4.5, 7 or 12 % of the width: growing fog, or a focus on drops of rain."""
    _, h, w, _ = frames.shape
    radius = RADII[strength] * w
    begin, takes = float(rng.uniform(0.1, 0.3)), float(rng.uniform(0.3, 0.5))
    y, x = np.indices((h, w), np.float32)
    far = np.hypot((x / w - rng.uniform(0.4, 0.6)) * 1.3, y / h - rng.uniform(0.4, 0.6)) + 0.04 * field(rng, h, w, 6)
    drops = [(rng.uniform(0.1, 0.9, 2) * [w, h], rng.uniform(0.05, 0.12) * h) for _ in range(int(rng.integers(1, 5)))]
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        done, light = float(np.clip((time_s - begin) / takes, 0, 1)), to_light(frame)
        if form == "condensation":
            soft = blurred(light, disc(radius))
            veiled = 0.7 * soft + 0.3 * (0.5 * soft.mean() + 0.2)
            fog = np.clip((done * 1.3 - far) / 0.25, 0, 1)[..., None]
            light = light * (1 - fog) + veiled * fog
        elif done * radius > 0.6:
            upside_down = np.ascontiguousarray(light[::-1, ::-1])
            near = np.asarray(cv2.resize(upside_down, None, fx=0.3, fy=0.3), np.float32)
            light = blurred(light, disc(done * radius))
            for centre, size in drops:
                light = _with_drop(light, near, centre, size, done)
        out[number] = to_grey(light)
    return Disturbed(frames=out, times_s=times_s, counts=mostly_after(begin + takes))


def _with_drop(light: F32, near: F32, centre: F64, size: float, sharp: float) -> F32:
    """Lay a drop over linear light: it shows `near` within a dark rim, and gets clear as `sharp` goes to 1."""
    h, w, _ = light.shape
    y, x = np.indices((h, w), np.float32)
    off = np.hypot(x - centre[0], (y - centre[1]) * 0.9) / size
    start = np.c_[np.eye(2), centre - np.array(near.shape[1::-1]) / 2]
    inner = cv2.warpAffine(near, start, (w, h), borderMode=cv2.BORDER_REFLECT_101)
    alpha = (np.clip((1 - off) * size * (0.1 + 0.9 * sharp) + 0.5, 0, 1) * sharp)[..., None]
    return np.asarray(light * (1 - alpha) + inner * (1.1 - 0.8 * off**4)[..., None].clip(0.1) * alpha, np.float32)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light: a television's, or a blue light on the walls."""
    factor = FACTORS[strength]
    _, h, w, _ = frames.shape
    x = np.arange(w, dtype=np.float32)
    cuts = np.cumsum(rng.uniform(0.15, 0.6, 40)) - 0.4
    bright = np.where(np.arange(41) % 2, rng.uniform(0.8, 1.1, 41), rng.uniform(0.9, 1.3, 41) / factor)
    tints = rng.uniform([0.75, 0.85, 0.9], [1, 1, 1.25], (41, 3))
    fall = (1 - 0.45 * (x if rng.random() < 0.5 else w - x) / w)[:, None]
    hertz, phase = rng.uniform(1.6, 2.4), rng.uniform(0, 1)
    walls = np.clip(0.8 + 0.2 * field(rng, h, w, 4), 0.3, 1.2)
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        if form == "television":  # in a dark room, each cut changes brightness and tint
            shot = int(np.searchsorted(cuts, time_s))
            gain = fall * bright[shot] * tints[shot]
        else:  # at dusk; two flashes in quick succession, whose beam turns across the walls
            turn = (time_s * hertz + phase) % 1
            beam = sum(np.exp(-(((turn - at - 0.12 * (x / w - 0.5)) / 0.07) ** 2)) for at in (0.3, 0.55))
            gain = 0.55 + (factor - 0.55) * (walls * beam)[..., None] * np.array([0.12, 0.35, 1])
        out[number] = to_grey(to_light(frame) * gain)
    return Disturbed(frames=out, times_s=times_s, counts=always)


def noise(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Add upright stripes that run across an analogue picture, or the damaged blocks of a link that loses packets."""
    level = STRENGTHS.index(strength)
    _, h, w, _ = frames.shape
    onset = float(rng.choice([0.0, 0.5]))
    y, x = np.indices((h, w), np.float32)
    pitch, speed, lean = rng.uniform(0.02, 0.06) * w, rng.uniform(-6, 6), rng.uniform(-0.25, 0.25)
    tint, block = rng.uniform(0.5, 1.2, 3), max(4, w // 22)
    damage: list[tuple[int, int, int, int, str, F64]] = []
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        if time_s < onset:
            out[number] = frame
            continue
        signal = frame.astype(np.float32)
        if form == "running stripes":
            wave = np.sin(2 * np.pi * ((x + lean * y) / pitch + speed * time_s)) + rng.normal(0, 0.3, (h, 1))
            signal += (22, 36, 56)[level] * wave[..., None] * tint + rng.normal(0, (5, 8, 12)[level], (h, w, 1))
        else:  # damage stays for some frames, until a picture comes whole
            damage = [each for each in damage if rng.random() < 0.75]
            while len(damage) < (12, 18, 27)[level]:
                row, column = int(rng.integers(h // block)) * block, int(rng.integers(w // block)) * block
                tall, wide = int(rng.integers(1, 4)) * block, int(rng.integers(2, 9)) * block
                kind = str(rng.choice(["smear", "green", "moved"], p=[0.5, 0.15, 0.35]))
                shade = rng.normal(0, 18) + rng.normal(0, 6, 3)
                damage.append((row, column, tall, wide, kind, shade))
            for row, column, tall, wide, kind, shade in damage:
                part = signal[row : row + tall, column : column + wide]
                if kind == "smear":
                    part[:] = part[:1] + shade
                elif kind == "green":
                    part[:] = 0.3 * part + np.array([10, 120, 20]) + shade
                else:
                    blocks = rng.normal(0, 25, (tall // block, wide // block, 3)).repeat(block, 0).repeat(block, 1)
                    part[:] = np.roll(signal, (3 * block, -5 * block), (0, 1))[row:, column:][:tall, :wide]
                    part += blocks[: part.shape[0], : part.shape[1]]
        out[number] = np.clip(signal, 0, 255)
    return Disturbed(frames=out, times_s=times_s, counts=mostly_after(onset) if onset else always)


SECOND_FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("backlash", "steps")),
    "shaking": (shaking, ("footsteps", "bass")),
    "defocused": (defocused, ("condensation", "drops")),
    "flashing": (flashing, ("television", "blue light")),
    "noise": (noise, ("running stripes", "lost packets")),
}

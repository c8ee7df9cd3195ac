"""The sixth group's forms of motion, blur, light and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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
    change_each,
    disc,
    field,
    inside,
    mostly_after,
    to_grey,
    to_light,
    turned,
    view,
)

from engines.arrays import F32, F64, U8


def moved(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Turn the camera by 8, 15 or 25 % of the width: pushed up with a broom, or on a tripod that is kicked."""
    share = TURNS[strength]
    _, h, w, _ = frames.shape
    sign, begin, takes = float(rng.choice([-1, 1])), float(rng.uniform(0.4, 0.7)), float(rng.uniform(0.35, 0.55))
    since = np.maximum(times_s - begin, 0)
    done = np.clip(since / takes, 0, 1)
    if form == "broom":  # the bristles slip while they press, and the bracket springs back when they let go
        loose = np.maximum(since - takes - 0.15, 0)
        slip = 0.05 * np.sin(2 * np.pi * rng.uniform(5, 7) * since) * (loose == 0)
        back = 0.25 * (1 - np.exp(-loose / 0.08) * np.cos(2 * np.pi * 5 * loose))
        path = np.sin(np.pi / 2 * done) ** 2 * (1.25 - back) + slip - 0.6
        lifted = turned(frames, (0.54, 0.9), np.arctan(-share * 4 / 3 * h / (0.9 * w) * path), far=0.9 * w, tilts=True)
        across = sign * rng.uniform(0.3, 0.6) * share * w * path
        roll = rng.uniform(-0.15, 0.15) * share * path
        seen = view(lifted, (0.9, 0.75), np.c_[across, np.zeros(len(path))], roll=roll)
        takes += 0.4
    else:  # a jolt; then it tips over two feet, slowly at first, and hits something
        takes += 0.25
        after = np.maximum(since - takes, 0)
        path = (np.cosh(4 * np.minimum(since / takes, 1)) - 1) / (np.cosh(4) - 1) - 0.5
        path += 0.15 * np.sin(2 * np.pi * 6 * since) * np.exp(-since / 0.08)
        path -= 0.15 * np.abs(np.sin(2 * np.pi * 4 * after)) * np.exp(-after / 0.1)
        shift = share * path[:, None] * [0.85 * sign * w, rng.uniform(-0.35, 0.35) * h]
        seen = view(frames, (0.62, 0.6), shift, roll=-sign * share * rng.uniform(0.8, 1.3) * path)
    return Disturbed(frames=seen, times_s=times_s, counts=inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Shake the camera by an RMS of 1, 1.8 or 3 % of the width.

    Its pan gear skips teeth, or it is on a drone in gusts.
    """
    _, _, w, _ = frames.shape
    fine = np.arange(0, times_s[-1] + 0.05, STEP_S)
    path = np.zeros((len(fine), 4))  # across, down, roll, zoom
    if form == "skipping gear":  # the motor winds on, and the wheel jumps back and rings
        at = np.cumsum(rng.uniform(0.16, 0.38, 40)) - 0.5
        tooth = np.searchsorted(at, fine, side="right") - 1
        gone, turns = fine - at[tooth], rng.uniform(0.6, 1.4, 40)
        path[:, 0] = turns[tooth] * (gone / np.diff(at)[tooth] - 0.5) * rng.choice([-1, 1])
        ring = np.sin(2 * np.pi * rng.uniform(5, 7) * gone) * np.exp(-gone / 0.07)
        path[:, :3] += ring[:, None] * rng.uniform([0.1, 0.2, 0], [0.3, 0.5, 0.3])
    else:  # its control answers each gust late, so that it swings on all axes
        pull, speed = (2 * np.pi * rng.uniform(1.4, 2.6, 4)) ** 2, np.zeros(4)
        gust = rng.normal(size=(len(fine), 4))
        for i in range(1, len(fine)):
            speed += STEP_S * (-pull * path[i - 1] - 0.3 * np.sqrt(pull) * speed) + gust[i]
            path[i] = path[i - 1] + STEP_S * speed
        path = path / path.std(axis=0) * [1, rng.uniform(0.5, 0.9), rng.uniform(0.5, 1), rng.uniform(0.3, 0.8)]
    path = (path - path.mean(axis=0)) / path[:, 0].std() * SWINGS[strength]
    across, down, roll, zoom = path[np.minimum(np.searchsorted(fine, times_s), len(fine) - 1)].T
    shift = np.clip(np.c_[across, down] * w, -0.085 * w, 0.085 * w)
    seen = view(frames, (0.72, 0.74), shift, roll=np.clip(roll, -0.1, 0.1), zoom=np.exp(np.clip(zoom, -0.06, 0.06)))
    return Disturbed(frames=seen, times_s=times_s, counts=always)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur by as much as a disc of 4.5, 7 or 12 % of the width.

    A liquid lens has lost its power, or protective film was left on the lens.
    """
    _, h, w, _ = frames.shape
    radius, turn, hertz = RADII[strength] * w, float(rng.uniform(0, 2 * np.pi)), rng.uniform(2, 3.5)
    begin = float(rng.uniform(0.1, 0.4)) if form == "liquid lens" else 0.0
    y, x = np.indices((h, w), np.float32)
    ripples = [y + radius * field(rng, h, w, 7), x + radius * field(rng, h, w, 7)]
    haze = np.clip(0.15 + 0.07 * field(rng, h, w, 5), 0.02, 0.4)[..., None]
    soft, softer = disc(0.85 * radius), disc(1.1 * radius)

    def relaxed(frame: U8, time_s: float) -> Any:  # the drop loses its shape, and sloshes
        after = time_s - begin
        slosh = 0.4 * np.cos(2 * np.pi * hertz * after) * np.exp(-after / 0.5)
        return to_grey(blurred(to_light(frame), _oval(radius * min(1, 0.3 + after / 0.12), slosh, turn)))

    def behind_film(frame: U8, _time_s: float) -> Any:  # it shows the scene twice: blurred, and bent by its ripples
        light = to_light(frame)
        bent = cv2.remap(light, ripples[1], ripples[0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        shown = 0.6 * blurred(light, soft) + 0.4 * blurred(np.asarray(bent, np.float32), softer)
        return to_grey(shown * (1 - haze) + haze * (0.15 + light.mean()))

    if form == "liquid lens":
        seen = change_each(frames, times_s, relaxed, onset_s=begin)
        return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(begin + 0.1))
    return Disturbed(frames=change_each(frames, times_s, behind_film), times_s=times_s, counts=always)


def _oval(radius: float, stretch: float, turn: float) -> F32:
    """Return the kernel of an astigmatic lens: an ellipse with a disc's area whose axes are 1 + `stretch` and less."""
    long, short = radius * (1 + stretch), radius / (1 + stretch)
    reach = int(np.ceil(max(long, short))) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    kernel = np.clip((1 - np.hypot(along / long, across / short)) * radius + 0.5, 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light: a car's hazard lights, or an open fire."""
    factor = FACTORS[strength]
    _, h, w, _ = frames.shape
    y, x = np.indices((h, w), np.float32)
    far = np.hypot(x / w - rng.choice([-0.1, 1.1]), (y / h - rng.uniform(0.5, 1)) * h / w)
    beam = (0.35 + 0.75 * np.exp(-((far / 0.8) ** 2)))[..., None] * np.array([1.1, 0.75, 0.2])
    period, phase = rng.uniform(0.6, 0.8), rng.uniform(0, 1)
    rates, offsets = rng.uniform(1.2, 6, (8, 2)), rng.uniform(0, 6, (8, 2))
    waves = (np.sin(2 * np.pi * rates * times_s[:, None, None] + offsets) / rates**0.4).sum(axis=1)
    flames = waves.argsort(axis=0).argsort(axis=0) / (len(times_s) - 1)  # each level is as frequent
    near = (0.7 + 0.6 * (x / w - 0.5) * rng.choice([-1, 1]))[..., None]

    def hazard(time_s: float) -> Any:  # the filament takes time to glow and to cool
        turn = (time_s / period + phase) % 1
        glow = 1 - np.exp(-turn * period / 0.05) if turn < 0.5 else np.exp(-(turn - 0.5) * period / 0.08)
        return 0.45 + (factor - 0.45) * glow * beam

    def fire(time_s: float) -> Any:  # two flames of changing height light the scene from two sides
        one, other = flames[int(np.searchsorted(times_s, time_s))]
        return 1.2 * factor ** (one * near + other * (1 - near) - 1) * np.array([1.05, 0.8, 0.5])

    gain = hazard if form == "hazard lights" else fire
    seen = change_each(frames, times_s, lambda frame, time_s: to_grey(to_light(frame) * gain(time_s)))
    return Disturbed(frames=seen, times_s=times_s, counts=always)


def noise(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Light the scene with a laser, whose speckle boils, or heat the sensor, whose dark current lies over the film."""
    level = STRENGTHS.index(strength)
    _, h, w, _ = frames.shape
    onset = float(rng.choice([0.0, 0.5]))
    y, x = np.indices((h, w), np.float32)
    waves = rng.normal(size=(h, w, 2)).astype(np.float32)

    def speckle(frame: U8, _time_s: float) -> Any:  # the sum of many waves: its intensity has an exponential law
        waves[:] = 0.7 * waves + 0.714 * rng.normal(size=waves.shape)
        bright = (cv2.GaussianBlur(waves, (0, 0), max(0.7, w / 330)) ** 2).sum(axis=-1)
        return to_grey(to_light(frame) * (1 + (0.5, 0.75, 1.0)[level] * (bright / bright.mean() - 1))[..., None])

    cross = np.array([[0, 0.3, 0], [0.3, 1, 0.3], [0, 0.3, 0]])
    hot = rng.exponential(110, (h, w, 3)) * (rng.random((h, w, 3)) < (0.02, 0.04, 0.08)[level])
    dark = cv2.filter2D(hot, -1, cross) + (9, 15, 24)[level] * rng.normal(size=(h, w, 3))
    dark += (4, 7, 11)[level] * rng.normal(size=(1, w, 1))
    glow = np.hypot(x / w - rng.choice([0, 1]), (y / h - rng.choice([0, 1])) * h / w)
    dark += ((20, 35, 55)[level] * np.exp(-glow / 0.35))[..., None] * [1, 0.5, 1.1]

    def hot_sensor(frame: U8, _time_s: float) -> Any:
        return frame + dark + rng.normal(0, 1, dark.shape) * np.sqrt((7, 11, 17)[level] ** 2 + np.abs(dark))

    change = speckle if form == "laser speckle" else hot_sensor
    seen = change_each(frames, times_s, change, onset_s=onset)
    return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(onset) if onset else always)


SIXTH_FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("broom", "kicked tripod")),
    "shaking": (shaking, ("skipping gear", "drone")),
    "defocused": (defocused, ("liquid lens", "film on the lens")),
    "flashing": (flashing, ("hazard lights", "open fire")),
    "noise": (noise, ("laser speckle", "hot sensor")),
}

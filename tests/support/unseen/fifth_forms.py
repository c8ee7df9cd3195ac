"""The fifth group's forms of motion, blur, light and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from support.unseen.film import (
    FACTORS,
    RADII,
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
    inside,
    mostly_after,
    to_grey,
    to_light,
    turned,
    view,
)

from engines.arrays import F32, F64, U8


def moved(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Turn the camera by 8, 15 or 25 % of the width: with the lid of a laptop, or by tugs at its cable."""
    share = TURNS[strength]
    _, h, w, _ = frames.shape
    sign, begin = float(rng.choice([-1, 1])), float(rng.uniform(0.4, 0.7))
    if form == "laptop lid":  # the hinge is below the camera: it tilts and rises or sinks, and the lid rocks after it
        takes = rng.uniform(0.4, 0.7)
        done = np.clip((times_s - begin) / takes, 0, 1)
        after = np.maximum(times_s - begin - takes, 0)
        rock = 0.06 * np.sin(2 * np.pi * rng.uniform(5, 7) * after) * np.exp(-after / 0.12)
        path = sign * share * 4 / 3 * h * (np.sin(np.pi * (done - 0.5)) / 2 + rock)
        seen = turned(frames, (0.56, 0.84), np.arctan(path / (0.9 * w)), far=0.9 * w, tilts=True, rise=0.12 * path)
    else:  # each tug turns the camera, and friction holds a part of the turn when the cable hangs loose again
        count, every = int(rng.integers(2, 4)), rng.uniform(0.28, 0.36)
        takes = (count - 1) * every + 0.22
        path, roll = np.full(len(times_s), -0.5), np.zeros(len(times_s))
        for tug in range(count):
            since = times_s - begin - tug * every
            pulled, loose = np.clip(since / 0.09, 0, 1), np.clip((since - 0.12) / 0.1, 0, 1)
            path += (1.4 * pulled - 0.4 * loose) / count
            roll += (pulled - 0.85 * loose) * rng.uniform(0.6, 1.2)
        across, upright = sign * share * w * path, rng.uniform(-0.5, 0.5) * share * h * path
        seen = view(frames, (0.7, 0.64), np.c_[across, upright], roll=sign * 0.25 * share * roll)
    return Disturbed(frames=seen, times_s=times_s, counts=inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Shake the camera by an RMS of 1, 1.8 or 3 % of the width: a machine spins up, or a vehicle runs on cobbles."""
    _, _, w, _ = frames.shape
    fine = np.arange(0, times_s[-1] + 0.05, 0.0025)
    if form == "spin cycle":  # the drum goes round faster and faster, and the mount resonates where the rates meet
        hertz = rng.uniform(2.2, 3.0) + (rng.uniform(5.5, 7.5) - 2.5) * np.clip(fine / rng.uniform(2, 3), 0, 1)
        phase = 2 * np.pi * np.cumsum(hertz) * 0.0025 + rng.uniform(0, 6)
        loud = 0.6 + np.exp(-(((hertz - rng.uniform(3.5, 5)) / 0.8) ** 2))
        path = np.stack([loud * np.cos(phase), rng.uniform(0.4, 0.9) * loud * np.sin(phase + rng.uniform(0, 1))], 1)
        roll, smear = 0.4 * SWINGS[strength] * np.cos(phase + 1), 0.008
    else:  # stone after stone, upright above all: waves of many rates at once, and an exposure that smears the picture
        rates, weights = rng.uniform(3.2, 7.5, 14), rng.normal(0, 1, (14, 3)) * [0.35, 1, 1]
        waves = np.sin(2 * np.pi * rates * fine[:, None] + rng.uniform(0, 6, 14))
        path, roll, smear = (waves @ weights)[:, :2], 0.3 * SWINGS[strength] * waves @ weights[:, 2] / 2.6, 0.02
    path = np.clip(path / path.std(axis=0).max() * SWINGS[strength] * w, -0.085 * w, 0.085 * w)
    exposed: Any = 0.0
    for part in np.linspace(0, smear, 4):
        at = np.minimum(np.searchsorted(fine, times_s + part), len(fine) - 1)
        exposed = exposed + view(frames, (0.74, 0.76), path[at], roll=roll[at]).astype(np.float32) / 4
    return Disturbed(frames=exposed.round().astype(np.uint8), times_s=times_s, counts=always)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur by as much as a disc of 4.5, 7 or 12 % of the width: an element off its axis, or colours that part."""
    _, _, w, _ = frames.shape
    radius, turn = RADII[strength] * w, float(rng.uniform(0, 2 * np.pi))
    begin, takes = float(rng.uniform(0.1, 0.4)), 0.12
    comets = [_comet(part * radius, turn) for part in (0.4, 0.75, 1.0)]
    parts = rng.permutation([0.75, 1.0, 1.35])

    def knocked(frame: U8, time_s: float) -> Any:  # an element falls out of its seat: each point becomes a comet
        done = (time_s - begin) / takes
        return to_grey(blurred(to_light(frame), comets[int(np.clip(3 * done, 0, 2))]))

    def fringed(frame: U8, _time_s: float) -> Any:  # no distance is sharp, and each colour has another focus
        light = to_light(frame)
        soft = [
            cv2.filter2D(light[..., k], -1, disc(parts[k] * radius), borderType=cv2.BORDER_REFLECT_101)
            for k in range(3)
        ]
        return to_grey(np.stack(soft, -1))

    if form == "decentred lens":
        seen = change_each(frames, times_s, knocked, onset_s=begin)
        return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(begin + takes))
    return Disturbed(frames=change_each(frames, times_s, fringed), times_s=times_s, counts=always)


def _comet(radius: float, turn: float) -> F32:
    """Return the kernel of a lens with coma: a bright head, and a tail that fans out by 60 degrees towards `turn`."""
    long = 2.2 * radius
    reach = int(np.ceil(long))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    fan = np.clip(0.6 * along + 1.5 - np.abs(across), 0, 1) * np.clip(long - np.hypot(x, y), 0, 1)
    kernel = fan / (np.clip(along, 0, None) + 0.5 * radius)
    middle = (kernel * along).sum() / kernel.sum()
    shift = np.array([[1, 0, -middle * np.cos(turn)], [0, 1, -middle * np.sin(turn)]])
    centred = np.maximum(cv2.warpAffine(kernel.astype(np.float32), shift, kernel.shape[::-1]), 0)
    return np.asarray(centred / centred.sum(), np.float32)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light: cars at night, or a wind turbine before the sun."""
    factor = FACTORS[strength]
    _, h, w, _ = frames.shape
    y, x = np.indices((h, w), np.float32)
    at = np.cumsum(rng.uniform(0.45, 0.8, 12)) - rng.uniform(0.2, 0.6)
    ways, beams = rng.choice([-1.0, 1.0], 12), rng.uniform([0.9, 0.9, 0.8], [1.1, 1.0, 1.0], (12, 3))
    tints, glare = beams * [1.0, 0.95, 0.85], rng.uniform(0.35, 0.6)
    hertz, blade = rng.uniform(1.1, 1.6), rng.uniform(0.3, 0.5)
    lean, phase = rng.uniform(-0.4, 0.4), rng.uniform(0, 1)

    def headlights(time_s: float) -> Any:  # a beam sweeps over the scene while the car turns, and all gets lighter
        light: Any = 0.0
        for start, way, tint in zip(at, ways, tints, strict=True):
            gone = (time_s - start) / 0.35
            if -0.5 < gone < 0.5:
                centre = (0.5 + 1.2 * way * gone) * w
                beam = glare + (1 - glare) * np.exp(-(((x - centre + 0.2 * (y - h / 2)) / (0.3 * w)) ** 2))
                light = light + np.cos(np.pi * gone) ** 2 * beam[..., None] * tint
        return 0.5 + (factor - 0.5) * light

    def turbine(time_s: float) -> Any:  # the shadow of each blade runs over the whole picture, with a soft edge
        turn = (time_s * hertz + phase + 0.12 * (x / w - 0.5) + 0.12 * lean * y / h) % 1
        shadow = np.clip((blade / 2 - np.abs(turn - 0.5)) / 0.05 + 0.5, 0, 1)[..., None]
        return 1.05 * (1 - shadow) + shadow / factor * np.array([0.95, 1.0, 1.1])

    gain = headlights if form == "headlights" else turbine
    seen = change_each(frames, times_s, lambda frame, time_s: to_grey(to_light(frame) * gain(time_s)))
    return Disturbed(frames=seen, times_s=times_s, counts=always)


def noise(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Play a worn tape, or digitise a grainy picture with too few bits."""
    level = STRENGTHS.index(strength)
    _, h, w, _ = frames.shape
    onset = float(rng.choice([0.0, 0.5]))

    def worn_tape(frame: U8) -> Any:  # lines have wrong hues, grain lies along them, and the head loses contact
        signal = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb).astype(np.float32)
        grain = cv2.blur(rng.normal(0, 1, (h, w)).astype(np.float32), (5, 1)) * 5**0.5
        signal[..., 0] += (20, 32, 50)[level] * grain
        chroma = cv2.blur(signal[..., 1:], (max(3, w // 24), 1)) - 128
        hue = np.repeat(rng.normal(0, (0.5, 0.9, 1.5)[level], -(-h // 2)), 2)[:h, None]
        faded = chroma * (0.9, 0.75, 0.55)[level] + (5, 9, 14)[level] * rng.normal(size=(h, 1, 2))
        signal[..., 1] = 128 + faded[..., 0] * np.cos(hue) - faded[..., 1] * np.sin(hue)
        signal[..., 2] = 128 + faded[..., 0] * np.sin(hue) + faded[..., 1] * np.cos(hue)
        for _ in range((14, 30, 70)[level]):  # comets: bright at once, then fading along the line
            row, column, long = int(rng.integers(h)), int(rng.integers(w)), int(rng.uniform(0.04, 0.25) * w)
            part = signal[row : row + int(rng.integers(1, 3)), column : column + long, 0]
            part += 170 * np.exp(-3 * np.arange(part.shape[1]) / long)
        low = int(rng.uniform(0.04, 0.08) * h)
        signal[-low:] = np.roll(signal[-low:], int(rng.uniform(0.05, 0.3) * w), 1)
        signal[-low:, :, 0] += 50 * rng.normal(size=(low, 1))
        return cv2.cvtColor(np.clip(signal, 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)

    def few_bits(frame: U8) -> Any:  # the grain decides which of a few levels a pixel gets, in each colour apart
        steps, coarse = (6, 4, 3)[level], max(1, w // 300)
        size = (-(-h // coarse), -(-w // coarse), 3)
        grains = rng.normal(0, (0.24, 0.36, 0.5)[level], size).repeat(coarse, 0).repeat(coarse, 1)[:h, :w]
        return np.round(np.clip(frame / 255 * (steps - 1) + grains * (steps - 1) / 2, 0, steps - 1)) * 255 / (steps - 1)

    change = worn_tape if form == "worn tape" else few_bits
    seen = change_each(frames, times_s, lambda frame, _time_s: change(frame), onset_s=onset)
    return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(onset) if onset else always)


FIFTH_FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("laptop lid", "tugged cable")),
    "shaking": (shaking, ("spin cycle", "cobbles")),
    "defocused": (defocused, ("decentred lens", "parted colours")),
    "flashing": (flashing, ("headlights", "wind turbine")),
    "noise": (noise, ("worn tape", "few bits")),
}

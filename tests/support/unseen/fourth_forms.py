"""The fourth group's forms of motion, blur, light and noise."""

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
    """Turn the camera by 8, 15 or 25 % of the width: by a hand, or on a door that opens."""
    share = TURNS[strength]
    _, h, w, _ = frames.shape
    sign, begin = float(rng.choice([-1, 1])), float(rng.uniform(0.45, 0.7))
    if form == "by hand":
        # Along a bow, with a tremor that ends when the hand lets go; the camera stays a little aslant.
        takes = rng.uniform(0.5, 0.8)
        done = np.clip((times_s - begin) / takes, 0, 1)
        eased = done**3 * (10 - 15 * done + 6 * done**2)
        hertz, phase, bow = rng.uniform(5, 7, 3), rng.uniform(0, 6, 3), rng.uniform(-0.5, 0.5)
        tremor = np.sin(2 * np.pi * hertz * times_s[:, None] + phase) * np.sin(np.pi * done)[:, None]
        across = sign * share * w * (eased - 0.5 + 0.05 * tremor[:, 0])
        upright = share * h * (bow * np.sin(np.pi * eased) + rng.uniform(-0.4, 0.4) * (eased - 0.5))
        roll = share * (rng.uniform(-0.3, 0.3) * (eased - 0.5) + 0.08 * tremor[:, 1])
        seen = view(frames, (0.68, 0.66), np.c_[across, upright + 0.08 * share * h * tremor[:, 2]], roll=roll)
    else:  # fast at first, then braked; the picture is foreshortened, as the camera turns and does not shift
        takes = rng.uniform(0.6, 0.9)
        path = 0.5 - (1 - np.clip((times_s - begin) / takes, 0, 1)) ** rng.uniform(2, 3)
        seen = turned(frames, (0.84, 0.62), np.arctan(sign * share * path / 0.9), far=0.9 * w)
    return Disturbed(frames=seen, times_s=times_s, counts=inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Rattle a loose camera about its axis, or shake it by a rock drill: an RMS of 1, 1.8 or 3 % of the width."""
    _, h, w, _ = frames.shape
    if form == "loose collar":  # it rolls from one stop to the other; the RMS is that of the middle of a side
        at = np.cumsum(rng.uniform(0.12, 0.3, 40)) - rng.uniform(0, 0.3)
        stops = np.where(np.arange(41) % 2, 1, -1) * rng.uniform(0.6, 1.3, 41)
        flips = np.clip((times_s[:, None] - at) / 0.07, 0, 1)
        roll = stops[0] + flips @ np.diff(stops)
        roll = (roll - roll.mean()) / roll.std() * SWINGS[strength] / 0.35
        drop = 0.15 * SWINGS[strength] * w * rng.normal(size=(len(times_s), 2))
        seen = view(frames, (0.68, 0.7), drop, roll=np.clip(roll, -0.2, 0.2))
        return Disturbed(frames=seen, times_s=times_s, counts=always)
    # The sensor exposes lower rows later, so that fast vibration bends the picture.
    y, x = np.indices((int(0.82 * h) // 2 * 2, int(0.82 * w) // 2 * 2), np.float32)
    row_s = times_s[:, None] + rng.uniform(0.02, 0.03) * y[:, 0] / len(y)
    hertz, phase = rng.uniform(13, 21, 2), rng.uniform(0, 6, 4)
    loud = 0.75 + 0.25 * np.sin(2 * np.pi * rng.uniform(0.8, 1.5) * row_s)
    bent = [loud * np.sin(2 * np.pi * hertz[k] * row_s + phase[k]) for k in (0, 1)]
    whole = [np.sin(2 * np.pi * rng.uniform(2.5, 4.5) * row_s + phase[2 + k]) for k in (0, 1)]
    dx, dy = (rms * (bent[k] + 0.7 * whole[k]) for k, rms in ((0, 1.0), (1, rng.uniform(0.25, 0.45))))
    scale = SWINGS[strength] * w / dx.std()
    out = np.empty((len(frames), *x.shape, 3), np.uint8)
    for number, frame in enumerate(frames):
        move_x = np.clip(scale * dx[number], -0.085 * w, 0.085 * w)[:, None]
        move_y = np.clip(scale * dy[number], -0.085 * h, 0.085 * h)[:, None]
        from_x, from_y = x + (w - x.shape[1]) / 2 + move_x, y + (h - len(y)) / 2 + move_y
        out[number] = cv2.remap(frame, from_x.astype(np.float32), from_y.astype(np.float32), cv2.INTER_LINEAR)
    return Disturbed(frames=out, times_s=times_s, counts=always)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur by as much as a disc of 4.5, 7 or 12 % of the width: a tilted lens, or infrared."""
    _, h, w, _ = frames.shape
    radius = RADII[strength] * w
    y, x = np.indices((h, w), np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    askew = np.clip(0.5 + 0.6 * ((x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle)), 0, 1)[..., None]
    kernels = [disc(part * radius) for part in (0.8, 1.1, 1.5)]
    ring, glow = _ringed(radius), rng.uniform(0.15, 0.4)
    spot = np.exp(-(((x / w - 0.5) / 0.4) ** 2 + ((y / h - 0.5) / 0.5) ** 2))

    def change(frame: U8, _time_s: float) -> Any:
        light = to_light(frame)
        if form == "tilted lens":  # the blur grows from one side to the other
            near, middle, far = (blurred(light, kernel) for kernel in kernels)
            part = 2 * askew
            return to_grey(np.where(part < 1, near + (middle - near) * part, middle + (far - middle) * (part - 1)))
        # The picture is grey, brighter where the camera's own lamp shines.
        grey = light @ np.array([0.5, 0.35, 0.15], np.float32)
        soft = cv2.filter2D(grey, -1, ring, borderType=cv2.BORDER_REFLECT_101) * (0.75 + glow * spot)
        grain = rng.normal(0, 3, (h, w))
        return to_grey(soft)[..., None].repeat(3, 2) + grain[..., None]

    return Disturbed(frames=change_each(frames, times_s, change), times_s=times_s, counts=always)


def _ringed(radius: float) -> F32:
    """Return the kernel of a lens out of focus with spherical aberration: a disc with a bright rim."""
    reach = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    off = np.hypot(x, y)
    kernel = np.clip(radius + 0.5 - off, 0, 1) * (1 + 1.5 * np.exp(-(((off - 0.9 * radius) / (0.12 * radius)) ** 2)))
    return np.asarray(kernel / kernel.sum(), np.float32)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light: photographers' flashes, or tubes that start."""
    factor = FACTORS[strength]
    _, h, w, _ = frames.shape
    y, x = np.indices((h, w), np.float32)

    def beam_from(across: float, upright: float, wide: float) -> F32:
        far = np.hypot(x / w - across, (y / h - upright) * h / w)
        return np.asarray(np.exp(-((far / wide) ** 2))[..., None], np.float32)

    if form == "photo flashes":  # a weak flash to measure, then the flash; the exposure gives way, and recovers
        at = np.cumsum(rng.uniform(0.28, 0.5, 15)) - 0.5
        long, beams = rng.uniform(0.08, 0.14, 15), [beam_from(*rng.uniform(0, 1, 2), 0.55) for _ in at]

        def gain(time_s: float) -> Any:
            after = time_s - at
            light = sum(
                (float(0 <= past < lasts) + 0.35 * float(-0.15 <= past < -0.07)) * (0.5 + 0.5 * beam)
                for past, lasts, beam in zip(after, long, beams, strict=True)
            )
            dips = float(np.where(after > 0, np.exp(-after / 0.12), 0).max())
            return (0.6 + (factor - 0.6) * light) * (1 - 0.25 * dips)

    else:  # each of two tubes flickers some times before it burns
        places = rng.permutation([0.2, 0.8])
        beams = [beam_from(across, rng.uniform(0.1, 0.5), 0.5) for across in places]
        total = sum(beams) + 0.2
        burns = [rng.uniform(low, high) for low, high in ((0.5, 0.8), (1.35, 1.7))]
        tries = [start - np.cumsum(rng.uniform(0.12, 0.22, 3)) for start in burns]
        bright = rng.uniform(0.5, 0.9, (2, 3))

        def gain(time_s: float) -> Any:
            lit: Any = 0.0
            for beam, start, begins, levels in zip(beams, burns, tries, bright, strict=True):
                attempt = (time_s >= begins) & (time_s < begins + 0.09)
                lit = lit + (beam + 0.1) * (1.0 if time_s >= start else float((attempt * levels).max()))
            return 1 / factor + (1.1 - 1 / factor) * lit / total

    seen = change_each(frames, times_s, lambda frame, time_s: to_grey(to_light(frame) * gain(time_s)))
    return Disturbed(frames=seen, times_s=times_s, counts=always)


def noise(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Tear the rows of an analogue picture that has lost its pulses, or invert bits on a sensor's broken data line."""
    level = STRENGTHS.index(strength)
    _, h, w, _ = frames.shape
    onset = float(rng.choice([0.0, 0.5]))

    def lost_sync(frame: U8) -> Any:  # each row starts early or late, tears run down, and dashes of snow lie over all
        late = rng.normal(0, (0.012, 0.025, 0.05)[level] * w, h)
        late += (0.03, 0.06, 0.12)[level] * w * np.sin(np.arange(h) / h * rng.uniform(4, 12) + rng.uniform(0, 6))
        columns = (np.arange(w) + late[:, None].round().astype(int)) % w
        dashes = cv2.resize(rng.normal(0, 1, (h, max(w // 4, 2))).astype(np.float32), (w, h))
        torn = np.take_along_axis(frame, columns[..., None], axis=1)
        return torn * (0.9, 0.8, 0.65)[level] + (26, 40, 62)[level] * dashes[..., None] + 10

    def bit_errors(frame: U8) -> Any:  # the data line fails in runs of pixels, in one colour or in all
        broken = frame.copy()
        for _ in range((170, 320, 600)[level]):
            row, column = int(rng.integers(h)), int(rng.integers(w))
            tall, wide = int(rng.integers(1, 4)), int(rng.uniform(0.02, 0.12) * w)
            channel = slice(None) if rng.random() < 0.4 else int(rng.integers(3))
            broken[row : row + tall, column : column + wide, channel] ^= int(rng.choice([64, 128, 192]))
        return broken

    change = lost_sync if form == "lost sync" else bit_errors
    seen = change_each(frames, times_s, lambda frame, _time_s: change(frame), onset_s=onset)
    return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(onset) if onset else always)


FOURTH_FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("by hand", "door")),
    "shaking": (shaking, ("loose collar", "rock drill")),
    "defocused": (defocused, ("tilted lens", "infrared")),
    "flashing": (flashing, ("photo flashes", "starting tubes")),
    "noise": (noise, ("lost sync", "bit errors")),
}

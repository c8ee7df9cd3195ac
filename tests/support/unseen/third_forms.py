"""The third group's forms of motion, blur, light and noise."""

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
    inside,
    mostly_after,
    to_grey,
    to_light,
    view,
)

from engines.arrays import F32, F64, U8


def moved(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Turn the camera by 8, 15 or 25 % of the width: to a preset with a zoom, or about its last screw."""
    share = TURNS[strength]
    _, h, w, _ = frames.shape
    sign, begin = float(rng.choice([-1, 1])), float(rng.uniform(0.45, 0.75))
    if form == "preset":
        takes, factor = rng.uniform(0.4, 0.7), (1.1, 1.25, 1.5)[STRENGTHS.index(strength)]
        done = np.clip((times_s - begin) / takes, 0, 1)
        eased = done * done * (3 - 2 * done)
        shift = (eased - 0.5)[:, None] * share * np.array([sign * w, rng.uniform(-0.5, 0.5) * h])
        zoom = factor ** (eased if rng.random() < 0.5 else 1 - eased)
        seen = view(frames, (0.8, 0.7), shift, zoom=zoom)
    else:  # the picture turns about a point above it: the camera falls to one side, and swings until it hangs
        takes, far, hertz = rng.uniform(0.3, 0.5), rng.uniform(1.0, 1.5) * w, rng.uniform(1.8, 2.6)
        done, after = np.clip((times_s - begin) / takes, 0, 1), np.maximum(times_s - begin - takes, 0)
        path = done**2 - 0.5 + 0.15 * np.sin(2 * np.pi * hertz * after) * np.exp(-after / 0.25)
        angle = sign * share * w / far * path
        shift = far * np.c_[np.sin(angle), np.cos(angle) - 1]
        seen = view(frames, (0.66, 0.6), shift, roll=-angle)
    return Disturbed(frames=seen, times_s=times_s, counts=inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Swing the camera on its cable, or shake it by a train: an RMS of 1, 1.8 or 3 % of the width."""
    rms = SWINGS[strength] * frames.shape[2]
    if form == "cable":  # it swings in an ellipse, and rolls with it
        hertz, phase = rng.uniform(0.9, 1.5), rng.uniform(0, 2 * np.pi, 3)
        swing = np.stack([np.sin(2 * np.pi * hertz * k * times_s + phase[i]) for i, k in enumerate((1, 1, 2.3))], 1)
        across = swing[:, 0] + 0.25 * swing[:, 2]
        path = np.stack([across, rng.uniform(0.2, 0.5) * swing[:, 1]], 1)
        roll = SWINGS[strength] * rng.uniform(1, 2) * across
    else:  # the axles pass in pairs, and each rings upright; the ground rumbles between them
        pair, gap = rng.uniform(0.45, 0.65), rng.uniform(0.12, 0.18)
        at = (np.arange(-rng.uniform(0, 0.5), times_s[-1], pair)[:, None] + [0, gap]).ravel()
        after = times_s[:, None] - at
        ring = np.where(after > 0, np.sin(2 * np.pi * rng.uniform(4.5, 6) * after) * np.exp(-after / 0.15), 0)
        path = ring @ (rng.uniform(0.7, 1.3, (len(at), 2)) * [rng.uniform(0.2, 0.5), 1])
        path = path + rng.normal(0, 0.25, path.shape) * [0.5, 1]
        roll = np.zeros(len(times_s))
    shift = np.clip(path / path.std(axis=0).max() * rms, -0.085 * frames.shape[2], 0.085 * frames.shape[2])
    return Disturbed(frames=view(frames, (0.76, 0.76), shift, roll=roll), times_s=times_s, counts=always)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur by as much as a disc of 4.5, 7 or 12 % of the width: a focus on something near, or a weathered dome."""
    _, h, w, _ = frames.shape
    radius = RADII[strength] * w
    if form == "near focus":  # the diaphragm has blades, and the picture grows while the lens moves
        begin, takes = float(rng.uniform(0.1, 0.4)), float(rng.uniform(0.2, 0.4))
        blades, turn, grows = int(rng.integers(5, 8)), rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.07)

        def refocus(frame: U8, time_s: float) -> Any:
            done = float(np.clip((time_s - begin) / takes, 0, 1))
            done += 0.25 * np.sin(np.pi * np.clip((time_s - begin - takes) / 0.4, 0, 1))  # it goes too far, and returns
            if done * radius < 0.6:
                return frame
            enlarge = cv2.getRotationMatrix2D((w / 2, h / 2), 0, 1 + grows * done)
            larger = cv2.warpAffine(to_light(frame), enlarge, (w, h))
            return to_grey(blurred(np.asarray(larger, np.float32), _polygon(done * radius, blades, turn)))

        seen = change_each(frames, times_s, refocus)
        return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(begin + takes))
    # Fine cracks scatter the light: most of it by some pixels, a part of it over the whole picture.
    kernel, haze, tint = _scattered(0.4 * radius), rng.uniform(0.15, 0.3), rng.uniform([1, 0.95, 0.8], 1)

    def weather(frame: U8, _time_s: float) -> Any:
        light = to_light(frame)
        return to_grey((blurred(light, kernel) * (1 - haze) + haze * light.mean()) * tint)

    return Disturbed(frames=change_each(frames, times_s, weather), times_s=times_s, counts=always)


def _polygon(radius: float, blades: int, turn: float) -> F32:
    """Return the kernel of a lens out of focus whose diaphragm is a polygon with the area of a disc."""
    reach = int(np.ceil(1.25 * radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    half = np.pi / blades
    off = np.hypot(x, y) * np.cos((np.arctan2(y, x) + turn) % (2 * half) - half)
    kernel = np.clip(radius * np.sqrt(half / np.tan(half)) + 0.5 - off, 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _scattered(length: float) -> F32:
    """Return a kernel that falls with exp(-r / length)."""
    reach = int(np.ceil(5 * length))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.exp(-np.hypot(x, y) / length)
    return np.asarray(kernel / kernel.sum(), np.float32)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light: a welder's arc, or fireworks at dusk."""
    factor = FACTORS[strength]
    _, h, w, _ = frames.shape
    y, x = np.indices((h, w), np.float32)

    def beam_from(centre: F64) -> F32:
        far = np.hypot(x / w - centre[0], (y / h - centre[1]) * h / w)
        return np.asarray((0.45 + 0.55 * np.exp(-((far / 0.6) ** 2)))[..., None], np.float32)

    if form == "welding":  # the arc burns for some tenths of a second, and flickers while it burns
        switches = np.cumsum(rng.uniform(0.12, 0.45, 40)) - 0.4
        beam, tint = beam_from(rng.uniform(0, 1, 2)), np.array([0.85, 0.95, 1.2])
        flicker = rng.uniform(0.5, 1, len(frames))

        def gain(time_s: float) -> Any:
            burns = np.searchsorted(switches, time_s) % 2
            now = flicker[int(np.searchsorted(times_s, time_s))]
            return 0.7 + (factor - 0.7) * burns * now * beam * tint

    else:  # each burst lights the scene from elsewhere in another colour, and dies away
        at = np.cumsum(rng.uniform(0.3, 0.6, 20)) - 0.6
        colours = np.array([[1, 0.25, 0.2], [0.3, 1, 0.35], [1, 0.85, 0.4], [0.75, 0.4, 1], [1, 1, 1]])
        bursts = [(start, beam_from(rng.uniform(0, 1, 2)) * colours[rng.integers(5)]) for start in at]

        def gain(time_s: float) -> Any:
            light = sum(np.exp(-(time_s - start) / 0.15) * burst for start, burst in bursts if time_s >= start)
            return 0.5 + (factor - 0.5) * light

    seen = change_each(frames, times_s, lambda frame, time_s: to_grey(to_light(frame) * gain(time_s)))
    return Disturbed(frames=seen, times_s=times_s, counts=always)


def noise(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Add the snow of a weak analogue signal, or a night picture's blotches of colour, in grains the model can see."""
    level = STRENGTHS.index(strength)
    _, h, w, _ = frames.shape
    onset = float(rng.choice([0.0, 0.5]))

    def grain(columns: int, rows: int, channels: int) -> F32:
        size = (min(rows, h), min(columns, w))
        grains = rng.normal(0, 1, (*size, channels)).astype(np.float32)
        return np.asarray(cv2.resize(grains, (w, h), interpolation=cv2.INTER_LINEAR), np.float32).reshape(
            h, w, channels
        )

    def change(frame: U8, _time_s: float) -> Any:
        if form == "analogue snow":  # the picture fades as the snow grows
            fade = (0.9, 0.75, 0.5)[level]
            return 115 + fade * (frame - 115.0) + (40, 60, 85)[level] * grain(110, 160, 1)
        return frame + (30, 45, 65)[level] * grain(120, 90, 3) + (12, 18, 26)[level] * grain(w, h, 1)

    seen = change_each(frames, times_s, change, onset_s=onset)
    return Disturbed(frames=seen, times_s=times_s, counts=mostly_after(onset) if onset else always)


THIRD_FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("preset", "one screw")),
    "shaking": (shaking, ("cable", "train")),
    "defocused": (defocused, ("near focus", "weathered dome")),
    "flashing": (flashing, ("welding", "fireworks")),
    "noise": (noise, ("analogue snow", "colour blotches")),
}

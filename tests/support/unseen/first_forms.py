"""The first group's forms."""

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
    disc,
    inside,
    mostly_after,
    shaken,
    to_grey,
    to_light,
    view,
)

from engines.arrays import F64, U8


def moved(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Turn the camera by 8, 15 or 25 % of the width; roll by 8, 13 or 20 degrees; zoom 1.2, 1.4 or 1.8 times."""
    level = STRENGTHS.index(strength)
    share = TURNS[strength]
    _, h, w, _ = frames.shape
    sign = float(rng.choice([-1, 1]))
    begin = float(rng.uniform(0.35, 0.5)) if form == "drift" else float(rng.uniform(0.5, 0.9))
    takes = {"drift": rng.uniform(0.8, 1.0), "sag": rng.uniform(0.35, 0.6), "knock": 0.1}.get(
        form, rng.uniform(0.2, 0.6)
    )
    done = np.clip((times_s - begin) / takes, 0, 1)
    shift = np.zeros((len(times_s), 2))
    if form == "drift":
        shift[:, 0] = sign * share * 0.7 * w * (done - 0.5)
        shift[:, 1] = rng.uniform(-0.06, 0.06) * h * (done - 0.5)
        seen = view(frames, (0.94, 0.7), shift)
    elif form == "sag":  # the mount gives way: the camera falls, and bounces
        shift[:, 1] = sign * share * 0.72 * h * 4 / 3 * (done**2 - 0.5)
        after = np.maximum(times_s - begin - takes, 0)
        shift[:, 1] -= sign * share * 0.1 * h * np.abs(np.sin(after * 14)) * np.exp(-after * 8)
        seen = view(frames, (0.6, 0.9), shift)
    elif form == "knock":  # a blow, after which the camera swings about its new direction
        after = np.maximum(times_s - begin - takes, 0)
        path = done - 0.5 + 0.4 * np.sin(after * rng.uniform(18, 28)) * np.exp(-after * rng.uniform(5, 9))
        shift[:, 0], shift[:, 1] = sign * share * 0.68 * w * path, rng.uniform(-0.25, 0.25) * share * h * path
        seen = view(frames, (0.86, 0.66), shift, roll=rng.uniform(-0.08, 0.08) * path)
        takes = 0.35
    elif form == "roll":
        angle = np.radians((8, 13, 20)[level])
        seen = view(frames, (0.68, 0.68), shift, roll=sign * angle * (done * done * (3 - 2 * done) - 0.5))
    else:
        factor = (1.2, 1.4, 1.8)[level]
        seen = view(frames, (0.98, 0.98), shift, zoom=factor ** (done if sign > 0 else 1 - done))
    return Disturbed(frames=seen, times_s=times_s, counts=inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Shake the camera, by an RMS of 1, 1.8 or 3 % of the width in the stronger direction."""
    rms = SWINGS[strength]
    w = frames.shape[2]
    fine = np.arange(0, times_s[-1] + 0.01, STEP_S)
    path = np.zeros((len(fine), 3))
    if form == "impacts":  # each blow rings and dies away
        at = -0.3
        while at < fine[-1]:
            after = np.maximum(fine - at, 0)
            ring = np.sin(2 * np.pi * rng.uniform(2.5, 4.8) * after) * np.exp(-after / rng.uniform(0.15, 0.3))
            path += ring[:, None] * rng.normal(0, 1, 3)
            at += rng.uniform(0.12, 0.35)
    elif form == "gimbal":  # a stabiliser that hunts about its set point
        phase = np.cumsum(rng.uniform(1.8, 3) + 0.5 * np.sin(fine * 5)) * STEP_S
        path = np.stack([np.sin(2 * np.pi * phase + shift) for shift in (0, rng.uniform(1, 2), 0.7)], 1)
    elif form == "engine":  # the mount is on a machine
        hertz = rng.uniform(3, 4.4)
        path = np.stack([np.sin(2 * np.pi * hertz * k * fine + rng.uniform(0, 6)) for k in (1, 1, 0.5)], 1)
        path *= (1 + 0.4 * np.sin(2 * np.pi * 0.7 * fine))[:, None]
    else:  # gusts: a random walk that is pulled back
        for i in range(1, len(fine)):
            path[i] = path[i - 1] * 0.965 + rng.normal(0, 1, 3)
        path = _smooth(path, 9)
    path = path / (path.std(axis=0) + 1e-9) * rms * [w, rng.uniform(0.4, 0.9) * w, 0]
    return Disturbed(frames=shaken(frames, times_s, path[:, :2]), times_s=times_s, counts=always)


def _smooth(path: F64, size: int) -> F64:
    kernel = np.ones(size) / size
    return np.stack([np.convolve(column, kernel, "same") for column in path.T], 1)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur with a disc of 4.5, 7 or 12 % of the width in linear light: steady, hunting, coming, greasy or misted."""
    radius = RADII[strength] * frames.shape[2]
    _, h, w, _ = frames.shape
    onset = float(rng.uniform(0.3, 0.6)) if form == "coming" else 0.0
    period, phase = rng.uniform(0.8, 1.5), rng.uniform(0, 6)
    y, x = np.indices((h, w), np.float32)
    veil = np.exp(-(((x / w - rng.uniform(0.35, 0.65)) / 0.6) ** 2 + ((y / h - 0.5) / 0.6) ** 2))[..., None]
    grease = cv2.warpAffine(
        disc(radius),
        cv2.getRotationMatrix2D((np.ceil(radius), np.ceil(radius)), float(rng.uniform(0, 180)), 1),
        disc(radius).shape[::-1],
    )
    streak = np.maximum(cv2.resize(grease, None, fx=1.6, fy=0.8), 0)
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        now = radius
        if form == "hunting":
            now = radius * (1.0 + 0.35 * np.sin(2 * np.pi * time_s / period + phase))
        elif form == "coming":
            now = radius * float(np.clip((time_s - onset) / 0.4, 0, 1))
        if now < 0.6:
            out[number] = frame
            continue
        kernel = streak / streak.sum() if form == "grease" else disc(now)
        light = blurred(to_light(frame), kernel)
        if form == "mist":
            light = light * (1 - 0.5 * veil) + 0.5 * veil * (0.5 * light.mean() + 0.15)
        out[number] = to_grey(light)
    return Disturbed(frames=out, times_s=times_s, counts=mostly_after(onset + 0.4) if onset else always)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light."""
    factor = FACTORS[strength]
    _, h, w, _ = frames.shape
    y, x = np.indices((h, w), np.float32)
    begin, counts = float(rng.uniform(0.5, 1.1)), always
    side = (0.6 + 0.4 * (x / w if rng.random() < 0.5 else 1 - x / w))[..., None]
    ons = np.cumsum(rng.uniform(0.12, 0.4, 30)) - 0.3
    hertz, tint = rng.uniform(1.5, 3.2), rng.uniform(0.8, 1.15, 3)
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        if form == "lightning":  # two strokes, each dies away
            strokes = [np.exp(-(time_s - at) / 0.16) for at in (begin, begin + 0.22) if time_s >= at]
            gain: Any = 1 + (factor - 1) * side * min(1.0, sum(strokes)) * np.array([0.9, 0.95, 1.15])
            counts = inside(begin, begin + 0.3)
        elif form == "mains":  # the beat of the lamp and the shutter; lower rows are exposed later
            wave = 0.5 + 0.5 * np.sin(2 * np.pi * (hertz * time_s + 0.35 * y / h))
            gain = (1 / factor + (1 - 1 / factor) * wave)[..., None]
        elif form == "failing tube":
            gain = 1.0 if np.searchsorted(ons, time_s) % 2 else 1 / factor
        elif form == "lamp":  # switched, after which the exposure makes good a part of the change
            after = time_s - begin
            change = 1.0 if after < 0 else factor ** (-1 + 0.35 * (1 - np.exp(-after / 0.6)))
            gain = change * (tint if after >= 0 else 1.0)
            counts = inside(begin, begin + 0.1)
        else:  # a siren's two lamps light one side of the scene each
            red = (time_s * hertz) % 1 < 0.5
            beam = side if red else 1.6 - side
            gain = 1 + (factor - 1) * beam * (np.array([1, 0.15, 0.15]) if red else np.array([0.1, 0.25, 1]))
        out[number] = to_grey(to_light(frame) * gain)
    return Disturbed(frames=out, times_s=times_s, counts=counts)


def noise(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Add salt, the rows' offsets of a failing sensor, the shot noise of high gain, or a radio link's sparkles."""
    level = STRENGTHS.index(strength)
    _, h, w, _ = frames.shape
    onset = float(rng.choice([0.0, 0.5]))
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        if time_s < onset:
            out[number] = frame
            continue
        signal = frame.astype(np.float32)
        if form == "salt":
            hot = rng.random((h, w)) < (0.05, 0.09, 0.16)[level]
            signal[hot] = rng.uniform(150, 255, (int(hot.sum()), 1))
        elif form == "banding":
            sigma = (22, 32, 48)[level]
            signal += rng.normal(0, sigma, (h, 1, 1)) + rng.normal(0, sigma / 2, (h, w, 1))
        elif form == "gain":
            electrons = (35, 16, 7)[level]
            caught = rng.poisson(to_light(frame) * electrons) + rng.normal(0, 0.7, frame.shape)
            signal = 255 * np.clip(caught / electrons, 0, 1) ** (1 / 2.2)
        else:  # sparkles: short dashes, brighter or darker than the picture
            for _ in range((200, 400, 800)[level]):
                row, column = int(rng.integers(h)), int(rng.integers(w))
                signal[row, column : column + int(rng.integers(3, 22))] = rng.choice([0, 255])
            signal += rng.normal(0, (6, 10, 16)[level], (h, w, 1))
        out[number] = np.clip(signal, 0, 255)
    return Disturbed(frames=out, times_s=times_s, counts=mostly_after(onset) if onset else always)


FIRST_FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("drift", "sag", "knock", "roll", "zoom")),
    "shaking": (shaking, ("impacts", "gimbal", "engine", "gusts")),
    "defocused": (defocused, ("steady", "hunting", "coming", "grease", "mist")),
    "flashing": (flashing, ("lightning", "mains", "failing tube", "lamp", "siren")),
    "noise": (noise, ("salt", "banding", "gain", "sparkles")),
}
"""By label: the function and its forms."""

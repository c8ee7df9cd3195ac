"""Disturb real film, for the benchmark only. The disturbances share no code with the training data's disturbances.

Each function takes an excerpt at its own size and a strength. It returns the disturbed excerpt and the windows that
count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import U8

Rng = np.random.Generator

STRENGTHS = ("weak", "medium", "strong")
MARGIN_S = 0.2
"""A change counts where it lies at least this far inside the window, because half a change cannot be recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """An excerpt of a film: `frames` (F, H, W, 3) uint8 RGB at the film's own size; `times_s` (F,), from 0."""

    frames: U8
    times_s: npt.NDArray[np.float64]


Rule = Callable[[float, float], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tampered:
    """A disturbed excerpt.

    `rule` returns for a window [start_s, end_s) whether a user would expect the disturbance to be reported. `detail`
    is the case that the figures keep apart, or "".
    """

    excerpt: Excerpt
    rule: Rule
    detail: str = ""


Tampering = Callable[[Rng, Excerpt, str], Tampered]
MATERIALS = ("cap", "paper", "rag", "pattern", "fingers", "tape")
"""Materials that cover the lens in the benchmark."""


def _most_after(onset_s: float) -> Rule:
    """Return a rule: more than half of the window lies after the onset."""
    return lambda start_s, end_s: end_s - max(start_s, onset_s) > 0.55 * (end_s - start_s)


def inside(begin_s: float, finish_s: float) -> Rule:
    """Return a rule: [begin, finish] lies inside the window."""
    return lambda start_s, end_s: start_s + MARGIN_S <= begin_s and finish_s <= end_s - MARGIN_S


def _onset(rng: Rng) -> float:
    """Draw the onset: the start (0), or a time in the excerpt's first half."""
    return 0.0 if rng.random() < 0.5 else float(rng.uniform(0.2, 0.9))


def _replace(excerpt: Excerpt, frames: list[U8], rule: Rule, detail: str = "") -> Tampered:
    return Tampered(excerpt=Excerpt(frames=np.stack(frames), times_s=excerpt.times_s), rule=rule, detail=detail)


def covered(rng: Rng, excerpt: Excerpt, strength: str) -> Tampered:
    """Cover 70, 85 or 100 % of the frame: from the first frame on, or sliding over it within a quarter of a second.

    Over a dark material the camera's noise grows, and its exposure rises over half a second.
    """
    share = {"weak": 0.7, "medium": 0.85, "strong": 1.0}[strength]
    _, h, w, _ = excerpt.frames.shape
    material, side, onset = str(rng.choice(MATERIALS)), int(rng.integers(4)), _onset(rng)
    lid = _material(rng, material, h, w)
    grain = rng.uniform(0.3, 1.5) + (rng.uniform(0, 5) if lid.mean() < 60 else 0.0)
    rise = rng.uniform(0, 0.5) if lid.mean() < 60 else 0.0
    frames = []
    for frame, time_s in zip(excerpt.frames, excerpt.times_s, strict=True):
        reach = share * (1.0 if onset == 0 else float(np.clip((time_s - onset) / 0.25, 0, 1)))
        length = h if side < 2 else w
        # The soft edge leaves the frame where all of it is covered.
        edge = (reach * 1.04 * length - np.arange(length)) / (0.04 * length) + (0.5 if reach < 1 else 1.5)
        ramp = np.clip(edge, 0, 1) if reach else np.zeros(length)
        ramp = ramp[::-1] if side % 2 else ramp
        alpha = ramp[:, None, None] if side < 2 else ramp[None, :, None]
        gain = 1 + rise * float(np.clip((time_s - onset) / 0.5, 0, 1))
        noise = rng.normal(0, grain, (h, w, 1))
        frames.append(np.clip(frame * (1 - alpha) + (lid * gain + noise) * alpha, 0, 255).astype(np.uint8))
    rule = _most_after(onset + (0.25 if onset else 0))
    return _replace(excerpt, frames, rule, "coming" if onset else "lying still")


def _material(rng: Rng, material: str, h: int, w: int) -> npt.NDArray[np.float64]:
    """Draw one of `MATERIALS`, (h, w, 3) in grey levels."""
    rows, columns = np.indices((h, w))
    if material == "cap":
        return np.full((h, w, 3), float(rng.uniform(2, 30)))
    if material == "fingers":
        lid = np.ones((h, w, 3)) * np.array([190.0, 120.0, 95.0]) * rng.uniform(0.3, 1.1)
        for gap in rng.uniform(0.1, 0.9, 3):
            lid[:, int(gap * w) : int((gap + 0.03) * w)] *= 0.5
        return np.asarray(cv2.blur(cv2.blur(lid, (w // 12, w // 12)), (w // 12, w // 12)))
    if material in ("paper", "tape"):  # lit from one corner; a grey band of tape may cross it
        tone = rng.uniform(200, 250) if material == "paper" else rng.uniform(60, 190)
        lit = 1 - rng.uniform(0.05, 0.45) * (rows / h * rng.uniform(0, 1) + columns / w * rng.uniform(0, 1))
        lid = tone * lit[..., None] * rng.normal(1, 0.03, 3)
        if material == "tape":
            lid[int(rng.uniform(0.2, 0.8) * h) :] *= rng.uniform(0.85, 1.15)
            lid = cv2.blur(lid, (w // 20, w // 20))
        return np.asarray(lid)
    if material == "rag":
        folds = np.sin(columns / w * rng.uniform(4, 15) + np.sin(rows / h * 5)) * 0.25 + 0.75
        return np.asarray(folds[..., None] * rng.uniform(20, 200, 3))
    checks = ((columns // max(w // int(rng.integers(6, 20)), 1)) + (rows // max(h // int(rng.integers(5, 15)), 1))) % 2
    lid = np.where(checks[..., None] == 1, rng.uniform(60, 240, 3), rng.uniform(10, 120, 3))
    blur = max(int(rng.choice([0.008, 0.02, 0.05]) * w), 1)
    return np.asarray(cv2.blur(cv2.blur(lid, (blur, blur)), (blur, blur)))


def defocused(rng: Rng, excerpt: Excerpt, strength: str) -> Tampered:
    """Apply three box filters, which together are nearly a Gaussian of sigma 1.1, 1.8 or 3.2 % of the width."""
    sigma = {"weak": 0.011, "medium": 0.018, "strong": 0.032}[strength] * excerpt.frames.shape[2]
    onset = _onset(rng)
    frames = []
    for frame, time_s in zip(excerpt.frames, excerpt.times_s, strict=True):
        amount = sigma * (1.0 if onset == 0 else float(np.clip((time_s - onset) / 0.4, 0, 1)))
        size = 2 * round(amount) + 1  # variance of three boxes of n: (n^2 - 1) / 4
        for _ in range(3):
            frame = cv2.blur(frame, (size, size), borderType=cv2.BORDER_REPLICATE)
        frames.append(frame)
    return _replace(excerpt, frames, _most_after(onset + (0.4 if onset else 0)))


def _crops(excerpt: Excerpt, shift: npt.NDArray[np.float64], roll_deg: npt.NDArray[np.float64]) -> list[U8]:
    """Crop 70 % of each frame and enlarge it; the crop moves by `shift` (F, 2), in widths of the crop.

    Only real pixels are shown, so that no artefact at the edges reveals the motion.
    """
    _, h, w, _ = excerpt.frames.shape
    limit = 0.15 * w
    frames = []
    for frame, (dx, dy), roll in zip(excerpt.frames, shift, roll_deg, strict=True):
        centre = np.array([w / 2, h / 2]) + np.clip(np.array([dx, dy]) * 0.7 * w, -limit, [limit, limit])
        centre[1] = np.clip(centre[1], 0.35 * h, 0.65 * h)
        matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), float(roll), 1 / 0.7)
        matrix[:, 2] += np.array([w / 2, h / 2]) - centre
        seen = cv2.warpAffine(frame, matrix, (w, h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        frames.append(np.asarray(seen, np.uint8))
    return frames


def moved(rng: Rng, excerpt: Excerpt, strength: str) -> Tampered:
    """Turn the camera by 8, 16 or 28 % of the frame: evenly in 0.2 to 0.9 s, or at once, as after a knock."""
    size = {"weak": 0.08, "medium": 0.16, "strong": 0.28}[strength]
    _, h, w, _ = excerpt.frames.shape
    begin = float(rng.uniform(0.45, 0.9))
    duration = 0.05 if rng.random() < 0.3 else float(rng.uniform(0.2, 0.9))
    done = np.clip((excerpt.times_s - begin) / duration, 0, 1)
    tilt = rng.random() < 0.4
    # From one side of the middle to the other, so that the crop's 15 % on either side suffice.
    path = (done - 0.5) * size * rng.choice([-1, 1])
    shift = np.zeros((len(done), 2))
    shift[:, 1 if tilt else 0] = path * (h / w if tilt else 1)
    if rng.random() < 0.3:
        shift[:, 0 if tilt else 1] = path * 0.4
    frames = _crops(excerpt, shift, np.zeros(len(done)))
    return _replace(excerpt, frames, inside(begin, begin + duration))


def shaking(rng: Rng, excerpt: Excerpt, strength: str) -> Tampered:
    """Swing the camera like a pole in a storm or a hand, kicked at random: RMS 0.8, 1.6 or 3 % of the width."""
    rms = {"weak": 0.008, "medium": 0.016, "strong": 0.03}[strength]
    step = 1 / 200
    count = int(excerpt.times_s[-1] / step) + 400
    hz, damping = rng.uniform(2, 7, 3), rng.uniform(0.05, 0.3)
    swing = np.zeros((count, 3))
    speed = np.zeros(3)
    kicks = rng.normal(0, 1, (count, 3))
    for i in range(1, count):
        omega = 2 * np.pi * hz
        speed = speed + step * (-(omega**2) * swing[i - 1] - 2 * damping * omega * speed) + kicks[i] * np.sqrt(step)
        swing[i] = swing[i - 1] + step * speed
    swing = swing[200:] / swing[200:].std(axis=0)
    at = np.clip((excerpt.times_s / step).astype(int), 0, len(swing) - 1)
    weights = np.array([1.0, rng.uniform(0.3, 1.0), rng.choice([0.0, 40.0])])
    shifts = swing[at] * rms * weights
    return _replace(excerpt, _crops(excerpt, shifts[:, :2], shifts[:, 2]), lambda start_s, end_s: True)


def flashing(rng: Rng, excerpt: Excerpt, strength: str) -> Tampered:
    """Lower the light to 45, 25 or 10 %, or raise it by the same factor, once or flickering; in linear light."""
    ratio = {"weak": 0.45, "medium": 0.25, "strong": 0.1}[strength]
    kind, begin = rng.choice(["off", "on", "flicker", "blink"]), float(rng.uniform(0.45, 1.2))
    times = excerpt.times_s
    rule = inside(begin, begin + 0.05)
    if kind == "off":
        light = np.where(times < begin, 1.0, ratio)
    elif kind == "on":
        light = np.where(times < begin, 1.0, min(1 / ratio, 5.0))
    elif kind == "flicker":
        hz = rng.uniform(1.2, 4)
        light = np.where((times * hz) % 1 < rng.uniform(0.35, 0.65), 1.0, ratio)
        rule = lambda start_s, end_s: True  # noqa: E731 - a value, not a function definition
    else:
        light = np.where((times >= begin) & (times < begin + 0.25), ratio, 1.0)
        rule = inside(begin, begin + 0.25)
    levels = np.arange(256) / 255.0
    tables = [np.clip(255 * (levels**2.2 * gain) ** (1 / 2.2), 0, 255).astype(np.uint8) for gain in light]
    return _replace(excerpt, [cv2.LUT(p, t) for p, t in zip(excerpt.frames, tables, strict=True)], rule)


def noise(rng: Rng, excerpt: Excerpt, strength: str) -> Tampered:
    """Add grain, salt and pepper, or an analogue link's snow; coarser on larger frames, like an upscaled signal."""
    level = {"weak": 0.09, "medium": 0.16, "strong": 0.3}[strength]
    _, h, w, _ = excerpt.frames.shape
    kind, onset = rng.choice(["grain", "pepper", "snow"]), _onset(rng)
    coarse = max(1, round(w / 320))
    small = (-(-h // coarse), -(-w // coarse))
    frames = []
    for frame, time_s in zip(excerpt.frames, excerpt.times_s, strict=True):
        if time_s < onset:
            frames.append(frame)
            continue
        signal = frame.astype(np.float64)
        if kind == "grain":
            grain = rng.normal(0, 255 * level, (*small, 3)) * [1, 0.8, 1.2]
            signal = signal + np.kron(grain, np.ones((coarse, coarse, 1)))[:h, :w]
        elif kind == "pepper":
            dice = np.kron(rng.random(small), np.ones((coarse, coarse)))[:h, :w]
            signal[dice < level / 2] = 255
            signal[dice > 1 - level / 2] = 0
        else:
            snow = np.kron(rng.random((*small, 1)), np.ones((coarse, coarse, 1)))[:h, :w] * 255
            share = level * 1.2 + 0.1 * np.sin(np.arange(h) / h * 9 + time_s * 5)[:, None, None]
            signal = signal * (1 - np.clip(share, 0.05, 0.9)) + snow * np.clip(share, 0.05, 0.9)
        frames.append(np.clip(signal, 0, 255).astype(np.uint8))
    return _replace(excerpt, frames, _most_after(onset))


TAMPERINGS: dict[str, Tampering] = {
    "covered": covered,
    "defocused": defocused,
    "moved": moved,
    "shaking": shaking,
    "flashing": flashing,
    "noise": noise,
}

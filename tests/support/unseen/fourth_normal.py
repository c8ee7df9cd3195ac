"""Changes that leave a film normal: each belongs to the camera's or the scene's everyday behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from support.unseen.film import Disturbed, Rng, always, change_each, colour_between, field, to_grey, to_light

from engines.arrays import F32, F64, U8


def touching(begin_s: float, end_s: float) -> Callable[[float, float], bool]:
    """Return a rule: a part of the change lies in the window."""
    return lambda a, b: a < end_s and begin_s < b


def exposure_step(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Raise or lower the exposure once, by 5 to 9.5 % of the light."""
    begin, takes = float(rng.uniform(1.0, 2.6)), float(rng.choice([0.0, 0.15]))
    factor = (1 + rng.uniform(0.05, 0.095)) ** rng.choice([-1.0, 1.0])

    def expose(frame: U8, time_s: float) -> U8:
        return to_grey(to_light(frame) * factor ** min((time_s - begin) / takes if takes else 1.0, 1.0))

    seen = change_each(frames, times_s, expose, onset_s=begin)
    return Disturbed(frames=seen, times_s=times_s, counts=touching(begin, begin + max(takes, 0.1)))


def bright_passer(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Let somebody in white walk by; the exposure gives way in steps of 4 to 7 % of the light, and returns in such."""
    _, h, w, _ = frames.shape
    tall = float(rng.uniform(0.7, 1.0) * h)
    person = _person(rng, int(tall), int(0.5 * tall))
    begin, takes, sign = float(rng.uniform(0.5, 1.0)), float(rng.uniform(1.2, 2.0)), int(rng.choice([-1, 1]))
    reach, step, gain = w + person.shape[1], float(rng.uniform(0.04, 0.07)), 1.0
    adjusted_s, end_s = begin, begin + takes
    out = frames.copy()
    for number, time_s in enumerate(times_s):
        done = (time_s - begin) / takes
        left = -person.shape[1] + done * reach if sign > 0 else w - done * reach
        frame = frames[number]
        if 0 < done < 1:
            bob = 0.02 * tall * np.sin(2 * np.pi * 1.9 * time_s)
            frame = _lay(frame, person, np.array([left, h - 0.93 * tall + bob]))
        share = max(min(left + person.shape[1], w) - max(left, 0), 0) * tall / (h * w)
        if time_s - adjusted_s >= 0.2:  # the camera adjusts its exposure five times a second
            wanted, adjusted_s = 1 - min(1.2 * share, 0.2), time_s
            if abs(wanted / gain - 1) > step / 2:
                gain *= 1 + step if wanted > gain else 1 / (1 + step)
                end_s = max(end_s, time_s + 0.1)
        out[number] = frame if gain == 1 else to_grey(to_light(frame) * gain)
    return Disturbed(frames=out, times_s=times_s, counts=touching(begin, end_s))


def _person(rng: Rng, height: int, width: int) -> F32:
    """Draw somebody in a white coat, to the hips: (height, width, 4), colours premultiplied by the last channel."""
    scale, white = np.array([3 * width, 3 * height]), float(rng.uniform(225, 250))
    picture = np.zeros((3 * height, 3 * width, 4), np.uint8)
    skin, hair = colour_between(rng, [95, 60, 45], [225, 175, 145]), rng.uniform(20, 90) * np.array([1, 0.8, 0.6])

    def shape(points: list[list[float]], colour: Any) -> None:
        cv2.fillPoly(picture, [(np.array(points) * scale).astype(np.int32)], [*colour, 255], cv2.LINE_AA)

    shape([[0.43, 0.2], [0.57, 0.2], [0.6, 0.32], [0.4, 0.32]], skin * 0.85)
    shape(
        [[0.14, 1.0], [0.1, 0.45], [0.2, 0.34], [0.42, 0.28], [0.58, 0.28], [0.8, 0.34], [0.9, 0.45], [0.86, 1]],
        [white] * 3,
    )
    shape([[0.42, 0.28], [0.58, 0.28], [0.5, 0.45]], rng.uniform(40, 160, 3))
    for fold in rng.uniform(0.16, 0.84, 5):
        shape(
            [[fold, 0.42], [fold + 0.015, 0.42], [fold + rng.normal(0, 0.05), 1]], [white * rng.uniform(0.72, 0.9)] * 3
        )
    for middle, axes, colour in (((0.5, 0.12), (0.14, 0.1), hair), ((0.5, 0.15), (0.115, 0.085), skin)):
        at, size = (int(side) for side in middle * scale), (int(side) for side in axes * scale)
        cv2.ellipse(picture, tuple(at), tuple(size), 0, 0, 360, [*colour, 255], -1, cv2.LINE_AA)
    smeared = cv2.blur(picture, (max(3, width // 10), 3))
    return np.asarray(cv2.resize(smeared, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _lay(frame: U8, piece: F32, at: F64) -> U8:
    """Lay a piece (h, w, 4), colours premultiplied, over a frame with its corner at (x, y)."""
    h, w, _ = frame.shape
    placed = cv2.warpAffine(piece, np.c_[np.eye(2), at], (w, h))
    return np.asarray(np.clip(frame * (1 - placed[..., 3:] / 255) + placed[..., :3], 0, 255), np.uint8)


def key_frame_pulsing(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Compress as a recorder does that spends too few bits on key frames: blocks come at each, and go by and by."""
    _, h, w, _ = frames.shape
    every, coarse, fine = int(rng.integers(8, 20)), rng.uniform(28, 44), rng.uniform(12, 18)
    k = np.arange(8)
    cosines = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16) * np.where(k[:, None], 0.5, 8**-0.5)
    weight = (0.4 + 0.15 * (k[:, None] + k))[None, None, None]  # steps grow with frequency, as eyes see less of it

    def quantised(picture: Any, step: float) -> Any:
        rows, columns = -(-h // 8), -(-w // 8)
        padded = np.pad(picture, ((0, 8 * rows - h), (0, 8 * columns - w), (0, 0)), mode="edge")
        blocks = padded.reshape(rows, 8, columns, 8, 3).transpose(4, 0, 2, 1, 3)
        found = cosines @ blocks @ cosines.T / (step * weight)
        kept = np.sign(found) * np.floor(np.abs(found) + 0.35) * step * weight
        whole = (cosines.T @ kept @ cosines).transpose(1, 3, 2, 4, 0)
        return whole.reshape(8 * rows, 8 * columns, 3)[:h, :w]

    shown: Any = np.zeros((h, w, 3))
    out = np.empty_like(frames)
    for number, frame in enumerate(frames):
        signal = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb).astype(np.float64)
        since = number % every
        step = max(fine, coarse * 0.85**since)
        shown = shown + quantised(signal - shown, step) if since else quantised(signal - 128, coarse) + 128
        out[number] = cv2.cvtColor(np.clip(shown, 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)
    return Disturbed(frames=out, times_s=times_s, counts=always)


def weak_noise(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Add a sensor's noise at dusk: 1.2 to 2.4 % of full scale, more where it is brighter."""
    sigma, colour = rng.uniform(3, 6), rng.uniform(0.2, 0.6)

    def change(frame: U8, _time_s: float) -> Any:
        grain = rng.normal(0, 1, (*frame.shape[:2], 1)) + colour * rng.normal(0, 1, frame.shape)
        return frame + sigma * (0.7 + 0.3 * np.sqrt(frame / 128)) * grain / np.hypot(1, colour)

    return Disturbed(frames=change_each(frames, times_s, change), times_s=times_s, counts=always)


def rain(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Let it rain: thin bright streaks along one direction, some near and out of focus, and a light veil."""
    _, h, w, _ = frames.shape
    count, lean, veil = int(rng.integers(50, 130)), rng.uniform(-0.25, 0.25), rng.uniform(0.03, 0.1)

    def change(frame: U8, _time_s: float) -> Any:
        near, far = np.zeros((2, h, w), np.float32)
        for place, number, long, thick in ((far, count, 0.09, 1), (near, count // 12, 0.2, 3)):
            for at in rng.uniform(-0.1, 1.1, (number, 2)) * [w, h]:
                end = at + h * long * rng.uniform(0.5, 1.3) * np.array([lean + rng.normal(0, 0.03), 1])
                ink = float(rng.uniform(0.2, 0.5))
                cv2.line(place, at.astype(int).tolist(), end.astype(int).tolist(), ink, thick, cv2.LINE_8)
        streaks = cv2.GaussianBlur(far, (0, 0), 0.6) + 0.4 * cv2.GaussianBlur(near, (0, 0), 2)
        soft = frame * (1 - veil) + veil * 150
        return soft + np.clip(streaks, 0, 0.6)[..., None] * (205 - soft)

    return Disturbed(frames=change_each(frames, times_s, change), times_s=times_s, counts=always)


def insect(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Let an insect crawl over a corner of the lens: it hides 2 to 8 % of the picture, and is out of focus."""
    _, h, w, _ = frames.shape
    length = float(np.sqrt(rng.uniform(0.02, 0.07) * h * w / 0.33))
    corner = np.array([rng.choice([0.0, 1.0]) * w, rng.choice([0.0, 1.0]) * h])
    inward = np.sign(np.array([w, h]) / 2 - corner)
    # It comes over one side of the corner and goes on along a bow about the corner, with rests.
    walks = np.convolve(rng.random(len(times_s)) < 0.75, np.ones(3) / 3, "same")
    turn = rng.uniform(-0.3, 0.4) + np.cumsum(walks) / len(times_s) * rng.uniform(0.8, 1.6)
    if rng.random() < 0.5:
        turn = np.pi / 2 - turn
    place = corner + inward * rng.uniform(0.45, 0.75) * length * np.c_[np.cos(turn), np.sin(turn)]
    way = np.gradient(place, axis=0)
    heading = np.arctan2(way[:, 1], way[:, 0])
    shade, soft, gait = (
        rng.uniform(10, 55) * np.array([1, 0.85, 0.7]),
        float(rng.uniform(0.008, 0.03) * length),
        np.cumsum(walks) * 1.9,
    )
    out = np.empty_like(frames)
    for number, frame in enumerate(frames):
        mask = np.zeros((h, w), np.uint8)
        forward = np.array([np.cos(heading[number]), np.sin(heading[number])])
        aside, middle = forward[::-1] * [-1, 1], place[number]
        degrees = float(np.degrees(heading[number]))
        for along, long, wide in ((-0.2, 0.3, 0.17), (0.14, 0.15, 0.13), (0.34, 0.09, 0.09)):
            axes = (int(long * length), int(wide * length))
            cv2.ellipse(mask, (middle + forward * along * length).astype(int).tolist(), axes, degrees, 0, 360, 255, -1)
        for leg in range(6):
            side, at = (1 if leg % 2 else -1), (-0.02, 0.12, 0.24)[leg // 2]
            swing = 0.09 * np.sin(gait[number] + np.pi * leg)
            knee = middle + length * (forward * (at + swing + 0.3 * (at - 0.1)) + aside * side * 0.24)
            foot = knee + length * (forward * (swing + 0.6 * (at - 0.1)) + aside * side * 0.13)
            bones = np.array([middle + forward * at * length, knee, foot]).astype(np.int32)
            cv2.polylines(mask, [bones], False, 255, max(1, int(0.03 * length)), cv2.LINE_AA)
        alpha = cv2.GaussianBlur(mask, (0, 0), max(soft, 0.6))[..., None] / 255
        out[number] = frame * (1 - alpha) + shade * alpha
    return Disturbed(frames=out, times_s=times_s, counts=always)


def passing_object(rng: Rng, frames: U8, times_s: F64) -> Disturbed:
    """Let something pass close by, within 0.35 to 0.55 s; it hides half of the picture or more for 0.3 s at most."""
    _, h, w, _ = frames.shape
    begin, takes = float(rng.uniform(1.0, 2.6)), float(rng.uniform(0.35, 0.55))
    wide, tall = int(rng.uniform(0.75, 1.0) * w), int(rng.uniform(0.8, 1.0) * h)
    picture = np.ones((tall, wide, 4), np.float32) * [*rng.uniform(30, 190, 3), 255]
    stripes = np.cumsum(rng.uniform(0.05, 0.4, 12)) * (tall if rng.random() < 0.5 else wide)
    at = np.arange(tall)[:, None] if rng.random() < 0.5 else np.arange(wide)[None]
    tones = rng.uniform(0.55, 1.25, 13)[np.searchsorted(stripes, at)] + 0.1 * field(rng, tall, wide, 5)
    picture[..., :3] *= tones[..., None]
    y, x = np.indices((tall, wide), np.float32)
    power = rng.uniform(3, 9)  # rounded corners
    round_ = np.abs(2 * x / wide - 1) ** power + (np.clip(1 - y / tall, 0, 1)) ** power
    picture[..., 3] = 255 * np.clip((1 - round_) * 12, 0, 1)
    picture[..., :3] = np.clip(picture[..., :3], 0, 255) * (picture[..., 3:] / 255)
    smear = max(3, int((w + wide) / takes / 90))  # an exposure of 11 ms
    padded = cv2.copyMakeBorder(picture, 0, 0, smear, smear, cv2.BORDER_CONSTANT)
    piece, sign = np.asarray(cv2.blur(padded, (smear, 1)), np.float32), int(rng.choice([-1, 1]))
    out = frames.copy()
    for number, time_s in enumerate(times_s):
        done = (time_s - begin) / takes
        if 0 < done < 1:
            left = -wide + done * (w + wide) if sign > 0 else w - done * (w + wide)
            out[number] = _lay(frames[number], piece, np.array([left - smear, h - tall]))
    return Disturbed(frames=out, times_s=times_s, counts=touching(begin, begin + takes))


FOURTH_NORMAL: Final[dict[str, Callable[[Rng, U8, F64], Disturbed]]] = {
    "exposure step": exposure_step,
    "bright passer": bright_passer,
    "key-frame pulsing": key_frame_pulsing,
    "weak noise": weak_noise,
    "rain": rain,
    "insect": insect,
    "passing object": passing_object,
}

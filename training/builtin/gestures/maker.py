"""Render one clip: a scene, a camera on a head or in a hand, a hand in front of it, and the fingertip's place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engines.arrays import F32, F64, U8
from training.builtin.camera_events.scenes import scene
from training.builtin.camera_events.surfaces import Rng
from training.builtin.gestures import LABELS
from training.builtin.gestures.hands import HandSprite, draw_hand_style, hand_sprite
from training.builtin.gestures.shapes import DrawnPaths, gesture_path, other_path

VERSION = 1
"""Raise this number when the rendered clips change; the name of their cache depends on it."""

_POSES_OF_OTHER = ("point", "open", "fist", "two", "flat")


@dataclass(frozen=True, slots=True, kw_only=True)
class GestureClip:
    """A rendered clip: `frames` (F, H, W, 3) uint8 RGB; `tips` (F, 2), the fingertip as shares of width and height.

    Tips are NaN where no finger points or the tip is outside the frame.
    """

    frames: U8
    tips: F32


def make_clip(
    rng: Rng, label: str, *, frames: int, fps: float, height: int, width: int, drawn: DrawnPaths | None = None
) -> GestureClip:
    """Render a clip of `label`, one of LABELS. The whole gesture fills `frames`, whatever its duration.

    `fps`: frames per second; with more, the camera moves less between two frames. `drawn`: paths that people drew, used
    for some of the clips. Raises `ValueError` for an unknown label.
    """
    if label not in LABELS:
        raise ValueError(f"label={label!r}: one of {', '.join(LABELS)}")
    h, w = height * 2, width * 2
    world = scene(rng, int(h * 1.3), int(w * 1.3)).astype(np.float32)
    path = other_path(rng, frames) if label == "other" else gesture_path(rng, label, frames, drawn)
    poses = _poses(rng, frames) if label == "other" else [0 if rng.random() > 0.03 else 3] * frames
    present = np.ones(frames, bool)
    if label == "other" and rng.random() < 0.08:
        present[:] = False
    left_handed = rng.random() < 0.06
    style = draw_hand_style(rng)
    sprites = {pose: hand_sprite(rng, style, _POSES_OF_OTHER[pose]) for pose in sorted(set(poses))}
    turn = rng.normal(-0.12, 0.22) + (0.35 + rng.normal(0, 0.2)) * (path[:, 0] - 0.5)
    if label == "other":
        turn = turn + _drift(rng, frames, float(rng.choice([0.05, 0.6], p=[0.6, 0.4])))
    palm = (
        rng.uniform(0.11, 0.26) * h * (1 + _drift(rng, frames, 0.05)) * (1 + 0.15 * rng.normal() * (path[:, 1] - 0.5))
    )
    shake = np.cumsum(_drift(rng, frames, rng.choice([0.0, 0.003, 0.012], p=[0.3, 0.5, 0.2]) * 8 / fps, 2), axis=0)
    shake = np.clip(shake - shake[:1], -0.12, 0.12)
    if rng.random() < 0.2:  # the head follows the hand
        shake = shake + rng.uniform(0, 0.15) * (path - path[:1])
    shutter = rng.uniform(0, 0.6)
    images = []
    for i in range(frames):
        image = _view(world, shake[i], h, w)
        if present[i]:
            step = path[i] - path[i - 1] if i else np.zeros(2)
            _blend_hand(image, sprites[poses[i]], path[i], step * shutter, float(turn[i]), float(palm[i]), left_handed)
        images.append(image)
    small = _through_camera(rng, images, height, width)
    pointing = present & np.isin(poses, (0,)) & (path > -0.01).all(axis=1) & (path < 1.01).all(axis=1)
    tips = np.where(pointing[:, None], path, np.nan).astype(np.float32)
    return GestureClip(frames=small, tips=tips)


def _poses(rng: Rng, frames: int) -> list[int]:
    """Draw the poses of a hand that draws no shape: some only point, most open and close."""
    if rng.random() < 0.4:
        return [0] * frames
    poses: list[int] = []
    chosen = rng.permutation(len(_POSES_OF_OTHER))[: int(rng.integers(1, 4))]
    while len(poses) < frames:
        poses += [int(chosen[int(rng.integers(len(chosen)))])] * int(rng.integers(2, max(frames // 2, 4)))
    return poses[:frames]


def _drift(rng: Rng, frames: int, size: float, columns: int = 0) -> F64:
    """Draw smooth noise (F,) or (F, columns)."""
    knots = max(frames // 5, 3)
    noise = np.asarray(rng.normal(0, size, (knots, max(columns, 1))), np.float32)
    grown = cv2.resize(noise, (noise.shape[1], frames), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return grown.reshape(frames, columns) if columns else grown.reshape(frames)


def _view(world: F32, shift: F64, h: int, w: int) -> F32:
    wh, ww = world.shape[:2]
    at = np.array([(ww - w) / 2 + shift[0] * w, (wh - h) / 2 + shift[1] * h])
    move = np.array([[1, 0, at[0]], [0, 1, at[1]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(world, move, (w, h), flags=flags, borderMode=cv2.BORDER_REFLECT), np.float32)


def _blend_hand(image: F32, sprite: HandSprite, tip: F64, step: F64, turn: float, palm: float, mirrored: bool) -> None:
    """Blend the sprite into `image` with its tip at `tip`, blurred along `step` (both in shares of the frame)."""
    h, w = image.shape[:2]
    scale = palm / sprite.palm_width
    c, s = np.cos(turn) * scale, np.sin(turn) * scale
    sign = -1.0 if mirrored else 1.0
    blur = float(np.hypot(step[0] * w, step[1] * h))
    times = np.linspace(-0.5, 0.5, int(np.clip(blur / 3, 1, 6))) if blur > 3 else np.zeros(1)
    hand = np.zeros((h, w, 4), np.float32)
    for t in times:
        x, y = (tip + t * step) * (w, h)
        tx, ty = sprite.tip
        move = np.array([[sign * c, -s, x - sign * c * tx + s * ty], [sign * s, c, y - sign * s * tx - c * ty]])
        hand += cv2.warpAffine(sprite.rgba, move, (w, h), flags=cv2.INTER_LINEAR)
    hand /= len(times)
    image *= 1 - hand[..., 3:]
    image += hand[..., :3]


def _through_camera(rng: Rng, images: list[F32], height: int, width: int) -> U8:
    """Apply exposure, white balance, softness, grain and JPEG, then scale to the model's size."""
    frames = len(images)
    gain = np.exp(_drift(rng, frames, float(rng.choice([0.01, 0.08], p=[0.7, 0.3]))))
    balance = np.exp(_drift(rng, frames, float(rng.choice([0.0, 0.06], p=[0.7, 0.3])), 3))
    level, grain = np.exp(rng.normal(0, 0.12)), rng.exponential(2.0)
    quality, soft = int(rng.uniform(25, 95)), rng.choice([0.0, rng.uniform(0.5, 1.6)])
    out = np.empty((frames, height, width, 3), np.uint8)
    for i, image in enumerate(images):
        shown = image * (gain[i] * level * balance[i]).astype(np.float32)
        if soft:
            shown = np.asarray(cv2.GaussianBlur(shown, (0, 0), soft), np.float32)
        shown = shown + grain * rng.standard_normal(shown.shape, dtype=np.float32)
        coded = cv2.imencode(".jpg", np.clip(shown, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
        out[i] = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA)
    return out

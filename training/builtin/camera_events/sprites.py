"""Moving things in a scene: people, cars, blobs, shadows, lamps, rain and swaying regions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from training.builtin.camera_events.surfaces import Rng, fractal_noise, texture

POSES = 6


def person(rng: Rng, size: int) -> list[U8]:
    """Draw a dressed person's walking cycle as RGBA images, `size` pixels high: head, trunk, arms and legs."""
    height, width = size, max(int(size * 0.6), 4)
    shirt, trousers = (np.clip(texture(rng, height, width), 0, 255) * rng.uniform(0.3, 1) for _ in range(2))
    skin = tuple(float(v) for v in np.array([225, 170, 140]) * rng.uniform(0.3, 1.05))
    hair = tuple(float(v) for v in rng.uniform(5, 90, 3))
    swing, bulk = rng.uniform(0.1, 0.5), rng.uniform(0.8, 1.4)
    poses = []
    for phase in np.arange(POSES) * 2 * np.pi / POSES:
        parts = np.zeros((height, width), np.uint8)  # 1 shirt, 2 trousers, 3 skin, 4 hair

        def limb(x: float, y: float, length: float, angle: float, thick: float, part: int, out: U8 = parts) -> None:
            start = (int(x * width), int(y * height))
            end = (
                start[0] + int(length * height * np.sin(angle)),
                start[1] + int(length * height * np.cos(angle)),
            )
            cv2.line(out, start, end, part, max(int(thick * bulk * height), 1), cv2.LINE_8)

        angle = swing * np.sin(phase)
        limb(0.5, 0.52, 0.44, angle, 0.085, 2)
        limb(0.5, 0.52, 0.44, -angle, 0.085, 2)
        limb(0.42, 0.24, 0.3, -angle * 1.2 - 0.1, 0.06, 1)
        trunk = (int(0.105 * bulk * height), int(0.2 * height))
        cv2.ellipse(parts, (width // 2, int(0.35 * height)), trunk, 0, 0, 360, 1, -1)
        limb(0.58, 0.24, 0.3, angle * 1.2 + 0.1, 0.06, 1)
        cv2.ellipse(
            parts,
            (width // 2, int(0.09 * height)),
            (int(0.06 * height), int(0.08 * height)),
            0,
            0,
            360,
            3,
            -1,
        )
        cv2.ellipse(
            parts,
            (width // 2, int(0.06 * height)),
            (int(0.065 * height), int(0.06 * height)),
            0,
            180,
            360,
            4,
            -1,
        )
        rgba = np.zeros((height, width, 4), np.uint8)
        for part, surface in ((1, shirt), (2, trousers), (3, skin), (4, hair)):
            rgba[..., :3] = np.where((parts == part)[..., None], np.asarray(surface), rgba[..., :3])
        rgba[..., 3] = (parts > 0) * np.uint8(255)
        poses.append(np.asarray(cv2.GaussianBlur(rgba, (3, 3), 0), np.uint8))
    return poses


def car(rng: Rng, size: int) -> list[U8]:
    """Draw a vehicle from the side, `size` pixels high: body, cabin, wheels, sometimes a box on its back."""
    height, width = size, int(size * rng.uniform(1.6, 3.0))
    body = texture(rng, height, width) * 0.3 + rng.uniform(10, 230, 3) * 0.7
    mask = np.zeros((height, width), np.uint8)
    cv2.rectangle(mask, (0, int(0.4 * height)), (width, int(0.85 * height)), 1, -1)
    if rng.random() < 0.4:
        cv2.rectangle(mask, (int(0.05 * width), 0), (int(rng.uniform(0.6, 0.97) * width), int(0.5 * height)), 1, -1)
    roof = np.array([[0.15, 0.42], [0.3, 0.05], [0.7, 0.05], [0.88, 0.42]]) * [width, height]
    cv2.fillPoly(mask, [roof.astype(np.int32)], 1)
    glass = np.array([[0.22, 0.4], [0.33, 0.12], [0.67, 0.12], [0.8, 0.4]]) * [width, height]
    cv2.fillPoly(mask, [glass.astype(np.int32)], 2)
    for x in (0.2, 0.8):
        cv2.circle(mask, (int(x * width), int(0.83 * height)), int(0.16 * height), 3, -1)
        cv2.circle(mask, (int(x * width), int(0.83 * height)), int(0.08 * height), 4, -1)
    rgba = np.zeros((height, width, 4), np.uint8)
    for part, surface in (
        (1, np.clip(body, 0, 255)),
        (2, rng.uniform(20, 120, 3)),
        (3, (20, 20, 20)),
        (4, (150, 150, 150)),
    ):
        rgba[..., :3] = np.where((mask == part)[..., None], np.asarray(surface), rgba[..., :3])
    rgba[..., 3] = (mask > 0) * np.uint8(255)
    return [rgba]


def car_from_above(rng: Rng, size: int) -> list[U8]:
    """Draw a vehicle from above, `size` pixels across: a rounded body, roof, two panes, lights."""
    height, width = size, max(int(size * rng.uniform(1.6, 3.2)), 8)
    scale = np.array([width, height])
    tone = rng.uniform(8, 245) * (1 + 0.25 * rng.normal(0, 1, 3) * (rng.random() < 0.5))
    light = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.7, 1.1), height)[:, None, None]
    rgb = np.clip(tone * light * np.ones((height, width, 1)), 0, 255)
    body = np.zeros((height, width), np.uint8)
    corner = max(int(0.22 * height), 1)
    cv2.rectangle(body, (corner, 0), (width - corner, height), 255, -1)
    cv2.rectangle(body, (0, corner), (width, height - corner), 255, -1)
    for x in (corner, width - corner):
        for y in (corner, height - corner):
            cv2.circle(body, (x, y), corner, 255, -1, cv2.LINE_AA)
    for left, right in ((0.2, 0.32), (0.68, 0.8)):
        pane = np.array([[left, 0.12], [right, 0.18], [right, 0.82], [left, 0.88]]) * scale
        cv2.fillPoly(rgb, [pane.astype(np.int32)], (tone * 0.25 + 12).tolist(), cv2.LINE_AA)
    for side in (0.12, 0.88):
        cv2.circle(rgb, (int(0.96 * width), int(side * height)), max(int(0.06 * height), 1), (255, 250, 225), -1)
    return [np.dstack([rgb, body]).astype(np.uint8)]


def blob(rng: Rng, size: int) -> list[U8]:
    """Draw a textured shape with a soft or a hard edge, for anything else: an animal, an arm, a bag, a bird."""
    width = max(int(size * rng.uniform(0.4, 2.5)), 4)
    noise = fractal_noise(rng, size, width, roughness=0.4)[..., 0]
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : width * 1j]
    edge = rng.uniform(5, 30)
    alpha = np.clip((noise + 0.6 - (x**2 + y**2)) * edge, 0, 1)
    rgb = np.clip(texture(rng, size, width), 0, 255)
    return [np.dstack([rgb, alpha * 255]).astype(np.uint8)]


def shadow(rng: Rng, size: int) -> list[U8]:
    """Draw a dark, semi-transparent shape."""
    (rgba,) = blob(rng, size)
    rgba[..., :3] = 0
    rgba[..., 3] = rgba[..., 3] * rng.uniform(0.2, 0.6)
    return [np.asarray(cv2.GaussianBlur(rgba, (0, 0), max(size * 0.03, 0.5)), np.uint8)]


def lamp(rng: Rng, size: int) -> list[U8]:
    """Draw a glow: headlights, a torch, an insect in infra-red light."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    alpha = np.clip(np.exp(-(x**2 + y**2) * rng.uniform(3, 9)) * rng.uniform(0.8, 2.5) - 0.05, 0, 1)
    rgb = np.full((size, size, 3), np.array([255, 250, 235]) * rng.uniform(0.8, 1))
    return [np.dstack([rgb, alpha * 255]).astype(np.uint8)]


@dataclass(slots=True, kw_only=True)
class MovingSprite:
    """A sprite with its motion: position, speed in frame widths per second, growth per second, gait, pause."""

    poses: list[U8]
    x: float
    y: float
    vx: float
    vy: float
    growth: float
    gait_hz: float
    pause: tuple[float, float]
    wobble: float

    def draw(self, frame: U8, time_s: float) -> None:
        """Blend the sprite at `time_s` into `frame` (H, W, 3), in place."""
        start, stop = self.pause
        walked = time_s - max(min(time_s, stop) - start, 0)
        pose = self.poses[int(walked * self.gait_hz * POSES) % len(self.poses)]
        scale = float(np.clip(np.exp(self.growth * walked), 0.3, 2.5))
        if abs(scale - 1) > 0.01:
            resized = cv2.resize(pose, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            pose = np.asarray(resized, np.uint8)
        if self.vx < 0:
            pose = pose[:, ::-1]
        height, width = frame.shape[:2]
        sway = self.wobble * np.sin(2 * np.pi * self.gait_hz * time_s)
        cx = (self.x + self.vx * walked + sway) * width
        cy = self.y * height + (self.vy * walked + abs(sway)) * width
        blend(frame, pose, int(cx - pose.shape[1] / 2), int(cy - pose.shape[0] / 2))


def blend(frame: U8, rgba: U8, x: int, y: int) -> None:
    """Alpha-blend `rgba` into `frame`, with its top left corner at (x, y), clipped at the edges."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + rgba.shape[1], frame.shape[1]), min(y + rgba.shape[0], frame.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = rgba[y0 - y : y1 - y, x0 - x : x1 - x]
    alpha = part[..., 3:].astype(np.uint16)
    region = frame[y0:y1, x0:x1]
    region[:] = ((region * (255 - alpha) + part[..., :3] * alpha + 127) // 255).astype(np.uint8)


def draw_sprites(rng: Rng, height: int, width: int) -> list[MovingSprite]:
    """Draw no sprites, a few, a crowd, or one that is very large because it passes close to the camera."""
    count = int(rng.choice([0, 1, 2, 4, 12], p=[0.14, 0.26, 0.3, 0.22, 0.08]))
    makers = {
        "person": person,
        "car": car,
        "car_from_above": car_from_above,
        "blob": blob,
        "shadow": shadow,
        "lamp": lamp,
    }
    sprites = []
    for _ in range(count):
        kind = str(rng.choice(list(makers), p=[0.38, 0.15, 0.13, 0.17, 0.1, 0.07]))
        # Sizes in frame heights: most are small, some fill the frame for a moment.
        relative = float(np.exp(rng.uniform(np.log(0.05), np.log(1.5 if count <= 4 else 0.4))))
        size = int(np.clip(relative * height, 6, 1.6 * height))
        speed = relative * rng.exponential(0.35) * rng.choice([-1, 1])
        if kind.startswith("car") and rng.random() < 0.5:  # traffic crosses the frame in a second or two
            speed = rng.uniform(0.2, 1.4) * rng.choice([-1, 1])
        moving = rng.random() < 0.85
        sprites.append(
            MovingSprite(
                poses=makers[kind](rng, size),
                x=float(rng.uniform(-0.1, 1.1)) - (speed if rng.random() < 0.5 else 0),
                y=float(rng.uniform(0.25, 0.95)),
                vx=float(speed) * moving,
                vy=float(rng.normal(0, 0.08)) * moving,
                growth=float(rng.normal(0, 0.3)) * (rng.random() < 0.4) * (size < height),
                gait_hz=float(rng.uniform(0.7, 2.5)),
                pause=tuple(np.sort(rng.uniform(0, 6, 2))) if rng.random() < 0.3 else (0.0, 0.0),
                wobble=float(rng.choice([0, 0.01, 0.05], p=[0.6, 0.3, 0.1])) * relative,
            )
        )
    return sprites


def draw_rain(rng: Rng, frame: U8, *, drops: int, slant: float) -> None:
    """Draw new streaks into a frame, in place: rain or snow between camera and scene."""
    height, width = frame.shape[:2]
    overlay = frame.copy()
    for x, y, length in zip(
        rng.uniform(0, width, drops),
        rng.uniform(0, height, drops),
        rng.uniform(0.01, 0.06, drops) * height,
        strict=True,
    ):
        cv2.line(overlay, (int(x), int(y)), (int(x + slant * length), int(y + length)), (215, 215, 220), 1)
    np.copyto(frame, cv2.addWeighted(overlay, 0.45, frame, 0.55, 0))


@dataclass(slots=True, kw_only=True)
class SwayingRegion:
    """A region of the scene that moves all the time: leaves in the wind, a flag, water, a lit screen."""

    box: tuple[int, int, int, int]
    hz: float
    amplitude: float
    flicker: float
    map_x: npt.NDArray[np.float32]
    map_y: npt.NDArray[np.float32]

    def draw(self, frame: U8, time_s: float) -> None:
        """Distort the region as at `time_s`, in place."""
        x0, y0, x1, y1 = self.box
        phase = 2 * np.pi * self.hz * time_s
        dx = self.amplitude * np.sin(phase + self.map_y / 17 + self.map_x / 31)
        dy = 0.5 * self.amplitude * np.cos(phase * 1.3 + self.map_x / 23)
        region = frame[y0:y1, x0:x1]
        moved = cv2.remap(
            region,
            self.map_x + dx.astype(np.float32),
            self.map_y + dy.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        gain = 1 + self.flicker * np.sin(phase * 1.7)
        region[:] = cv2.convertScaleAbs(moved, alpha=float(gain))


def draw_swaying_region(rng: Rng, height: int, width: int) -> SwayingRegion:
    """Draw a region of up to a third of the frame, which sways by at most 1.5 % of the width."""
    w, h = int(rng.uniform(0.1, 0.6) * width), int(rng.uniform(0.1, 0.6) * height)
    x, y = int(rng.uniform(0, width - w)), int(rng.uniform(0, height - h))
    map_y, map_x = np.mgrid[:h, :w].astype(np.float32)
    return SwayingRegion(
        box=(x, y, x + w, y + h),
        hz=float(rng.uniform(0.3, 3)),
        amplitude=float(rng.uniform(0.002, 0.015) * width),
        flicker=float(rng.choice([0.0, rng.uniform(0.1, 0.5)])),
        map_x=map_x,
        map_y=map_y,
    )

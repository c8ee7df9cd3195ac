"""Render the film that `streamclf demo` classifies without a camera: a street whose camera is tampered with."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from engines.arrays import U8

WIDTH, HEIGHT, FPS = 480, 270, 20
MARGIN = 120
"""Pixels of scenery beyond the frame on each side, so that the camera can move."""
HORIZON = 150
PAN = 110
"""Pixels by which the view has shifted at the end of the scene `moved`."""

SCRIPT: tuple[tuple[float, str], ...] = (
    (5.0, "normal"),
    (3.5, "covered"),
    (4.0, "normal"),
    (2.5, "moved"),
    (4.0, "normal"),
    (3.5, "shaking"),
    (4.0, "normal"),
    (3.5, "flashing"),
    (4.0, "normal"),
    (3.5, "defocused"),
    (4.0, "normal"),
    (3.5, "noise"),
)
"""The scenes, in order: seconds, and the label of what happens to the camera."""


@dataclass(frozen=True, slots=True)
class _Walker:
    """A person who crosses the street."""

    start_s: float
    speed: float  # pixels per second; negative: to the left
    ground: int  # y of the feet
    height: int
    coat: tuple[int, int, int]


WALKERS = (
    _Walker(0.0, 46, 236, 92, (52, 74, 140)),
    _Walker(7.0, -38, 214, 58, (150, 60, 52)),
    _Walker(14.0, 54, 262, 150, (70, 110, 72)),
    _Walker(24.0, -44, 228, 80, (116, 96, 60)),
    _Walker(34.0, 40, 220, 66, (90, 60, 110)),
)
CAR_EVERY_S, CAR_SPEED = 6.0, 130.0


def render_film(path: Path) -> None:
    """Write the film, about 45 s of H.264, to `path`; the file appears whole or not at all."""
    partial = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "24", "g": "40"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for pixels in _render_frames():
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def scene_at(at_s: float) -> tuple[str, float]:
    """Return the label of the scene at `at_s` seconds of the film, and the elapsed share of the scene, 0 to 1."""
    for seconds, label in SCRIPT:
        if at_s < seconds:
            return label, at_s / seconds
        at_s -= seconds
    return SCRIPT[-1][1], 1.0


def _render_frames() -> Iterator[U8]:
    """Yield the frames of the film, (HEIGHT, WIDTH, 3) uint8 RGB."""
    random = np.random.default_rng(7)
    scenery = _scenery(random)
    # A few fields of sensor noise, used in turn: drawing a new one for each frame would take most of the time.
    grain = [random.normal(0, 2.0, (HEIGHT, WIDTH, 1)).astype(np.int16) for _ in range(8)]
    snow = [random.normal(0, 46, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(8)]
    total = round(sum(seconds for seconds, _ in SCRIPT) * FPS)
    pan = 0.0
    for number in range(total):
        at_s = number / FPS
        label, progress = scene_at(at_s)
        if label == "moved":
            pan = PAN * 0.5 * (1 - math.cos(math.pi * progress))
        dx, dy = pan, 0.0
        if label == "shaking":
            dx += 9 * math.sin(at_s * 2 * math.pi * 3.1)
            dy = 7 * math.sin(at_s * 2 * math.pi * 4.3)
        frame = _crop(_add_traffic(scenery, at_s), dx, dy).astype(np.int16)
        frame += grain[number % len(grain)]
        if label == "noise":
            frame += snow[number % len(snow)]
        if label == "flashing":
            frame = frame * (30 if int(at_s * 2.6) % 2 else 100) // 100
        out = np.clip(frame, 0, 255).astype(np.uint8)
        if label == "covered":
            _draw_cover(out, progress)
        if label == "defocused":
            blur = 0.6 + 9 * math.sqrt(math.sin(math.pi * min(0.99, progress)))
            out = cv2.GaussianBlur(out, (0, 0), blur).astype(np.uint8, copy=False)
        yield out


def _scenery(random: np.random.Generator) -> U8:
    """Draw sky, houses, trees, pavement and road: (HEIGHT + 2 MARGIN, WIDTH + 2 MARGIN, 3) uint8 RGB."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    horizon = HORIZON + MARGIN
    rows = np.linspace(0, 1, height)[:, None, None]
    image = (np.array([126, 164, 206]) * (1 - rows) + np.array([222, 226, 228]) * rows) * np.ones((1, width, 1))
    image = np.ascontiguousarray(image.astype(np.uint8))
    x = 0
    while x < width:
        house = int(random.integers(70, 130))
        roof = horizon - int(random.integers(70, 170))
        wall = tuple(int(v) for v in random.integers((110, 90, 70), (200, 180, 160)))
        cv2.rectangle(image, (x, roof), (x + house - 4, horizon + 14), wall, -1)
        for wx in range(x + 9, x + house - 20, 22):
            for wy in range(roof + 10, horizon - 12, 28):
                glass = (214, 206, 150) if random.random() < 0.2 else (54, 64, 78)
                cv2.rectangle(image, (wx, wy), (wx + 11, wy + 16), glass, -1)
                cv2.rectangle(image, (wx, wy), (wx + 11, wy + 16), (236, 236, 230), 1)
        x += house
    cv2.rectangle(image, (0, horizon + 14), (width, horizon + 52), (158, 154, 148), -1)
    for px in range(-width, 2 * width, 26):
        cv2.line(image, (px, horizon + 52), (px + 20, horizon + 14), (132, 128, 124), 1, cv2.LINE_AA)
    cv2.rectangle(image, (0, horizon + 52), (width, height), (84, 86, 90), -1)
    for px in range(0, width, 60):
        cv2.rectangle(image, (px, horizon + 92), (px + 30, horizon + 96), (214, 214, 206), -1)
    for tx in range(40, width, 170):
        cv2.rectangle(image, (tx - 4, horizon - 40), (tx + 4, horizon + 26), (74, 56, 40), -1)
        for _ in range(60):
            cx, cy = random.normal((tx, horizon - 62), (20, 17)).astype(int)
            green = int(random.integers(70, 130))
            cv2.circle(image, (int(cx), int(cy)), int(random.integers(4, 10)), (40, green, 44), -1, cv2.LINE_AA)
    texture = (
        random.normal(0, 7, (height, width, 1)) + cv2.resize(random.normal(0, 7, (60, 80)), (width, height))[..., None]
    )
    return np.clip(image + texture, 0, 255).astype(np.uint8)


def _add_traffic(scenery: U8, at_s: float) -> U8:
    """Return a copy of the scenery with the walkers and cars of the second `at_s`."""
    image = scenery.copy()
    for walker in WALKERS:
        travelled = (at_s - walker.start_s) * abs(walker.speed)
        reach = WIDTH + 2 * MARGIN + walker.height
        if not 0 <= travelled <= reach:
            continue
        x = travelled - walker.height / 2 if walker.speed > 0 else reach - travelled - walker.height / 2
        _draw_person(image, x, walker.ground + MARGIN, walker.height, walker.coat, at_s * 7)
    for lane, (y, size, colour) in enumerate(((HORIZON + 82, 62, (150, 40, 44)), (HORIZON + 112, 88, (206, 208, 212)))):
        since = (at_s + lane * 2.5) % CAR_EVERY_S
        x = since * CAR_SPEED - size
        if lane:
            x = WIDTH + 2 * MARGIN - x
        _draw_car(image, x, y + MARGIN, size, colour)
    return image


def _draw_person(image: U8, x: float, ground: float, height: int, coat: tuple[int, int, int], phase: float) -> None:
    swing = 0.16 * height * math.sin(phase)
    hip, neck = ground - 0.46 * height, ground - 0.82 * height
    for side in (1, -1):
        _draw_limb(image, (x, hip), (x + side * swing, ground), height * 0.11, (44, 44, 56))
        _draw_limb(image, (x, neck + 0.05 * height), (x - side * swing * 0.8, hip), height * 0.08, coat)
    _draw_limb(image, (x, neck + 0.08 * height), (x, hip), height * 0.2, coat)
    cv2.circle(
        image, (round(x), round(ground - 0.91 * height)), max(2, round(height * 0.08)), (206, 168, 140), -1, cv2.LINE_AA
    )


def _draw_limb(
    image: U8, a: tuple[float, float], b: tuple[float, float], thickness: float, colour: tuple[int, int, int]
) -> None:
    cv2.line(
        image, (round(a[0]), round(a[1])), (round(b[0]), round(b[1])), colour, max(1, round(thickness)), cv2.LINE_AA
    )


def _draw_car(image: U8, x: float, ground: float, size: int, colour: tuple[int, int, int]) -> None:
    left, right, base = round(x), round(x + size), round(ground)
    body, roof = round(ground - size * 0.22), round(ground - size * 0.4)
    cabin = np.array(
        [[left + size // 5, body], [left + size // 3, roof], [right - size // 3, roof], [right - size // 6, body]]
    )
    cv2.fillPoly(image, [cabin], (60, 70, 84), cv2.LINE_AA)
    cv2.rectangle(image, (left, body), (right, base - size // 12), colour, -1)
    for wheel in (left + size // 5, right - size // 5):
        cv2.circle(image, (wheel, base - size // 12), max(2, size // 10), (26, 26, 28), -1, cv2.LINE_AA)


def _crop(image: U8, dx: float, dy: float) -> U8:
    """Return the camera's view, shifted by (dx, dy) pixels; fractions of a pixel are interpolated."""
    shift = np.array([[1, 0, MARGIN + dx - PAN / 2], [0, 1, MARGIN + dy]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view: U8 = cv2.warpAffine(image, shift, (WIDTH, HEIGHT), flags=flags).astype(np.uint8, copy=False)
    return view


def _draw_cover(image: U8, progress: float) -> None:
    """Cover the image from the top as a hand does: it moves down over the lens, stays, and moves up again."""
    closed = min(1.0, 5 * progress, 5 * (1 - progress))
    edge = int(HEIGHT * closed)
    if edge:
        shade = np.linspace(10, 34, edge, dtype=np.uint8)[:, None]
        image[:edge] = np.stack([shade + 14, shade // 2 + 4, shade // 2], axis=-1)

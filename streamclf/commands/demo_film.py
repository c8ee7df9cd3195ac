"""The film that `streamclf demo` shows where there is no camera: a street, rendered here, to which things happen."""

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
"""Pixels of scenery beyond the picture on each side, for the camera to move over."""
HORIZON = 150
PAN = 110
"""Pixels by which the camera has been turned at the end of `moved`."""

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
"""What happens to the camera, and for how many seconds."""


@dataclass(frozen=True, slots=True)
class _Walker:
    start_s: float
    speed: float  # pixels a second, to the left if negative
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


def render_clip(path: Path) -> None:
    """Write the film to `path` as H.264, about 45 s; the file appears whole or not at all."""
    partial = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "24", "g": "40"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in _pictures():
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def happening(at_s: float) -> tuple[str, float]:
    """What happens at `at_s` seconds of the film, and how far it has come, 0 to 1."""
    for seconds, what in SCRIPT:
        if at_s < seconds:
            return what, at_s / seconds
        at_s -= seconds
    return SCRIPT[-1][1], 1.0


def _pictures() -> Iterator[U8]:
    random = np.random.default_rng(7)
    scenery = _scenery(random)
    # A few fields of sensor noise, used in turn: drawing new ones would take longer than everything else.
    grain = [random.normal(0, 2.0, (HEIGHT, WIDTH, 1)).astype(np.int16) for _ in range(8)]
    snow = [random.normal(0, 46, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(8)]
    total = round(sum(seconds for seconds, _ in SCRIPT) * FPS)
    aim = 0.0
    for number in range(total):
        at_s = number / FPS
        what, progress = happening(at_s)
        if what == "moved":
            aim = PAN * 0.5 * (1 - math.cos(math.pi * progress))
        dx, dy = aim, 0.0
        if what == "shaking":
            dx += 9 * math.sin(at_s * 2 * math.pi * 3.1)
            dy = 7 * math.sin(at_s * 2 * math.pi * 4.3)
        picture = _crop(_with_traffic(scenery, at_s), dx, dy).astype(np.int16)
        picture += grain[number % len(grain)]
        if what == "noise":
            picture += snow[number % len(snow)]
        if what == "flashing":
            picture = picture * (30 if int(at_s * 2.6) % 2 else 100) // 100
        out = np.clip(picture, 0, 255).astype(np.uint8)
        if what == "covered":
            _cover(out, progress)
        if what == "defocused":
            blur = 0.6 + 9 * math.sqrt(math.sin(math.pi * min(0.99, progress)))
            out = cv2.GaussianBlur(out, (0, 0), blur).astype(np.uint8, copy=False)
        yield out


def _scenery(random: np.random.Generator) -> U8:
    """(HEIGHT + 2 MARGIN, WIDTH + 2 MARGIN, 3) RGB: sky, houses, trees, pavement, road."""
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


def _with_traffic(scenery: U8, at_s: float) -> U8:
    image = scenery.copy()
    for walker in WALKERS:
        travelled = (at_s - walker.start_s) * abs(walker.speed)
        reach = WIDTH + 2 * MARGIN + walker.height
        if not 0 <= travelled <= reach:
            continue
        x = travelled - walker.height / 2 if walker.speed > 0 else reach - travelled - walker.height / 2
        _person(image, x, walker.ground + MARGIN, walker.height, walker.coat, at_s * 7)
    for lane, (y, size, colour) in enumerate(((HORIZON + 82, 62, (150, 40, 44)), (HORIZON + 112, 88, (206, 208, 212)))):
        since = (at_s + lane * 2.5) % CAR_EVERY_S
        x = since * CAR_SPEED - size
        if lane:
            x = WIDTH + 2 * MARGIN - x
        _car(image, x, y + MARGIN, size, colour)
    return image


def _person(image: U8, x: float, ground: float, height: int, coat: tuple[int, int, int], phase: float) -> None:
    swing = 0.16 * height * math.sin(phase)
    hip, neck = ground - 0.46 * height, ground - 0.82 * height
    for side in (1, -1):
        _limb(image, (x, hip), (x + side * swing, ground), height * 0.11, (44, 44, 56))
        _limb(image, (x, neck + 0.05 * height), (x - side * swing * 0.8, hip), height * 0.08, coat)
    _limb(image, (x, neck + 0.08 * height), (x, hip), height * 0.2, coat)
    cv2.circle(
        image, (round(x), round(ground - 0.91 * height)), max(2, round(height * 0.08)), (206, 168, 140), -1, cv2.LINE_AA
    )


def _limb(
    image: U8, a: tuple[float, float], b: tuple[float, float], thickness: float, colour: tuple[int, int, int]
) -> None:
    cv2.line(
        image, (round(a[0]), round(a[1])), (round(b[0]), round(b[1])), colour, max(1, round(thickness)), cv2.LINE_AA
    )


def _car(image: U8, x: float, ground: float, size: int, colour: tuple[int, int, int]) -> None:
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
    """The camera's view: the picture whose corner is (dx, dy) pixels from the resting one, between pixels too."""
    shift = np.array([[1, 0, MARGIN + dx - PAN / 2], [0, 1, MARGIN + dy]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view: U8 = cv2.warpAffine(image, shift, (WIDTH, HEIGHT), flags=flags).astype(np.uint8, copy=False)
    return view


def _cover(image: U8, progress: float) -> None:
    """A hand comes down over the lens, stays, and goes."""
    closed = min(1.0, 5 * progress, 5 * (1 - progress))
    edge = int(HEIGHT * closed)
    if edge:
        shade = np.linspace(10, 34, edge, dtype=np.uint8)[:, None]
        image[:edge] = np.stack([shade + 14, shade // 2 + 4, shade // 2], axis=-1)

"""Render still scenes, as a fixed camera sees them: rooms, shops, streets, plants, walls, bare ground, shelves."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F32, U8
from training.builtin.camera_events.surfaces import Rng, fractal_noise, random_colour, texture

PLAIN_SCENES = 0.15
"""Share of the scenes that may have a plain part."""
PLAIN_GROUND = 0.6
"""Share of the scenes of bare ground that may have one."""
MIN_PART_STRUCTURE = 14.0
"""Grey levels of `structure` of each side's 65 % of the frame. All 68 films of the tuning half have more than 36."""
MIN_STRUCTURE = 4.0
"""Grey levels of `structure` that a scene has at least. Out-of-focus covers have less, or much larger shapes."""


def _goods(rng: Rng, height: int, width: int) -> F32:
    """Draw the shelves of a shop or an archive: rows of many small things, some of them alike; (height, width, 3)."""
    canvas = np.full((height, width, 3), random_colour(rng, low=10, high=120), np.float32)
    row = max(int(np.exp(rng.uniform(np.log(0.03), np.log(0.14))) * max(height, width)), 4)
    board = tuple(float(v) for v in random_colour(rng, low=20, high=230))
    colours = [tuple(float(v) for v in random_colour(rng, saturation=1.0)) for _ in range(8)]
    for base in range(row, height + row, row):
        x = 0
        while x < width:
            body, label = (colours[i] for i in rng.integers(0, len(colours), 2))
            w, h = max(int(row * rng.uniform(0.2, 1.1)), 2), int(row * rng.uniform(0.45, 0.95))
            for _ in range(int(rng.integers(1, 8))):
                if rng.random() < 0.93:
                    right = x + max(w - max(w // 5, 1), 1)
                    cv2.rectangle(canvas, (x, base - h), (right, base - 1), body, -1)
                    cv2.rectangle(canvas, (x, base - h + h // 3), (right, base - h // 3), label, -1)
                x += w
        cv2.rectangle(canvas, (0, base - 1), (width, base - 1 + max(row // 10, 1) - 1), board, -1)
    return canvas * (0.85 + 0.3 * fractal_noise(rng, height, width, roughness=0.4))


def _fill(
    rng: Rng,
    canvas: F32,
    polygon: npt.NDArray[np.float64],
    *,
    shade: float = 1.0,
    surface: Callable[[Rng, int, int], F32] = texture,
) -> None:
    """Fill `polygon`, (V, 2) in pixels, with a surface stretched in perspective onto its bounding box."""
    height, width = canvas.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    points = polygon.astype(np.int32)
    cv2.fillPoly(mask, [points], 255)
    x0, y0 = np.clip(points.min(axis=0), 0, [width - 2, height - 2])
    x1, y1 = np.clip(points.max(axis=0), [x0 + 2, y0 + 2], [width, height])
    patch = surface(rng, int(y1 - y0), int(x1 - x0)) * shade
    if len(polygon) == 4:
        h, w = patch.shape[:2]
        corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
        target = (polygon - [x0, y0]).astype(np.float32)
        warp = cv2.getPerspectiveTransform(corners, target)
        warped = cv2.warpPerspective(patch, warp, (w, h), borderMode=cv2.BORDER_REFLECT)
        patch = np.asarray(warped, np.float32)
    region = mask[y0:y1, x0:x1] > 0
    canvas[y0:y1, x0:x1][region] = patch[region]


def _box(rng: Rng, canvas: F32, x: float, base: float, w: float, h: float) -> None:
    """Draw a piece of furniture or a building: a front, a side, and sometimes rows of things on it."""
    height, width = canvas.shape[:2]
    side = w * rng.uniform(-0.5, 0.5)
    front = np.array([[x, base - h], [x + w, base - h], [x + w, base], [x, base]])
    edge = x + w if side > 0 else x
    lift = abs(side) * rng.uniform(0.1, 0.5)
    flank = np.array([[edge, base - h], [edge + side, base - h - lift], [edge + side, base - lift], [edge, base]])
    for polygon, shade in ((flank, 0.7), (front, 1.0)):
        x_seen = polygon[:, 0].max() > 2 and polygon[:, 0].min() < width - 2
        y_seen = polygon[:, 1].max() > 2 and polygon[:, 1].min() < height - 2
        if x_seen and y_seen:
            _fill(rng, canvas, polygon, shade=shade)
    if rng.random() < 0.6:  # shelves, windows, drawers
        rows, columns = rng.integers(1, 8), rng.integers(1, 9)
        colours = [random_colour(rng, saturation=1.0) for _ in range(4)]
        for r in range(rows):
            for c in range(columns):
                if rng.random() < 0.85:
                    left, top = x + w * (c + 0.15) / columns, base - h * (r + 0.85) / rows
                    right, bottom = left + 0.7 * w / columns, top + 0.65 * h / rows
                    corner = (int(right), int(bottom))
                    colour = tuple(float(v) for v in colours[int(rng.integers(4))])
                    cv2.rectangle(canvas, (int(left), int(top)), corner, colour, -1)


def _shop(rng: Rng, height: int, width: int) -> F32:
    return _room(rng, height, width, walls=_goods)


def _room(rng: Rng, height: int, width: int, *, walls: Callable[[Rng, int, int], F32] = texture) -> F32:
    canvas = np.zeros((height, width, 3), np.float32)
    left, right = np.sort(rng.uniform(0.05, 0.95, 2)) * width
    right = max(right, left + 0.15 * width)
    top, bottom = rng.uniform(-0.1, 0.35) * height, rng.uniform(0.4, 0.8) * height
    w, h = float(width), float(height)
    spread = rng.uniform(0.2, 1.2) * w
    _fill(
        rng,
        canvas,
        np.array([[left - spread, 0], [left, top], [left, bottom], [left - spread, h]]),
        shade=0.8,
        surface=walls,
    )
    _fill(
        rng,
        canvas,
        np.array([[right, top], [right + spread, 0], [right + spread, h], [right, bottom]]),
        shade=0.9,
        surface=walls,
    )
    _fill(rng, canvas, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), surface=walls)
    _fill(rng, canvas, np.array([[left, bottom], [right, bottom], [right + spread, h], [left - spread, h]]))
    if top > 0:
        _fill(rng, canvas, np.array([[left - spread, 0], [right + spread, 0], [right, top], [left, top]]))
    for base in np.sort(rng.uniform(bottom, h * 1.1, rng.integers(0, 9))):
        scale = 0.3 + (base - bottom) / (h - bottom + 1)
        size = rng.uniform(0.08, 0.35, 2) * scale * w
        _box(rng, canvas, rng.uniform(-0.1, 1) * w, float(base), float(size[0]), float(size[1]))
    return canvas


def _street(rng: Rng, height: int, width: int) -> F32:
    horizon = rng.uniform(0.1, 0.55) * height
    sky, w, h = random_colour(rng, saturation=0.3, low=120), float(width), float(height)
    canvas = np.full((height, width, 3), sky, np.float32)
    canvas *= 0.9 + 0.2 * fractal_noise(rng, height, width, roughness=0.4)
    _fill(rng, canvas, np.array([[0, horizon], [w, horizon], [w, h], [0, h]]), shade=0.8)
    x = -0.1 * w
    while x < w:
        size = rng.uniform(0.08, 0.35) * w
        if rng.random() < 0.8:
            _box(rng, canvas, x, horizon * rng.uniform(1, 1.2), size, rng.uniform(0.2, 1.3) * horizon)
        x += size * rng.uniform(0.7, 1.3)
    vanish = rng.uniform(0, 1) * w
    edges = np.array(
        [
            [vanish - 3, horizon],
            [vanish + 3, horizon],
            [rng.uniform(0.5, 1.5) * w, h],
            [rng.uniform(-0.5, 0.5) * w, h],
        ]
    )
    if rng.random() < 0.8:
        _fill(rng, canvas, edges, shade=0.6)
        for t in np.linspace(0.1, 1, 8):
            y = horizon + (h - horizon) * t
            middle = vanish + (edges[2:, 0].mean() - vanish) * t
            cv2.line(
                canvas,
                (int(middle), int(y)),
                (int(middle), int(y + 0.06 * h * t)),
                (225, 225, 225),
                int(1 + 6 * t),
            )
    for base in np.sort(rng.uniform(horizon, h, rng.integers(0, 7))):
        size = rng.uniform(0.05, 0.25) * w
        _box(rng, canvas, rng.uniform(-0.1, 1) * w, float(base), size, size * rng.uniform(0.3, 1.2))
    for _ in range(rng.integers(0, 5)):  # poles and wires
        x, tone = int(rng.uniform(0, w)), float(rng.uniform(10, 120))
        end = (x + int(rng.normal(0, 0.02) * w), int(rng.uniform(0.4, 1.0) * h))
        cv2.line(canvas, (x, 0), end, (tone, tone, tone), int(rng.integers(1, 1 + width // 60)))
    return canvas


def _leaves(rng: Rng, height: int, width: int) -> F32:
    """Draw the dead-leaves model (Lee et al. 2001): occluding shapes of power-law sizes, as in natural images."""
    canvas = texture(rng, height, width)
    for _ in range(int(rng.integers(40, 220))):
        radius = min(0.012 * width * rng.pareto(1.2) + 2, 0.35 * width)
        x, y, colour = (
            rng.uniform(0, width),
            rng.uniform(0, height),
            tuple(float(v) for v in random_colour(rng, saturation=0.8)),
        )
        if rng.random() < 0.5:
            axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
            cv2.ellipse(canvas, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6)))
            points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
            cv2.fillPoly(canvas, [points.astype(np.int32)], colour, cv2.LINE_AA)
    return canvas


def _wall(rng: Rng, height: int, width: int) -> F32:
    """Draw a scene with little detail: a wall, a corridor's end, a yard in fog, with a few lines and things."""
    canvas = np.full((height, width, 3), random_colour(rng, saturation=0.2, low=70), np.float32)
    canvas *= 0.85 + 0.3 * fractal_noise(rng, height, width, roughness=0.3)
    for _ in range(rng.integers(1, 6)):
        ends = rng.uniform(-0.2, 1.2, (2, 2)) * [width, height]
        start, stop = (tuple(int(v) for v in end) for end in ends)
        cv2.line(canvas, start, stop, tuple(float(v) for v in random_colour(rng)), int(rng.integers(1, 4)), cv2.LINE_AA)
    for _ in range(rng.integers(1, 5)):
        size = rng.uniform(0.04, 0.3, 2) * width
        _box(
            rng,
            canvas,
            rng.uniform(0, 1) * width,
            rng.uniform(0.2, 1) * height,
            float(size[0]),
            float(size[1]),
        )
    return canvas


def _ground(rng: Rng, height: int, width: int) -> F32:
    """Draw a road, a floor, a car park or snow from above: one surface with grain and sometimes markings."""
    canvas = np.full((height, width, 3), random_colour(rng, saturation=0.15, low=50, high=210), np.float32)
    canvas *= 0.92 + 0.16 * fractal_noise(rng, height, width, roughness=rng.uniform(0.2, 0.6))
    canvas += rng.uniform(0.5, 9) * rng.standard_normal((height, width, 1), dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * 2 * width
    worn = np.ones((height, width, 1), np.float32)
    for _ in range(int(rng.integers(0, 4))):  # tracks of tyres, a repaired strip
        start, stop = (tuple(int(v) for v in rng.uniform(0, 1, 2) * [width, height] + s * along) for s in (-1, 1))
        cv2.line(worn, start, stop, float(rng.uniform(0.8, 1.12)), int(rng.uniform(0.01, 0.15) * width) + 1)
    canvas *= cv2.GaussianBlur(worn, (0, 0), rng.uniform(0.002, 0.008) * width)[..., None]
    for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.35, 0.3, 0.2, 0.15]))):
        middle = rng.uniform(0, 1, 2) * [width, height]
        start, stop = (tuple(int(v) for v in middle + side * along) for side in (-1, 1))
        tone = float(rng.choice([rng.uniform(180, 245), rng.uniform(20, 70)]))
        cv2.line(canvas, start, stop, (tone, tone, tone), int(rng.uniform(1, 0.03 * width) + 1), cv2.LINE_AA)
    return canvas


def _shelf(rng: Rng, height: int, width: int) -> F32:
    """Draw a few small things before a plain wall: bottles on a table, goods on a counter, pictures, sockets."""
    canvas = np.full((height, width, 3), random_colour(rng, saturation=0.15, low=60, high=240), np.float32)
    canvas *= 0.9 + 0.2 * fractal_noise(rng, height, width, roughness=0.2)
    edge = rng.uniform(0.5, 1.05) * height
    board = np.array([[0, edge], [width, edge + rng.normal(0, 0.03) * height], [width, height], [0, height]])
    _fill(rng, canvas, board, shade=float(rng.uniform(0.9, 1.1)))
    for _ in range(int(rng.integers(1, 7))):
        h = rng.uniform(0.06, 0.4) * height
        w = h * rng.uniform(0.2, 1.0)
        x = rng.uniform(0.05, 0.95) * width
        base = edge + rng.uniform(0, 0.12) * height if rng.random() < 0.75 else rng.uniform(0.2, 0.6) * height
        body, cap = (tuple(float(v) for v in random_colour(rng, saturation=0.6)) for _ in range(2))
        cv2.rectangle(canvas, (int(x - w / 2), int(base - h)), (int(x + w / 2), int(base)), body, -1)
        if rng.random() < 0.7:  # a bottle's neck and cap, with a reflection
            neck = w * rng.uniform(0.25, 0.6)
            top = base - h * rng.uniform(1.15, 1.5)
            cv2.rectangle(canvas, (int(x - neck / 2), int(top)), (int(x + neck / 2), int(base - h)), body, -1)
            cap_end = int(top + 0.12 * h)
            cv2.rectangle(canvas, (int(x - neck / 2), int(top)), (int(x + neck / 2), cap_end), cap, -1)
            gleam, tone = int(x + w * rng.uniform(-0.4, 0.4)), float(rng.uniform(150, 255))
            cv2.line(canvas, (gleam, int(base - h)), (gleam, int(base - 0.1 * h)), (tone, tone, tone), 1, cv2.LINE_AA)
        label = float(rng.uniform(0.3, 0.8))
        rows = (int(base - h * label), int(base - h * label * 0.5))
        cv2.rectangle(canvas, (int(x - w / 2), rows[0]), (int(x + w / 2), rows[1]), cap, -1)
    return canvas


_SCENES: tuple[tuple[Callable[[Rng, int, int], F32], float], ...] = (
    (_room, 0.23),
    (_shop, 0.12),
    (_street, 0.2),
    (_leaves, 0.11),
    (_wall, 0.09),
    (_ground, 0.14),
    (_shelf, 0.11),
)
"""Kinds of scenes and their shares. One pattern over the whole frame is no scene: cloth on the lens looks like that."""


def light_and_lens(rng: Rng, canvas: F32) -> F32:
    """Apply uneven light, shadows, contrast, haze, tint, infra-red grey, night lamps, and a lens that is not sharp."""
    height, width = canvas.shape[:2]
    light = 1 + rng.uniform(0.1, 0.9) * (fractal_noise(rng, height, width, roughness=0.25) - 0.5)
    canvas = canvas * light
    if rng.random() < 0.3:  # indoor scenes often have hard shadows
        shadow = (fractal_noise(rng, height, width, roughness=0.5) > rng.uniform(0.4, 0.7)).astype(np.float32)
        canvas = canvas * (1 - rng.uniform(0.2, 0.6) * shadow)
    moods = ["day", "dim", "dark", "infrared", "night", "haze", "overexposed"]
    mood = rng.choice(moods, p=[0.42, 0.13, 0.07, 0.12, 0.11, 0.1, 0.05])
    if mood == "dim":
        canvas = canvas * rng.uniform(0.25, 0.6)
    elif mood == "dark":
        canvas = canvas * rng.uniform(0.06, 0.25)
    elif mood == "haze":
        canvas = canvas * rng.uniform(0.25, 0.6) + rng.uniform(60, 140)
    elif mood == "overexposed":  # a half of the frame or more is white
        canvas = canvas * (rng.uniform(200, 320) / max(float(np.median(canvas)), 1.0))
    elif mood in ("infrared", "night"):
        y, x = np.mgrid[:height, :width].astype(np.float32)
        lamps = np.full((height, width), rng.uniform(0.06, 0.25), np.float32)
        for _ in range(1 if mood == "infrared" else int(rng.integers(1, 6))):
            cy, cx, r = (
                rng.uniform(0.1, 0.9) * height,
                rng.uniform(0.1, 0.9) * width,
                rng.uniform(0.12, 0.5) * width,
            )
            lamps += rng.uniform(0.4, 1.2) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * r * r))
            if mood == "night":
                cv2.circle(canvas, (int(cx), int(cy)), int(rng.uniform(0.004, 0.02) * width), (900, 900, 850), -1)
        canvas = canvas * lamps[..., None]
    canvas = (canvas - 100) * rng.uniform(0.7, 1.4) + 100 * rng.uniform(0.8, 1.25)
    if mood == "infrared" or rng.random() < 0.13:
        canvas = np.repeat(canvas.mean(axis=2, keepdims=True), 3, axis=2)
    else:
        canvas = canvas * rng.normal(1, 0.07, 3).astype(np.float32)
    softness = rng.choice([0.0, rng.uniform(0.3, 1.0), rng.uniform(1.0, 2.0)], p=[0.35, 0.4, 0.25])
    softness *= width / 1.3 / 400
    if softness > 0.2:
        canvas = np.asarray(cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), softness), np.float32)
        if rng.random() < 0.5:  # cameras sharpen the soft image of their lens
            wide = np.asarray(cv2.GaussianBlur(canvas, (0, 0), softness * 1.5), np.float32)
            canvas = canvas + rng.uniform(0.3, 1.2) * (canvas - wide)
    return np.asarray(np.clip(canvas, 0, 255), np.float32)


def scene(rng: Rng, height: int, width: int) -> U8:
    """Render a scene of a random kind, with random light and a random lens: (height, width, 3) uint8 RGB.

    A scene without structure would look like a cover on the lens, so it is drawn again. So are most scenes with no
    structure in nearly two thirds of the frame, which look like a cover over a part of it: the drawn scenes have fewer
    details than real ones, and plain surfaces would be more frequent here than on film. Bare ground is kept more often
    than others: it is plain all over, and no cover of a part of the frame looks like that.
    """
    makers, weights = zip(*_SCENES, strict=True)
    plain = rng.random()
    while True:
        maker = makers[int(rng.choice(len(makers), p=weights))]
        least = MIN_STRUCTURE if plain < (PLAIN_GROUND if maker is _ground else PLAIN_SCENES) else MIN_PART_STRUCTURE
        drawn = light_and_lens(rng, maker(rng, height, width)).astype(np.uint8)
        rows, columns = int(0.65 * height), int(0.65 * width)
        parts = (drawn[:rows], drawn[-rows:], drawn[:, :columns], drawn[:, -columns:])
        if structure(drawn) >= MIN_STRUCTURE and all(structure(part) >= least for part in parts):
            return drawn


def structure(image: U8) -> float:
    """Measure how much an image (height, width, 3) differs from a smooth gradient, in grey levels at 96 x 72 pixels.

    It is the range between the 1st and the 99th percentile of the image less its own wide blur.
    """
    grey = cv2.resize(image, (96, 72), interpolation=cv2.INTER_AREA).mean(axis=2, dtype=np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 4.0)
    low, high = np.percentile(detail, [1, 99])
    return float(high - low)

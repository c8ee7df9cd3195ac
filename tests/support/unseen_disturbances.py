"""Cover, move, shake, blur, light and corrupt film in forms that no other code of the project uses.

The benchmark `unseen_camera` applies them. A film is (F, H, W, 3) uint8 RGB with times (F,) in seconds, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from engines.arrays import F32, F64, U8

Rng = np.random.Generator

STRENGTHS: Final = ("weak", "medium", "strong")
SHARES: Final = {"65-80 %": (0.65, 0.8), "85-95 %": (0.85, 0.95), "100 %": (1.0, 1.0)}
"""Ranges for the share of the picture that a cover hides."""
MARGIN_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbed:
    """A disturbed film with its times. `counts(start_s, end_s)`: whether a user would name the event in this window."""

    frames: U8
    times_s: F64
    counts: Callable[[float, float], bool]


def _inside(begin_s: float, end_s: float) -> Callable[[float, float], bool]:
    return lambda a, b: a + MARGIN_S <= begin_s and end_s + MARGIN_S <= b


def _mostly_after(onset_s: float) -> Callable[[float, float], bool]:
    """Return a rule: at least 56 % of the window comes after the onset. docs/camera-events.md requires half of it."""
    return lambda a, b: b - max(a, onset_s) >= 0.56 * (b - a) - 1e-6


def _always(_start_s: float, _end_s: float) -> bool:
    return True


def _field(rng: Rng, height: int, width: int, cells: float) -> F32:
    """Return smooth noise (height, width), mean 0, deviation 1, with about `cells` hills across the width."""
    columns = max(3, round(cells) + 2)
    grid = rng.normal(size=(max(3, round(columns * height / width)), columns)).astype(np.float32)
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def _disc(radius: float) -> F32:
    """Return the kernel of a lens out of focus: a disc."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _to_light(picture: Any) -> F32:
    return np.asarray((np.asarray(picture, np.float32) / 255) ** 2.2, np.float32)


def _to_grey(light: Any) -> U8:
    return np.asarray(255 * np.clip(light, 0, 1) ** (1 / 2.2), np.float32).round().astype(np.uint8)


def _colour(rng: Rng, low: Sequence[float], high: Sequence[float]) -> F64:
    """Return a colour between two, whose channels vary together."""
    mix = np.clip(rng.uniform(0, 1) + rng.normal(0, 0.06, 3), 0, 1)
    return np.asarray(low) * (1 - mix) + np.asarray(high) * mix


# Materials: each draws (h, w, 3) in grey levels, at twice the film's size.


def _canvas(h: int, w: int, colour: Any) -> U8:
    """Return a picture for OpenCV's drawing functions, which smooth edges in uint8 alone."""
    return np.clip(np.ones((h, w, 1)) * colour, 0, 255).astype(np.uint8)


def _plaid(rng: Rng, h: int, w: int) -> F32:
    colours = rng.uniform(15, 240, (4, 3))
    order, widths = rng.integers(0, 4, 7), rng.integers(3, max(6, w // 16), 7)
    sett = np.repeat(colours[np.r_[order, order[::-1]]], np.r_[widths, widths[::-1]], axis=0)
    rows, columns = np.indices((h, w))
    warp, weft = sett[columns % len(sett)], sett[(rows + int(rng.integers(99))) % len(sett)]
    return np.asarray(np.where(((rows + columns) % 6 < 3)[..., None], warp, weft), np.float32)


def _polka(rng: Rng, h: int, w: int) -> F32:
    ground, spot, rim = rng.uniform(20, 235, (3, 3))
    if np.abs(ground - spot).max() < 70:
        spot = (ground + 128) % 256
    picture = _canvas(h, w, ground)
    pitch = rng.uniform(0.05, 0.13) * w
    for j in range(int(h / pitch / 0.87) + 2):
        for i in range(int(w / pitch) + 2):
            at = (np.array([i + 0.5 * (j % 2), 0.87 * j]) + rng.normal(0, 0.05, 2)) * pitch
            radius = int(pitch * rng.choice([0.16, 0.3]))
            centre = (int(at[0]), int(at[1]))
            cv2.circle(picture, centre, radius, spot.tolist(), -1, cv2.LINE_AA)
            cv2.circle(picture, centre, radius, rim.tolist(), 2, cv2.LINE_AA)
    return picture.astype(np.float32)


def _flowers(rng: Rng, h: int, w: int) -> F32:
    ground = rng.uniform(20, 230, 3)
    picture = _canvas(h, w, ground)
    turn = np.linspace(0, 2 * np.pi, 90)
    for _ in range(70):
        centre, radius = rng.uniform(0, 1, 2) * [w, h], rng.uniform(0.03, 0.09) * w
        leaf = (int(centre[0] + radius), int(centre[1])), (int(radius), int(radius / 3))
        cv2.ellipse(
            picture, *leaf, float(rng.uniform(0, 180)), 0, 360, [40, float(rng.uniform(90, 160)), 50], -1, cv2.LINE_AA
        )
        rose = radius * (0.45 + 0.55 * np.abs(np.cos(turn * rng.choice([2, 2.5, 3]) + rng.uniform(0, 6))))
        points = centre + np.stack([rose * np.cos(turn), rose * np.sin(turn)], 1)
        colour = np.clip(ground + rng.choice([-1, 1], 3) * rng.uniform(60, 160, 3), 0, 255).tolist()
        cv2.fillPoly(picture, [points.astype(np.int32)], colour, cv2.LINE_AA)
        cv2.circle(picture, (int(centre[0]), int(centre[1])), max(2, int(radius / 4)), [230, 190, 60], -1, cv2.LINE_AA)
    return picture.astype(np.float32)


def _burlap(rng: Rng, h: int, w: int) -> F32:
    """Weave threads of uneven width, each over one and under the next."""

    def threads(length: int) -> tuple[Any, Any, Any]:
        widths = rng.uniform(0.7, 1.3, length) * pitch
        edges = np.cumsum(widths)
        at = np.searchsorted(edges, np.arange(length))
        across = (edges[at] - np.arange(length)) / widths[at] * 2 - 1
        return at, np.sqrt(np.maximum(0, 1 - across**2)), rng.uniform(0.8, 1.1, length + 1)[at]

    pitch = rng.uniform(6, 14)
    (row, row_round, row_tone), (column, column_round, column_tone) = threads(h), threads(w)
    over = (row[:, None] + column[None, :]) % 2
    warp = (column_round * column_tone)[None, :] * (0.75 + 0.25 * over)
    weft = (row_round * row_tone)[:, None] * (1 - 0.25 * over)
    shade = 0.35 + 0.65 * np.where(over == 1, np.maximum(warp, 0.55 * weft), np.maximum(weft, 0.55 * warp))
    return np.asarray(shade[..., None] * rng.uniform([90, 80, 60], [230, 215, 190]), np.float32)


def _newsprint(rng: Rng, h: int, w: int) -> F32:
    picture = _canvas(h, w, _colour(rng, [195, 190, 170], [245, 240, 230]))
    letters = "etaoinshrdlucmfwypvbgk"

    def words(count: int) -> str:
        return " ".join("".join(rng.choice(list(letters), int(rng.integers(2, 9)))) for _ in range(count))

    ink = [float(rng.uniform(10, 50))] * 3
    columns, size = int(rng.integers(2, 4)), rng.uniform(0.35, 0.7)
    for column in range(columns):
        left, y = int((column + 0.04) * w / columns), int(rng.uniform(0, 20))
        strip = np.ascontiguousarray(picture[:, left : int((column + 0.95) * w / columns)])
        while y < h + 20:
            kind = rng.random()
            if kind < 0.08:
                cv2.putText(strip, words(2).upper(), (0, y + 34), cv2.FONT_HERSHEY_DUPLEX, 1.3 * size + 0.4, ink, 3)
                y += 46
            elif kind < 0.13:
                tall = min(int(rng.uniform(50, 90)), max(0, h - y))
                grain = 120 + 50 * _field(rng, max(tall, 1), strip.shape[1], 4)
                strip[y : y + tall] = grain[:tall, :, None]
                y += tall + 8
            else:
                cv2.putText(strip, words(9), (0, y + 14), cv2.FONT_HERSHEY_COMPLEX_SMALL, size, ink, 1, cv2.LINE_AA)
                y += int(12 + 14 * size)
        picture[:, left : left + strip.shape[1]] = strip
    return picture.astype(np.float32)


def _cardboard(rng: Rng, h: int, w: int) -> F32:
    rows, columns = np.indices((h, w))
    tone = 1 + 0.035 * np.sin(2 * np.pi * columns / rng.uniform(7, 13)) + 0.03 * _field(rng, h, w, 9)
    picture = _canvas(h, w, tone[..., None] * _colour(rng, [140, 105, 65], [195, 155, 112]))
    for _ in range(500):  # fibres
        x, y, shade = rng.uniform(0, w), rng.uniform(0, h), float(rng.uniform(-28, 22))
        end = (int(x + rng.normal(0, 9)), int(y + rng.normal(0, 3)))
        colour = np.clip(picture[int(y), int(x)] + shade, 0, 255).tolist()
        cv2.line(picture, (int(x), int(y)), end, colour, 1, cv2.LINE_AA)
    if rng.random() < 0.6:  # a strip of parcel tape
        band = np.abs(rows - rng.uniform(0.2, 0.8) * h) < 0.09 * h
        picture[band] = 0.55 * picture[band] + 0.45 * np.array([205, 170, 110])
    if rng.random() < 0.6:
        at = (int(rng.uniform(0, 0.5) * w), int(rng.uniform(0.3, 0.9) * h))
        cv2.putText(picture, "FRAGILE 24 KG", at, cv2.FONT_HERSHEY_DUPLEX, 1.6, [45, 35, 30], 4, cv2.LINE_AA)
    return picture.astype(np.float32)


def _wood(rng: Rng, h: int, w: int) -> F32:
    rows, columns = np.indices((h, w)).astype(np.float32)
    plank = rng.uniform(0.25, 0.6) * h
    number = (rows // plank).astype(int)
    shift = rng.uniform(0, 40, int(h / plank) + 2)[number]
    bend = 9 * _field(rng, h, w, 2) + 2 * _field(rng, h, w, 8)
    knot = np.hypot((columns - rng.uniform(0, w)) / 3, rows - rng.uniform(0, h))
    rings = np.sin((rows + bend + 260 / (1 + knot / 8)) * rng.uniform(0.25, 0.5) + shift)
    mix = (0.5 + 0.5 * rings)[..., None] ** 2
    light = _colour(rng, [130, 85, 45], [225, 180, 125])
    picture = light * (1 - mix * rng.uniform(0.25, 0.5)) * (1 + 0.05 * rng.normal(size=(h, 1, 1)))
    picture[(rows % plank) < 4] *= 0.35
    return np.asarray(picture, np.float32)


def _bubble_wrap(rng: Rng, h: int, w: int) -> F32:
    rows, columns = np.indices((h, w)).astype(np.float32)
    pitch = rng.uniform(0.07, 0.14) * w
    line = np.round(rows / (0.87 * pitch))
    dx = (columns / pitch - 0.5 * (line % 2) + 0.5) % 1 - 0.5
    dy = rows / pitch - 0.87 * line
    inside = np.hypot(dx, dy) / 0.42
    angle = rng.uniform(0, 2 * np.pi)
    toward = dx * np.cos(angle) + dy * np.sin(angle)
    tone = rng.uniform(125, 190) + 12 * _field(rng, h, w, 4)
    tone = tone + np.where(inside < 1, 90 * toward + 12, -8)
    tone = tone - 70 * np.exp(-(((inside - 0.95) / 0.09) ** 2))
    spot = np.hypot(dx - 0.2 * np.cos(angle), dy - 0.2 * np.sin(angle))
    tone = tone + 110 * np.exp(-((spot / 0.06) ** 2))
    return np.asarray(tone[..., None] * rng.uniform(0.93, 1.03, 3), np.float32)


def _leaves(rng: Rng, h: int, w: int) -> F32:
    picture = _canvas(h, w, [18, 26, 14])
    s = np.linspace(0, 1, 24)
    for _ in range(110):
        length, slim = rng.uniform(0.12, 0.32) * w, rng.uniform(0.18, 0.32)
        half = slim * length * np.sin(np.pi * s**0.8)
        outline = np.r_[np.c_[s * length, half], np.c_[s * length, -half][::-1]]
        a = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        at = rng.uniform(-0.1, 1.05, 2) * [w, h]
        tone = rng.uniform(0.45, 1.15)
        green = np.array([rng.uniform(50, 120), rng.uniform(105, 165), rng.uniform(25, 60)]) * tone
        cv2.fillPoly(picture, [(outline @ turn + at + [4, 5]).astype(np.int32)], [8, 14, 8])
        cv2.fillPoly(picture, [(outline @ turn + at).astype(np.int32)], green.tolist(), cv2.LINE_AA)
        for k in range(1, 7):  # veins
            tip = np.array([[k / 7 * length, 0], [(k / 7 + 0.12) * length, slim * length * 0.7]])
            for side in (1, -1):
                p, q = (tip * [1, side] @ turn + at).astype(int)
                cv2.line(picture, p.tolist(), q.tolist(), (green * 1.25).tolist(), 1, cv2.LINE_AA)
        ends = (np.array([[0, 0], [length, 0]]) @ turn + at).astype(int)
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), (green * 1.4 + 10).tolist(), 2, cv2.LINE_AA)
    return picture.astype(np.float32)


def _palm(rng: Rng, h: int, w: int) -> F32:
    skin = _colour(rng, [105, 65, 48], [232, 178, 150])
    tone = 1 + 0.07 * _field(rng, h, w, 3) + 0.02 * _field(rng, h, w, 60)
    picture = _canvas(h, w, tone[..., None] * skin + 7 * _field(rng, h, w, 6)[..., None] * [1, 0, 0])
    s = np.linspace(0, 1, 30)[:, None]
    for _ in range(int(rng.integers(3, 7))):  # creases
        a, c = rng.uniform(-0.1, 1.1, (2, 2)) * [w, h]
        b = (a + c) / 2 + rng.normal(0, 0.08, 2) * w
        curve = (a * (1 - s) ** 2 + 2 * b * s * (1 - s) + c * s**2).astype(np.int32)
        cv2.polylines(picture, [curve], False, (skin * 0.78).tolist(), int(rng.integers(2, 5)), cv2.LINE_AA)
    gap = rng.uniform(0.55, 0.9) * w
    for k in range(int(rng.integers(0, 4))):  # gaps between fingers
        tip = [gap + rng.uniform(-5, 5), (k + 1) * h / 4]
        wedge = np.array([tip, [w + 9, tip[1] - 0.02 * h], [w + 9, tip[1] + 0.03 * h]], np.int32)
        cv2.fillPoly(picture, [wedge], (skin * 0.3).tolist(), cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.2), np.float32)


def _sticker(rng: Rng, h: int, w: int) -> F32:
    ground, second, third = (
        np.asarray(rng.permutation([rng.uniform(170, 255), rng.uniform(10, 120), 40])) for _ in "abc"
    )
    picture = _canvas(h, w, ground)
    centre = (int(rng.uniform(0.35, 0.65) * w), int(rng.uniform(0.35, 0.65) * h))
    for k, radius in enumerate((0.42, 0.36, 0.3)):
        cv2.circle(picture, centre, int(radius * h), (second, ground, third)[k].tolist(), -1, cv2.LINE_AA)
    turn = np.arange(10) * np.pi / 5 + rng.uniform(0, 6)
    reach = np.where(np.arange(10) % 2, 0.12, 0.28) * h
    star = np.stack([reach * np.cos(turn), reach * np.sin(turn)], 1) + centre
    cv2.fillPoly(picture, [star.astype(np.int32)], [250, 250, 245], cv2.LINE_AA)
    text = str(rng.choice(["SALE 50%", "WIFI ZONE", "NO PARKING", "ROCK FM 98"]))
    cv2.putText(picture, text, (int(0.08 * w), int(0.95 * h)), cv2.FONT_HERSHEY_TRIPLEX, w / 330, [255, 255, 255], 6)
    gloss = np.linspace(0, 1, w)[None, :, None] + np.linspace(0, 0.5, h)[:, None, None]
    return np.asarray(picture + 45 * np.exp(-(((gloss - rng.uniform(0.3, 1.2)) / 0.12) ** 2)), np.float32)


def _paint(rng: Rng, h: int, w: int) -> F32:
    colour = rng.choice([[200, 25, 30], [20, 20, 22], [30, 70, 190], [235, 235, 230], [40, 150, 60]])
    thick = 1 + 0.1 * _field(rng, h, w, 5)
    picture = _canvas(h, w, thick[..., None] * colour + 7 * rng.normal(size=(h, w, 1)))
    for _ in range(int(rng.integers(3, 9))):  # drips
        x, y = int(rng.uniform(0, w)), int(rng.uniform(0, 0.6) * h)
        end = (x + int(rng.integers(-3, 4)), y + int(rng.uniform(0.2, 0.7) * h))
        shade = (np.asarray(colour) * rng.uniform(0.6, 0.85) + 12).tolist()
        cv2.line(picture, (x, y), end, shade, int(rng.integers(3, 8)), cv2.LINE_AA)
    return picture.astype(np.float32)


def _black_cap(rng: Rng, h: int, w: int) -> F32:
    rows, columns = np.indices((h, w)).astype(np.float32)
    glow = rng.uniform(0, 14) * np.exp(-np.hypot(columns - rng.choice([0, w]), rows - rng.uniform(0, h)) / (0.3 * w))
    return np.asarray((rng.uniform(2, 13) + glow)[..., None] * rng.uniform(0.9, 1.1, 3), np.float32)


def _white_paper(rng: Rng, h: int, w: int) -> F32:
    """Draw crumpled paper: flat facets that each face another way."""
    rows, columns = np.indices((h // 2, w // 2)).astype(np.float32)
    count = int(rng.integers(6, 26))
    seeds = rng.uniform(0, 1, (count, 2)) * [h / 2, w / 2]
    distance = np.stack([np.hypot(rows - y, columns - x) for y, x in seeds])
    nearest = distance.argmin(0)
    lean = rng.normal(0, 0.0012, (count, 2))
    shade = rng.uniform(0.82, 1.0, count)[nearest]
    shade = shade + (rows - seeds[nearest, 0]) * lean[nearest, 0] + (columns - seeds[nearest, 1]) * lean[nearest, 1]
    two = np.sort(distance, axis=0)[:2]
    shade = shade + 0.06 * np.exp(-((two[1] - two[0]) / 2.5))
    white = np.array([1, 0.99, 0.96]) * rng.uniform(190, 252)
    return np.asarray(cv2.resize((shade[..., None] * white).astype(np.float32), (w, h)), np.float32)


def _frosted(rng: Rng, h: int, w: int) -> F32:
    tone = rng.uniform(120, 215) + 14 * _field(rng, h, w, 2) + 5 * rng.normal(size=(h, w))
    return np.asarray(tone[..., None] * rng.uniform([0.94, 0.96, 0.95], 1.03), np.float32)


MATERIALS: Final[dict[str, Callable[[Rng, int, int], F32]]] = {
    "plaid": _plaid,
    "polka dots": _polka,
    "flowers": _flowers,
    "burlap": _burlap,
    "newsprint": _newsprint,
    "cardboard": _cardboard,
    "wood": _wood,
    "bubble wrap": _bubble_wrap,
    "leaves": _leaves,
    "palm": _palm,
    "sticker": _sticker,
    "spray paint": _paint,
    "black cap": _black_cap,
    "white paper": _white_paper,
    "frosted plastic": _frosted,
}
CLEAR: Final = {"bubble wrap": 0.1, "frosted plastic": 0.06}
"""The share of the scene's light that materials let through, scattered."""


def draw_material(material: str, height: int, width: int, rng: Rng, *, in_focus: bool) -> F32:
    """Return one of `MATERIALS`, lit from a side: (height, width, 3) float32, 0 to 255."""
    h, w = 2 * height, 2 * width
    picture = MATERIALS[material](rng, h, w)
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), float(rng.uniform(-18, 18)), float(rng.uniform(1, 1.3)))
    picture = cv2.warpAffine(picture, turn, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.3)
    y, x = np.indices((height, width), np.float32)
    lit = np.exp(-fall * (x / width * np.cos(angle) + y / height * np.sin(angle)))
    picture = picture * (lit / lit.mean())[..., None]
    if not in_focus:
        picture = cv2.filter2D(picture, -1, _disc(rng.uniform(0.025, 0.06) * width), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(np.clip(picture, 0, 255), np.float32)


def cover(rng: Rng, frames: U8, times_s: F64, material: str, *, in_focus: bool, share: str, coming: bool) -> Disturbed:
    """Cover a range of `SHARES` of the picture: from the first frame on, or coming within 0.15 to 0.6 s.

    The camera's exposure follows what it sees, and its sensor adds noise to the cover.
    """
    _, height, width, _ = frames.shape
    picture = draw_material(material, height, width, rng, in_focus=in_focus)
    hidden = float(rng.uniform(*SHARES[share]))
    order, toward = _order(rng, height, width, material)
    ranked = np.sort(order, axis=None)
    soft = 1.2 if in_focus else float(rng.uniform(0.06, 0.16)) * width
    onset, takes = (float(rng.uniform(0.5, 0.8)), float(rng.uniform(0.15, 0.6))) if coming else (-1.0, 0.5)
    grain, settle, sway = rng.uniform(0.8, 4), rng.uniform(0.3, 1.0), rng.uniform(0, 0.03)
    adapted = float(np.clip((105 / max(picture.mean(), 1)) ** 0.4, 0.75, 2.0))
    clear = CLEAR.get(material, 0.0)
    out = np.empty_like(frames)

    def edge(part: float) -> float:
        return float(ranked[int(part * (len(ranked) - 1))])

    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        done = float(np.clip((time_s - onset) / takes, 0, 1))
        part = hidden * done * done * (3 - 2 * done)
        if part <= 0:
            out[number] = frame
            continue
        alpha = np.clip((edge(part) - order) / soft + 0.5, 0, 1)[..., None] if part < 1 else np.float32(1)
        lid = picture
        if done < 1 and toward is not None:  # the material moves with its edge
            dx, dy = toward * (edge(part) - edge(hidden))
            lid = cv2.warpAffine(
                picture, np.array([[1, 0, dx], [0, 1, dy]]), (width, height), borderMode=cv2.BORDER_REFLECT_101
            )
        if clear:
            lid = lid * (1 - clear) + clear * cv2.blur(frame, (width // 6, width // 6))
        gain = 1 + (adapted - 1) * (1 - np.exp(-max(time_s - onset - takes / 2, 0) / settle) if coming else 1.0)
        gain *= 1 + sway * np.sin(2 * np.pi * time_s / 1.7)
        mixed = frame * (1 - alpha) + lid * alpha
        speckle = rng.normal(0, grain, (height, width, 1)) + rng.normal(0, grain / 2, (height, width, 3))
        out[number] = np.clip((mixed + speckle * alpha) * gain, 0, 255)
    return Disturbed(frames=out, times_s=times_s, counts=_mostly_after(onset + takes) if coming else _always)


def _order(rng: Rng, height: int, width: int, material: str) -> tuple[F32, Any]:
    """Return the order in pixels in which the picture is covered, and the direction (2,) in which the cover slides.

    A cover comes from a side or a corner, from two sides, or from about the middle. Its edge is straight or irregular.
    """
    y, x = np.indices((height, width), np.float32)
    kind = "middle" if material == "spray paint" else str(rng.choice(["side", "side", "two sides", "middle"]))
    toward = None
    if kind == "side":
        angle = int(rng.integers(8)) * np.pi / 4 + rng.uniform(-0.15, 0.15)
        toward = np.array([np.cos(angle), np.sin(angle)])
        order = x * toward[0] + y * toward[1]
    elif kind == "two sides":
        slit = x - width * rng.uniform(0.35, 0.65) if rng.random() < 0.5 else y - height * rng.uniform(0.35, 0.65)
        order = -np.abs(slit)
    else:
        power = rng.uniform(1.6, 5)
        dx, dy = (x / width - rng.uniform(0.4, 0.6)) * 2, (y / height - rng.uniform(0.4, 0.6)) * 2
        order = (np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power) * height / 2
    if material == "spray paint":
        order = order + 0.1 * height * _field(rng, height, width, 7) + 0.04 * height * rng.normal(size=order.shape)
    elif rng.random() < 0.5:
        order = order + 0.05 * height * _field(rng, height, width, 5) + 0.01 * height * _field(rng, height, width, 40)
    return np.asarray(order, np.float32), toward


# Camera motion: a part of the picture is shown, so that only real pixels come into view.


def _view(frames: U8, size: tuple[float, float], shift: F64, *, roll: F64 | None = None, zoom: F64 | None = None) -> U8:
    """Show a part (height, width; shares of the picture) about a centre that moves by `shift` (F, 2; x, y), in pixels.

    `roll`: radians. `zoom`: the factor by which the part is enlarged.
    """
    _, h, w, _ = frames.shape
    height, width = (int(share * side) // 2 * 2 for share, side in zip(size, (h, w), strict=True))
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        angle, factor = (0.0 if roll is None else roll[number]), (1.0 if zoom is None else zoom[number])
        c, s = np.cos(angle) / factor, np.sin(angle) / factor
        turn = np.array([[c, -s], [s, c]])
        start = np.array([w / 2, h / 2]) + shift[number] - turn @ [width / 2, height / 2]
        out[number] = cv2.warpAffine(
            frame,
            np.c_[turn, start],
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return out


def cropped(frames: U8) -> U8:
    """Show three quarters of the picture without motion, as a control for the crop of `moved` and `shaking`."""
    return _view(frames, (0.75, 0.75), np.zeros((len(frames), 2)))


def moved(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Turn the camera by 8, 15 or 25 % of the width; roll by 8, 13 or 20 degrees; zoom 1.2, 1.4 or 1.8 times."""
    level = STRENGTHS.index(strength)
    share = (0.08, 0.15, 0.25)[level]
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
        seen = _view(frames, (0.94, 0.7), shift)
    elif form == "sag":  # the mount gives way: the camera falls, and bounces
        shift[:, 1] = sign * share * 0.72 * h * 4 / 3 * (done**2 - 0.5)
        after = np.maximum(times_s - begin - takes, 0)
        shift[:, 1] -= sign * share * 0.1 * h * np.abs(np.sin(after * 14)) * np.exp(-after * 8)
        seen = _view(frames, (0.6, 0.9), shift)
    elif form == "knock":  # a blow, after which the camera swings about its new direction
        after = np.maximum(times_s - begin - takes, 0)
        path = done - 0.5 + 0.4 * np.sin(after * rng.uniform(18, 28)) * np.exp(-after * rng.uniform(5, 9))
        shift[:, 0], shift[:, 1] = sign * share * 0.68 * w * path, rng.uniform(-0.25, 0.25) * share * h * path
        seen = _view(frames, (0.86, 0.66), shift, roll=rng.uniform(-0.08, 0.08) * path)
        takes = 0.35
    elif form == "roll":
        angle = np.radians((8, 13, 20)[level])
        seen = _view(frames, (0.68, 0.68), shift, roll=sign * angle * (done * done * (3 - 2 * done) - 0.5))
    else:
        factor = (1.2, 1.4, 1.8)[level]
        seen = _view(frames, (0.98, 0.98), shift, zoom=factor ** (done if sign > 0 else 1 - done))
    return Disturbed(frames=seen, times_s=times_s, counts=_inside(begin, begin + takes))


def shaking(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Shake the camera, by an RMS of 1, 1.8 or 3 % of the width in the stronger direction."""
    rms = (0.01, 0.018, 0.03)[STRENGTHS.index(strength)]
    _, h, w, _ = frames.shape
    fine = np.arange(0, times_s[-1] + 0.01, 0.005)
    path = np.zeros((len(fine), 3))
    if form == "impacts":  # each blow rings and dies away
        at = -0.3
        while at < fine[-1]:
            after = np.maximum(fine - at, 0)
            ring = np.sin(2 * np.pi * rng.uniform(2.5, 4.8) * after) * np.exp(-after / rng.uniform(0.15, 0.3))
            path += ring[:, None] * rng.normal(0, 1, 3)
            at += rng.uniform(0.12, 0.35)
    elif form == "gimbal":  # a stabiliser that hunts about its set point
        phase = np.cumsum(rng.uniform(1.8, 3) + 0.5 * np.sin(fine * 5)) * 0.005
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
    limit = 0.085 * np.array([w, h])
    at = np.clip(np.searchsorted(fine, times_s), 0, len(fine) - 1)
    shift = np.clip(path[at, :2], -limit, limit)
    return Disturbed(frames=_view(frames, (0.82, 0.82), shift), times_s=times_s, counts=_always)


def _smooth(path: F64, size: int) -> F64:
    kernel = np.ones(size) / size
    return np.stack([np.convolve(column, kernel, "same") for column in path.T], 1)


def defocused(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Blur with a disc of 4.5, 7 or 12 % of the width in linear light: steady, hunting, coming, greasy or misted."""
    radius = (0.0225, 0.035, 0.06)[STRENGTHS.index(strength)] * frames.shape[2]
    _, h, w, _ = frames.shape
    onset = float(rng.uniform(0.3, 0.6)) if form == "coming" else 0.0
    period, phase = rng.uniform(0.8, 1.5), rng.uniform(0, 6)
    y, x = np.indices((h, w), np.float32)
    veil = np.exp(-(((x / w - rng.uniform(0.35, 0.65)) / 0.6) ** 2 + ((y / h - 0.5) / 0.6) ** 2))[..., None]
    grease = cv2.warpAffine(
        _disc(radius),
        cv2.getRotationMatrix2D((np.ceil(radius), np.ceil(radius)), float(rng.uniform(0, 180)), 1),
        _disc(radius).shape[::-1],
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
        kernel = streak / streak.sum() if form == "grease" else _disc(now)
        light = cv2.filter2D(_to_light(frame), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        if form == "mist":
            light = light * (1 - 0.5 * veil) + 0.5 * veil * (0.5 * light.mean() + 0.15)
        out[number] = _to_grey(light)
    return Disturbed(frames=out, times_s=times_s, counts=_mostly_after(onset + 0.4) if onset else _always)


def flashing(rng: Rng, frames: U8, times_s: F64, form: str, strength: str) -> Disturbed:
    """Change the light by a factor of 2.5, 4 or 8, in linear light."""
    factor = (2.5, 4.0, 8.0)[STRENGTHS.index(strength)]
    _, h, w, _ = frames.shape
    y, x = np.indices((h, w), np.float32)
    begin, counts = float(rng.uniform(0.5, 1.1)), _always
    side = (0.6 + 0.4 * (x / w if rng.random() < 0.5 else 1 - x / w))[..., None]
    ons = np.cumsum(rng.uniform(0.12, 0.4, 30)) - 0.3
    hertz, tint = rng.uniform(1.5, 3.2), rng.uniform(0.8, 1.15, 3)
    out = np.empty_like(frames)
    for number, (frame, time_s) in enumerate(zip(frames, times_s, strict=True)):
        if form == "lightning":  # two strokes, each dies away
            strokes = [np.exp(-(time_s - at) / 0.16) for at in (begin, begin + 0.22) if time_s >= at]
            gain: Any = 1 + (factor - 1) * side * min(1.0, sum(strokes)) * np.array([0.9, 0.95, 1.15])
            counts = _inside(begin, begin + 0.3)
        elif form == "mains":  # the beat of the lamp and the shutter; lower rows are exposed later
            wave = 0.5 + 0.5 * np.sin(2 * np.pi * (hertz * time_s + 0.35 * y / h))
            gain = (1 / factor + (1 - 1 / factor) * wave)[..., None]
        elif form == "failing tube":
            gain = 1.0 if np.searchsorted(ons, time_s) % 2 else 1 / factor
        elif form == "lamp":  # switched, after which the exposure makes good a part of the change
            after = time_s - begin
            change = 1.0 if after < 0 else factor ** (-1 + 0.35 * (1 - np.exp(-after / 0.6)))
            gain = change * (tint if after >= 0 else 1.0)
            counts = _inside(begin, begin + 0.1)
        else:  # a siren's two lamps light one side of the scene each
            red = (time_s * hertz) % 1 < 0.5
            beam = side if red else 1.6 - side
            gain = 1 + (factor - 1) * beam * (np.array([1, 0.15, 0.15]) if red else np.array([0.1, 0.25, 1]))
        out[number] = _to_grey(_to_light(frame) * gain)
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
            caught = rng.poisson(_to_light(frame) * electrons) + rng.normal(0, 0.7, frame.shape)
            signal = 255 * np.clip(caught / electrons, 0, 1) ** (1 / 2.2)
        else:  # sparkles: short dashes, brighter or darker than the picture
            for _ in range((200, 400, 800)[level]):
                row, column = int(rng.integers(h)), int(rng.integers(w))
                signal[row, column : column + int(rng.integers(3, 22))] = rng.choice([0, 255])
            signal += rng.normal(0, (6, 10, 16)[level], (h, w, 1))
        out[number] = np.clip(signal, 0, 255)
    return Disturbed(frames=out, times_s=times_s, counts=_mostly_after(onset) if onset else _always)


Disturb = Callable[[Rng, U8, F64, str, str], Disturbed]
FORMS: Final[dict[str, tuple[Disturb, Sequence[str]]]] = {
    "moved": (moved, ("drift", "sag", "knock", "roll", "zoom")),
    "shaking": (shaking, ("impacts", "gimbal", "engine", "gusts")),
    "defocused": (defocused, ("steady", "hunting", "coming", "grease", "mist")),
    "flashing": (flashing, ("lightning", "mains", "failing tube", "lamp", "siren")),
    "noise": (noise, ("salt", "banding", "gain", "sparkles")),
}
"""By label: the function and its forms."""

"""The first group's materials: each draws (h, w, 3) in grey levels, at twice the film's size."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from support.unseen.film import Material, Rng, canvas, colour_between, field

from engines.arrays import F32


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
    picture = canvas(h, w, ground)
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
    picture = canvas(h, w, ground)
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
    picture = canvas(h, w, colour_between(rng, [195, 190, 170], [245, 240, 230]))
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
                grain = 120 + 50 * field(rng, max(tall, 1), strip.shape[1], 4)
                strip[y : y + tall] = grain[:tall, :, None]
                y += tall + 8
            else:
                cv2.putText(strip, words(9), (0, y + 14), cv2.FONT_HERSHEY_COMPLEX_SMALL, size, ink, 1, cv2.LINE_AA)
                y += int(12 + 14 * size)
        picture[:, left : left + strip.shape[1]] = strip
    return picture.astype(np.float32)


def _cardboard(rng: Rng, h: int, w: int) -> F32:
    rows, columns = np.indices((h, w))
    tone = 1 + 0.035 * np.sin(2 * np.pi * columns / rng.uniform(7, 13)) + 0.03 * field(rng, h, w, 9)
    picture = canvas(h, w, tone[..., None] * colour_between(rng, [140, 105, 65], [195, 155, 112]))
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
    bend = 9 * field(rng, h, w, 2) + 2 * field(rng, h, w, 8)
    knot = np.hypot((columns - rng.uniform(0, w)) / 3, rows - rng.uniform(0, h))
    rings = np.sin((rows + bend + 260 / (1 + knot / 8)) * rng.uniform(0.25, 0.5) + shift)
    mix = (0.5 + 0.5 * rings)[..., None] ** 2
    light = colour_between(rng, [130, 85, 45], [225, 180, 125])
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
    tone = rng.uniform(125, 190) + 12 * field(rng, h, w, 4)
    tone = tone + np.where(inside < 1, 90 * toward + 12, -8)
    tone = tone - 70 * np.exp(-(((inside - 0.95) / 0.09) ** 2))
    spot = np.hypot(dx - 0.2 * np.cos(angle), dy - 0.2 * np.sin(angle))
    tone = tone + 110 * np.exp(-((spot / 0.06) ** 2))
    return np.asarray(tone[..., None] * rng.uniform(0.93, 1.03, 3), np.float32)


def _leaves(rng: Rng, h: int, w: int) -> F32:
    picture = canvas(h, w, [18, 26, 14])
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
    skin = colour_between(rng, [105, 65, 48], [232, 178, 150])
    tone = 1 + 0.07 * field(rng, h, w, 3) + 0.02 * field(rng, h, w, 60)
    picture = canvas(h, w, tone[..., None] * skin + 7 * field(rng, h, w, 6)[..., None] * [1, 0, 0])
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
    picture = canvas(h, w, ground)
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
    thick = 1 + 0.1 * field(rng, h, w, 5)
    picture = canvas(h, w, thick[..., None] * colour + 7 * rng.normal(size=(h, w, 1)))
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
    tone = rng.uniform(120, 215) + 14 * field(rng, h, w, 2) + 5 * rng.normal(size=(h, w))
    return np.asarray(tone[..., None] * rng.uniform([0.94, 0.96, 0.95], 1.03), np.float32)


FIRST_MATERIALS: Final[dict[str, Material]] = {
    "plaid": Material(_plaid),
    "polka dots": Material(_polka),
    "flowers": Material(_flowers),
    "burlap": Material(_burlap),
    "newsprint": Material(_newsprint),
    "cardboard": Material(_cardboard),
    "wood": Material(_wood),
    "bubble wrap": Material(_bubble_wrap, clear=0.1),
    "leaves": Material(_leaves),
    "palm": Material(_palm),
    "sticker": Material(_sticker),
    "spray paint": Material(_paint, edge="spray"),
    "black cap": Material(_black_cap),
    "white paper": Material(_white_paper),
    "frosted plastic": Material(_frosted, clear=0.06),
}

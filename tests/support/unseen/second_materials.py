"""The second group's materials: each draws (h, w, 3) in grey levels, at twice the film's size."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from support.unseen.film import Material, Rng, canvas, colour_between, facets, field

from engines.arrays import F32


def _foil(rng: Rng, h: int, w: int) -> F32:
    """Draw crumpled foil: facets, large and small, each of which mirrors another part of the room."""
    tone = np.full((h, w), rng.uniform(110, 150), np.float32)
    for count, spread in ((int(rng.integers(25, 60)), 38), (int(rng.integers(150, 400)), 30)):
        cell, dy, dx, edges = facets(rng, h, w, count)
        lean = rng.normal(0, 0.9, (count + 1, 2))
        tone += rng.normal(0, spread, count + 1)[cell] + dy * lean[cell, 0] + dx * lean[cell, 1]
        tone[edges] += 35
    tint = 1 + 0.02 * field(rng, h, w, 3)[..., None] * rng.normal(0, 1, 3)
    shine = 255 / (1 + np.exp((130 - cv2.GaussianBlur(tone, (0, 0), 1.0)) / 34))
    return np.asarray(shine[..., None] * tint, np.float32)


def _glove(rng: Rng, h: int, w: int) -> F32:
    """Draw knitwear: columns of stitches, each a V of two legs, in stripes of yarn; dark gaps between the fingers."""
    y, x = np.indices((h, w), np.float32)
    x = x + 3 * field(rng, h, w, 4)
    pitch = rng.uniform(14, 28)
    row, side = y / (0.8 * pitch), np.abs((x / pitch) % 1 - 0.5) * 2
    leg = (row + 0.6 * side) % 1
    stitch = np.sqrt(np.maximum(0, 1 - (2 * leg - 1) ** 2)) * np.sin(np.pi * np.clip(side, 0.04, 0.96)) ** 0.5
    yarns = rng.uniform(25, 220, (3, 1)) * rng.uniform([0.75, 0.6, 0.55], [1.1, 1, 1.05], (3, 3))
    stripe = rng.choice(3, 9, p=[0.7, 0.2, 0.1])[((row + 0.6 * side) // rng.integers(3, 9)).astype(int) % 9]
    picture = yarns[stripe] * (0.3 + 0.75 * stitch + 0.06 * rng.normal(size=(h, w)))[..., None]
    for k in range(int(rng.integers(0, 4))):
        middle = (k + 0.8) * h / 4 + 0.02 * h * np.sin(x / w * 3 + k)
        width = 0.012 * h * np.clip(4 * (x / w - 0.45), 0, 1)
        picture *= 1 - 0.8 * np.exp(-(((y - middle) / (width + 0.1)) ** 2))[..., None]
    return np.asarray(picture, np.float32)


def _bag(rng: Rng, h: int, w: int) -> F32:
    """Draw a milky plastic bag: each wrinkle is a bright line beside a dark one."""
    tint = rng.choice([[1, 1, 1], [0.86, 0.95, 1.05], [0.9, 1.04, 0.9], [1.05, 0.98, 0.86]])
    tone = rng.uniform(135, 200)
    picture = canvas(h, w, (tone + 12 * field(rng, h, w, 3))[..., None] * tint)
    s, drift = np.linspace(0, 1, 20)[:, None], rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(60, 120))):
        at, angle, length = rng.uniform(0, 1, 2) * [w, h], drift + rng.normal(0, 0.7), rng.uniform(0.08, 0.5) * w
        end = at + length * np.array([np.cos(angle), np.sin(angle)])
        bend = (at + end) / 2 + rng.normal(0, 0.12, 2) * length
        curve = at * (1 - s) ** 2 + 2 * bend * s * (1 - s) + end * s**2
        wide = int(rng.integers(1, 4))
        for shift, shade in ((wide, -rng.uniform(8, 40)), (0, rng.uniform(15, 50))):
            line = [(curve + shift).astype(np.int32)]
            cv2.polylines(picture, line, False, ((tone + shade) * tint).tolist(), wide, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2), np.float32)


def _mud(rng: Rng, h: int, w: int) -> F32:
    ground = colour_between(rng, [48, 36, 24], [135, 108, 78])
    picture = canvas(h, w, ground * (1 + 0.1 * field(rng, h, w, 6) + 0.08 * field(rng, h, w, 45))[..., None])
    for _ in range(130):  # splashes: a darker rim, and drops around
        at, size, tone = rng.uniform(0, 1, 2) * [w, h], w * 0.05 * rng.uniform(0.1, 1) ** 2, rng.uniform(0.55, 1.35)
        axes = (int(size * rng.uniform(0.7, 1.3)) + 1, int(size) + 1)
        turn, middle = float(rng.uniform(0, 180)), (int(at[0]), int(at[1]))
        cv2.ellipse(picture, middle, axes, turn, 0, 360, (ground * tone).tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(picture, middle, axes, turn, 0, 360, (ground * tone * 0.85).tolist(), 2, cv2.LINE_AA)
        for drop in at + rng.normal(0, 1.6 * size, (5, 2)):
            cv2.circle(picture, drop.astype(int).tolist(), int(rng.integers(1, 4)), (ground * tone).tolist(), -1)
    wet = np.clip(field(rng, h, w, 14) - 1.6, 0, 0.5) * rng.uniform(0, 160) + 4 * rng.normal(size=(h, w))
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.5) + wet[..., None], np.float32)


def _frost(rng: Rng, h: int, w: int) -> F32:
    """Draw feathers of ice: a stem with branches at 60 degrees, that get shorter towards the tip."""
    picture = canvas(h, w, colour_between(rng, [120, 135, 148], [190, 198, 206]) + 12 * field(rng, h, w, 4)[..., None])
    drift = rng.uniform(0, 2 * np.pi)
    for _ in range(95):
        at, length, angle = rng.uniform(0, 1, 2) * [w, h], rng.uniform(0.08, 0.3) * w, drift + rng.normal(0, 0.6)
        white = [float(rng.uniform(175, 255))] * 3
        for part in np.linspace(0, 1, 16):
            root = at + part * length * np.array([np.cos(angle), np.sin(angle)])
            for turn in (-np.pi / 3, 0, np.pi / 3):
                reach = length * (0.35 * (1 - part) * rng.uniform(0.5, 1.1) if turn else 0.07)
                tip = root + reach * np.array([np.cos(angle + turn), np.sin(angle + turn)])
                cv2.line(picture, root.astype(int).tolist(), tip.astype(int).tolist(), white, 1, cv2.LINE_AA)
    return np.asarray(picture + 7 * rng.normal(size=(h, w, 1)), np.float32)


def _rag(rng: Rng, h: int, w: int) -> F32:
    """Draw a brick-red rag: folds that run in about one direction, lit from across."""
    y, x = np.indices((h, w), np.float32)
    angle = rng.uniform(0, np.pi)
    across = x * np.cos(angle) + y * np.sin(angle) + 0.1 * w * field(rng, h, w, 2)
    height = np.zeros((h, w))
    for length in rng.uniform(0.12, 0.6, 3) * w:
        height += length * (1 - np.abs(np.sin(np.pi * across / length + rng.uniform(0, 3)))) ** 2
    slope = cv2.GaussianBlur(np.gradient(height, axis=1) + np.gradient(height, axis=0), (0, 0), 2.5)
    weave = 0.05 * np.sin(x * 1.3) * np.sin(y * 1.3) + 0.04 * rng.normal(size=(h, w))
    light = np.clip(0.85 + 0.075 * slope, 0.3, 1.5) + weave
    return np.asarray(light[..., None] * colour_between(rng, [115, 42, 32], [178, 82, 62]), np.float32)


def _tape(rng: Rng, h: int, w: int) -> F32:
    """Draw strips of parcel tape, one over another, with a repeated print and a shine along each strip."""
    ground, ink = [([176, 132, 78], [120, 25, 20]), ([236, 234, 228], [200, 30, 35]), ([205, 40, 40], [245, 240, 235])][
        rng.integers(3)
    ]
    picture, tall = canvas(h, w, ground), int(rng.uniform(0.16, 0.34) * h)
    text = str(rng.choice(["FRAGILE  ", "HANDLE WITH CARE  ", "ACME PARCEL  ", "THIS SIDE UP  "])) * 9
    y = -int(rng.uniform(0, tall))
    while y < h:
        strip = canvas(tall, w, np.asarray(ground) * rng.uniform(0.88, 1.08))
        at = (-int(rng.uniform(0, 300)), int(0.66 * tall))
        cv2.putText(strip, text, at, cv2.FONT_HERSHEY_DUPLEX, tall / 65, ink, max(2, tall // 16), cv2.LINE_AA)
        across = np.linspace(0, 1, tall)[:, None]
        bumps = 0.08 * field(rng, tall, w, 12) * rng.uniform(0.3, 1.5)
        lit = strip + 75 * np.exp(-(((across + bumps - rng.uniform(0.1, 0.9)) / 0.09) ** 2))[..., None]
        lit[-3:] *= 0.7
        part = np.clip(lit, 0, 255).astype(np.uint8)[max(0, -y) :][: h - max(y, 0)]
        picture[max(y, 0) :][: len(part)] = part
        y += tall - int(rng.uniform(0, 0.12 * tall))
    return picture.astype(np.float32)


def _sponge(rng: Rng, h: int, w: int) -> F32:
    base = np.array([[225, 195, 70], [90, 150, 205], [120, 185, 95], [230, 150, 165]])[rng.integers(4)]
    picture = canvas(h, w, base * (rng.uniform(0.7, 1) + 0.05 * field(rng, h, w, 40))[..., None])
    for size in np.sort(rng.uniform(0.1, 1, 900) ** 3)[::-1] * rng.uniform(0.014, 0.03) * w:
        middle = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        axes, turn = (int(size * rng.uniform(1, 1.7)) + 1, int(size) + 1), float(rng.uniform(0, 180))
        cv2.ellipse(picture, middle, axes, turn, 0, 360, (base * rng.uniform(0.3, 0.6)).tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(picture, middle, axes, turn, 20, 170, (base * 1.05).tolist(), 1, cv2.LINE_AA)
    return picture.astype(np.float32)


def _umbrella(rng: Rng, h: int, w: int) -> F32:
    """Draw a dark umbrella from outside: panels about a tip, each with another light, and seams between them."""
    y, x = np.indices((h, w), np.float32)
    dx, dy = x - rng.uniform(-0.2, 1.2) * w, y - rng.uniform(-0.3, 1.3) * h
    turn = (np.arctan2(dy, dx) / (2 * np.pi) * 8 + rng.uniform(0, 1)) % 8
    panel, across = turn.astype(int) % 8, turn % 1
    sag = np.hypot(dx, dy) / w
    tone = rng.uniform(0.6, 1.4, 8)[panel] * (1 + 0.25 * np.sin(np.pi * across)) * (1.1 - 0.25 * sag)
    tone = tone + 0.05 * np.sin(x * 2.1 + y * 2.1) + 0.05 * rng.normal(size=(h, w)) + 0.06 * field(rng, h, w, 5)
    seam = np.minimum(across, 1 - across) * sag * w
    tone = tone * (1 - 0.5 * np.exp(-((seam / 4) ** 2)) + 0.6 * np.exp(-(((seam - 9) / 5) ** 2)))
    return np.asarray(tone[..., None] * colour_between(rng, [16, 17, 22], [48, 50, 66]), np.float32)


def _snow(rng: Rng, h: int, w: int) -> F32:
    """Draw packed snow: lumps whose shadows are blue, and grains that glitter."""
    lumps = field(rng, h, w, 4) + 0.4 * field(rng, h, w, 11) + 0.08 * field(rng, h, w, 50)
    slope = cv2.GaussianBlur(np.gradient(lumps, axis=1) + np.gradient(lumps, axis=0), (0, 0), 1.5)
    shade = np.clip(0.3 - slope * w / 90, 0, 1)[..., None]
    picture = rng.uniform(215, 252) * (1 - shade * np.array([0.32, 0.24, 0.12])) + 5 * rng.normal(size=(h, w, 1))
    picture[rng.random((h, w)) < 0.004] = 255
    return np.asarray(picture, np.float32)


def _leaf(rng: Rng, h: int, w: int) -> F32:
    """Draw a single leaf close to the lens: a midrib, lateral veins in an arc, and a net of fine veins."""
    y, x = np.indices((h, w), np.float32)
    green = (
        colour_between(rng, [45, 85, 25], [120, 165, 60])
        if rng.random() < 0.7
        else rng.uniform([150, 95, 25], [215, 160, 60])
    )
    middle = rng.uniform(0.3, 0.7) * h + 0.05 * h * np.sin(x / w * 2 + rng.uniform(0, 6))
    off = np.abs(y - middle)
    pitch = rng.uniform(0.1, 0.2) * w
    lateral = np.abs((x - 0.7 * off - 0.0006 * off**2 + np.where(y > middle, pitch / 2, 0)) % pitch - pitch / 2)
    tone = 1 + 0.1 * field(rng, h, w, 4) + 0.05 * field(rng, h, w, 30) - 0.12 * np.cos(2 * np.pi * lateral / pitch)
    tone[facets(rng, h, w, 1500)[3]] *= 1.1
    tone += 0.45 * np.exp(-((lateral / 2.5) ** 2)) + 0.7 * np.exp(-((off / (0.012 * h + 2)) ** 2))
    tone -= 0.3 * np.exp(-(((off - 0.035 * h) / (0.015 * h)) ** 2))
    return np.asarray(tone[..., None] * green, np.float32)


SECOND_MATERIALS: Final[dict[str, Material]] = {
    "aluminium foil": Material(_foil),
    "knitted glove": Material(_glove),
    "plastic bag": Material(_bag, clear=0.12),
    "mud": Material(_mud, edge="lumps"),
    "frost": Material(_frost, clear=0.08, edge="lumps"),
    "rag": Material(_rag),
    "parcel tape": Material(_tape),
    "sponge": Material(_sponge),
    "umbrella": Material(_umbrella),
    "snow": Material(_snow, edge="lumps"),
    "single leaf": Material(_leaf),
}

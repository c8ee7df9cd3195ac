"""The fifth group's materials: each draws (h, w, 3) in grey levels, at twice the film's size."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from support.unseen.film import Material, Rng, canvas, colour_between, field, relief

from engines.arrays import F32


def _rounded(x: Any, y: Any, half: tuple[float, float], corner: float) -> Any:
    """Return the signed distance to a rectangle with round corners about (0, 0): negative inside."""
    dx, dy = np.abs(x) - half[0] + corner, np.abs(y) - half[1] + corner
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner


def _envelope(rng: Rng, h: int, w: int) -> F32:
    """Draw an envelope: smooth paper with a postmark and a window before the address, or its glued flap."""
    y, x = np.indices((h, w), np.float32)
    papers = np.array([[178, 142, 98], [236, 233, 224], [205, 190, 150], [196, 206, 214]])
    fibre = 0.012 * field(rng, h, w, 90) + 0.02 * field(rng, h, w, 3) + 0.012 * rng.normal(size=(h, w))
    bend = rng.uniform(0.1, 0.9) * h + 0.03 * h * field(rng, h, w, 2)
    tone = 0.96 + fibre + 0.05 * np.tanh((y - bend) / (0.12 * h))
    picture = tone[..., None] * papers[rng.integers(4)]
    if rng.random() < 0.35:  # the back: the flap lies over the two sides
        side = 1 if rng.random() < 0.5 else -1
        tip = np.array([rng.uniform(0.35, 0.65) * w, (0.5 + 0.2 * side) * h])
        for slant, depth in ((0.85, 1.0), (-0.5, 0.6)):
            off = side * (y - tip[1]) + slant * np.abs(x - tip[0]) + 4 * field(rng, h, w, 3)
            over = 1 / (1 + np.exp(off))
            picture *= (1 - 0.3 * depth * np.exp(-np.clip(off, 0, None) / 9) * (1 - over) + 0.03 * over)[..., None]
            picture *= (1 - 0.12 * depth * np.exp(-(((off + 0.07 * h) / 3) ** 2)))[..., None]  # the edge of the glue
        return np.asarray(picture, np.float32)
    middle, half = rng.uniform(0.3, 0.7, 2) * [w, h], (rng.uniform(0.22, 0.32) * w, rng.uniform(0.13, 0.2) * h)
    edge = _rounded(x - middle[0], y - middle[1], half, 0.05 * h)
    letter = canvas(h, w, [228, 229, 226])
    for line in range(int(rng.integers(3, 6))):
        text = "".join(rng.choice(list("ABDEHKLMNORSTaeinorstu 0123456789"), int(rng.integers(9, 20))))
        at = (int(middle[0] - 0.85 * half[0]), int(middle[1] - 0.6 * half[1] + 0.075 * h * line))
        cv2.putText(letter, text, at, cv2.FONT_HERSHEY_SIMPLEX, h / 620, [45, 45, 50], max(1, h // 280), cv2.LINE_AA)
    crackle = np.exp(-np.abs(field(rng, h, w, 7)) * 9) * rng.uniform(4, 14)
    glare = 75 * np.exp(-(((x - 0.5 * y + 0.02 * w * field(rng, h, w, 4) - middle[0]) / (0.09 * w)) ** 2))
    pane = cv2.GaussianBlur(letter.astype(np.float32), (0, 0), 1.8) * 0.8 + (20 + crackle + glare)[..., None]
    inside = np.clip(0.5 - edge / 2, 0, 1)[..., None]
    picture = picture * (1 - inside) + pane * inside
    picture *= 1 - 0.3 * np.exp(-((edge / 3) ** 2))[..., None] - 0.1 * np.exp(-(((edge - 16) / 6) ** 2))[..., None]
    mark = np.hypot(x - rng.uniform(0.6, 0.9) * w, y - rng.uniform(0.08, 0.3) * h) / (0.13 * h)
    inked = np.exp(-(((mark - 1) / 0.05) ** 2)) + np.exp(-(((mark - 0.65) / 0.04) ** 2))
    waves = np.abs((y + 0.012 * h * np.sin(x / (0.02 * w))) % (0.05 * h) - 0.025 * h) / h
    inked += np.exp(-((waves / 0.004) ** 2)) * (y < 0.3 * h) * (x < 0.6 * w)
    inked *= np.clip(0.7 + 0.5 * field(rng, h, w, 30), 0, 1) * (edge > 0)
    return np.asarray(picture - 105 * np.clip(inked, 0, 1)[..., None] * [1, 0.95, 0.8], np.float32)


def _rolled_paint(rng: Rng, h: int, w: int) -> F32:
    """Draw wall paint from a roller: bands that overlap, a stipple like orange peel, ridges at edges, thin patches."""
    y, x = np.indices((h, w), np.float32)
    paints = np.array([[238, 236, 230], [232, 222, 196], [150, 158, 160], [92, 128, 158], [176, 98, 72], [96, 122, 96]])
    paint, lean, pitch = paints[rng.integers(6)], rng.normal(np.pi / 2, 0.25), rng.uniform(0.5, 0.9) * h
    peel = field(rng, h, w, w / 7) + 0.6 * field(rng, h, w, w / 13)
    thick = np.full((h, w), 0.55, np.float32)
    ridges = np.zeros((h, w), np.float32)
    for at in np.arange(-np.hypot(h, w), np.hypot(h, w), 0.72 * pitch) + rng.uniform(0, pitch):
        angle = lean + rng.normal(0, 0.06)
        off = (x - w / 2) * np.sin(angle) - (y - h / 2) * np.cos(angle) - at + 3 * field(rng, h, w, 5)
        along = (x - w / 2) * np.cos(angle) + (y - h / 2) * np.sin(angle)
        inside = np.clip((pitch / 2 - np.abs(off)) / 5, 0, 1) * (along < rng.uniform(0.3, 1.5) * h)
        dry = np.clip(0.75 + 0.25 * np.cos((along / h + rng.uniform(0, 2)) * 2.2), 0, 1)
        thick += inside * (0.3 * dry - 0.25 * (thick - 0.7))
        ridges += np.exp(-(((np.abs(off) - pitch / 2) / 3.5) ** 2)) * (along < 1.2 * h)
    slope = relief(rng.uniform(0.2, 0.5) * peel + ridges, rng.uniform(0, 2 * np.pi), 1.5)
    thin = np.clip(0.75 - thick + 0.13 * field(rng, h, w, w / 9), 0, 1)[..., None]
    sheen = 24 * np.exp(-(((x / w - rng.uniform(0, 1)) / 0.35) ** 2)) * np.clip(slope * 5 + 0.5, 0, 1.5)
    tone = np.clip(0.9 + 0.4 * slope + 0.02 * field(rng, h, w, 4), 0.4, 1.2)
    return np.asarray(tone[..., None] * (paint * (1 - thin) + thin * paint * 0.6) + sheen[..., None], np.float32)


def _gauze(rng: Rng, h: int, w: int) -> F32:
    """Draw a gauze bandage: turns that overlap, each a loose weave that is pulled aslant, with a denser edge."""
    y, x = np.indices((h, w), np.float32)
    cotton = np.array([[238, 234, 224], [226, 204, 176]])[rng.integers(2)] * rng.uniform(0.85, 1.0)
    pitch, wide = rng.uniform(8, 13), rng.uniform(0.35, 0.6) * h
    picture = np.ones((h, w, 3)) * cotton * 0.45
    turns = np.arange(-1.3 * h, 1.3 * h, 0.5 * wide)
    crossed = rng.uniform(0.3, 0.7) if rng.random() < 0.5 else 0.0
    for number, at in enumerate(turns):
        angle = rng.normal(0, 0.08) + (crossed if number % 2 else -crossed)
        across = (y - h / 2) * np.cos(angle) - (x - w / 2) * np.sin(angle) - at + 0.012 * h * field(rng, h, w, 3)
        along = (x - w / 2) * np.cos(angle) + (y - h / 2) * np.sin(angle)
        pulled = pitch * 0.6 * field(rng, h, w, 6)
        u, v = (along + 0.35 * pulled + rng.uniform(-0.3, 0.3) * across) / pitch, (across + pulled) / pitch
        warp, weft = (np.exp(-(((part % 1 - 0.5) / rng.uniform(0.2, 0.27)) ** 2)) for part in (u, v))
        over = (np.floor(u) + np.floor(v)) % 2
        thread = np.maximum(warp * (0.8 + 0.2 * over), weft * (1 - 0.2 * over))
        hem = np.clip(1.5 - (wide / 2 - np.abs(across)) / (1.2 * pitch), 0, 1)
        thread = np.clip(np.maximum(thread, 0.75 * hem) + 0.06 * rng.normal(size=(h, w)), 0, 1)
        inside = np.clip((wide / 2 - np.abs(across)) / 3, 0, 1)
        shadow = np.exp(-np.clip(np.abs(across) - wide / 2, 0, None) / (0.025 * h)) * (1 - inside)
        picture *= (1 - 0.22 * shadow)[..., None]
        light = 1 + 0.07 * field(rng, h, w, 4) - 0.1 * (2 * across / wide) ** 2
        alpha = (0.92 * thread * inside)[..., None]
        picture = picture * (1 - alpha) + alpha * (light * (0.7 + 0.3 * thread))[..., None] * cotton
    return np.asarray(picture, np.float32)


def _felt(rng: Rng, h: int, w: int) -> F32:
    """Draw a felt pad: a smooth mat of short fibres in all directions, with lint and, at times, a cut edge."""
    colours = np.array([[120, 118, 112], [52, 50, 50], [130, 92, 58], [225, 220, 208], [44, 92, 62], [150, 34, 42]])
    colour = colours[rng.integers(len(colours))] * rng.uniform(0.85, 1.1)
    mat = canvas(h, w, 128.0 + 9 * field(rng, h, w, 5)[..., None] + 7 * field(rng, h, w, 30)[..., None])
    at, turn = rng.uniform(0, 1, (2600, 2)) * [w, h], rng.uniform(0, 2 * np.pi, 2600)
    s = np.linspace(-1, 1, 6)[:, None]
    for place, angle, shade in zip(at, turn, rng.normal(128, 30, 2600), strict=True):
        way, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        curve = place + rng.uniform(0.012, 0.04) * h * (s * way + rng.normal(0, 0.35) * s**2 * aside)
        cv2.polylines(mat, [curve.astype(np.int32)], False, [float(np.clip(shade, 0, 255))] * 3, 1, cv2.LINE_AA)
    tone = cv2.GaussianBlur(mat[..., 0].astype(np.float32), (0, 0), 0.9) / 128
    tone = 1 + 0.8 * (tone - 1) + 0.05 * rng.normal(size=(h, w))
    picture = canvas(h, w, tone[..., None] * colour)
    for place in rng.uniform(0, 1, (int(rng.integers(4, 14)), 2)) * [w, h]:  # lint
        curve = place + np.cumsum(rng.normal(0, 0.012 * h, (9, 2)), axis=0)
        grey = [float(rng.uniform(150, 230))] * 3
        cv2.polylines(picture, [curve.astype(np.int32)], False, grey, 1, cv2.LINE_AA)
    soft = picture.astype(np.float32)
    if rng.random() < 0.5:  # two pads side by side: a gap with a furry edge
        y, x = np.indices((h, w), np.float32)
        angle = rng.uniform(0, np.pi)
        off = (x - rng.uniform(0.2, 0.8) * w) * np.cos(angle) + (y - rng.uniform(0.2, 0.8) * h) * np.sin(angle)
        off += 0.004 * h * field(rng, h, w, 70)
        soft *= (1 - 0.65 * np.exp(-((off / (0.012 * h)) ** 2)) - 0.12 * np.exp(-(((off - 0.03 * h) / 12) ** 2)))[
            ..., None
        ]
    return np.asarray(soft, np.float32)


def _foil_lid(rng: Rng, h: int, w: int) -> F32:
    """Draw the foil lid of a pot: embossed dots, folds that run from the rim, a print, and a smear of cream."""
    y, x = np.indices((h, w), np.float32)
    middle, radius = rng.uniform(0.25, 0.75, 2) * [w, h], rng.uniform(0.75, 1.1) * w
    dx, dy = x - middle[0], y - middle[1]
    far, angle = np.hypot(dx, dy) / radius, np.arctan2(dy, dx)
    pitch = rng.uniform(11, 18)
    u, v = (x + y) / pitch, (x - y) / pitch
    dots = np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v)
    folds = sum(
        rng.normal(0, 1) * np.exp(-np.abs(np.sin((angle - turn) / 2)) * rng.uniform(25, 70))
        for turn in rng.uniform(0, 2 * np.pi, 16)
    )
    crumple = -8 * np.abs(field(rng, h, w, 6)) - 3 * np.abs(field(rng, h, w, 15))
    height = 0.45 * dots + 20 * folds * np.clip(far, 0, 1) ** 1.5 + crumple
    slope = relief(height, rng.uniform(0, 2 * np.pi), 1.4)
    room = np.sin(2.6 * slope + 1.1 * field(rng, h, w, 3) + rng.uniform(0, 6))
    tone = 152 + 58 * room + 22 * slope
    picture = tone[..., None] * np.array([1.0, 1.0, 1.01])
    if rng.random() < 0.7:  # a print: rings and a word in one colour, thinner on the dots
        ink = np.array([[200, 40, 60], [40, 90, 180], [60, 140, 70], [120, 70, 150]])[rng.integers(4)] / 190
        plate = np.zeros((h, w), np.uint8)
        for part in rng.uniform(0.1, 0.5, 2):
            centre = (int(middle[0]), int(middle[1]))
            cv2.circle(plate, centre, int(part * radius), 255, int(rng.uniform(0.02, 0.09) * h), cv2.LINE_AA)
        word = str(rng.choice(["CHERRY", "VANILLA", "NATURAL 3.5%", "PEEL HERE"]))
        cv2.putText(plate, word, (int(0.1 * w), int(0.6 * h)), cv2.FONT_HERSHEY_TRIPLEX, h / 210, 255, h // 70 + 1)
        alpha = (plate / 255 * (0.85 - 0.1 * dots))[..., None].clip(0, 1)
        picture *= 1 - alpha * (1 - ink)
    if rng.random() < 0.6:  # cream
        cream = np.clip(3 * (field(rng, h, w, 3) + 0.3 * field(rng, h, w, 12) - rng.uniform(0.2, 0.9)), 0, 1)
        thick = relief(7 * cv2.GaussianBlur(cream, (0, 0), 3) + 1.5 * field(rng, h, w, 14), 0.7, 2.5)
        shade = np.clip(0.93 + 0.3 * thick, 0.5, 1.08)[..., None] * np.array([244, 236, 226])
        picture = picture * (1 - cream[..., None]) + shade * cream[..., None]
    return np.asarray(np.clip(picture, 0, 255) + 2 * rng.normal(size=(h, w, 1)), np.float32)


def _cap(rng: Rng, h: int, w: int) -> F32:
    """Draw a cap that hangs over the camera: its brim of fine twill with rows of stitches, and its crown behind."""
    y, x = np.indices((h, w), np.float32)
    cloths = np.array([[32, 42, 74], [24, 24, 26], [176, 40, 44], [196, 176, 136], [70, 84, 62], [225, 225, 222]])
    cloth = cloths[rng.integers(6)]
    twill = np.sin(2 * np.pi * (x + 0.6 * y) / rng.uniform(4, 6)) * np.clip(0.7 + 0.3 * field(rng, h, w, 50), 0, 1)
    tone = 0.9 + 0.07 * twill + 0.05 * rng.normal(size=(h, w)) + 0.05 * field(rng, h, w, 4)
    centre, brim = rng.uniform(0.3, 0.7) * w, rng.uniform(1.0, 1.5) * h
    top = rng.uniform(-0.25, 0.25) * h
    far = np.hypot((x - centre) * 0.8, y - top + 0.75 * brim) / brim  # rows follow the edge of the brim
    pitch = rng.uniform(0.05, 0.08)
    row = (far - 0.75) / pitch
    groove = np.abs(row - np.round(row)) * pitch * brim
    on_brim = np.clip((far - 0.75) * brim / 4, 0, 1)
    along = np.arctan2(y - top + 0.75 * brim, x - centre) * brim
    stitch = np.exp(-((groove / 2.4) ** 2)) * ((along % 12) < 8)
    tone *= 1 - on_brim * 0.22 * np.exp(-((groove / 6) ** 2))
    bow = np.clip(1.12 - 0.55 * ((x - centre) / w) ** 2 - 0.12 * (far - 0.75), 0.4, 1.2)
    tone *= on_brim * bow + (1 - on_brim) * (0.85 + 0.15 * np.cos(7 * (x - centre) / w))
    tone *= 1 - 0.5 * np.exp(-((((far - 0.75) * brim) / (0.02 * h)) ** 2))
    seam = np.abs(x - centre - 0.3 * (y - h / 2))
    tone *= 1 - (1 - on_brim) * 0.3 * np.exp(-((seam / 4) ** 2))
    thread = (cloth * 1.35 + 22) if rng.random() < 0.6 else np.array([225, 220, 205])
    alpha = (0.8 * stitch * on_brim)[..., None]
    return np.asarray(tone[..., None] * cloth * (1 - alpha) + alpha * thread, np.float32)


def _toothpaste(rng: Rng, h: int, w: int) -> F32:
    """Draw smeared toothpaste: strokes of a finger with fine ridges, stripes of gel that mix, and a wet gloss."""
    y, x = np.indices((h, w), np.float32)
    pastes = [([240, 244, 242], [90, 185, 190]), ([244, 244, 244], [215, 60, 70]), ([196, 228, 214], [236, 246, 240])]
    paste, gel = map(np.array, [*pastes, ([236, 240, 246], [70, 120, 205])][rng.integers(4)])
    height, mix = 1.5 * field(rng, h, w, 4), field(rng, h, w, 3)
    for _ in range(int(rng.integers(4, 8))):
        angle, at, half = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * [w, h], rng.uniform(0.1, 0.24) * h
        along = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle)
        off = (y - at[1]) * np.cos(angle) - (x - at[0]) * np.sin(angle) + 0.0004 * rng.normal() * along**2
        off = off + 0.015 * h * field(rng, h, w, 5)
        inside = np.clip((half - np.abs(off)) / 8, 0, 1) * np.clip(along / 30 + rng.uniform(0, 20), 0, 1)
        lines = np.interp(off, np.linspace(-half, half, 34), rng.normal(0, 1, 34))
        height = height * (1 - inside) + inside * (0.9 * lines + 0.8 * field(rng, h, w, 3))
        height += 4 * np.exp(-(((np.abs(off) - half) / (0.02 * h)) ** 2))
        mix = mix * (1 - inside) + inside * (np.sin(off / half * rng.uniform(4, 9) + rng.uniform(0, 6)) + 0.3 * lines)
    slope = relief(height, rng.uniform(0, 2 * np.pi), 2.5)
    share = (0.9 / (1 + np.exp(-3 * (mix - 0.6))))[..., None]
    gloss = 60 * np.exp(-(((slope - 0.45) / 0.12) ** 2))
    tone = np.clip(0.88 + 0.28 * slope, 0.5, 1.1)[..., None]
    return np.asarray(tone * (paste * (1 - share) + gel * share) + gloss[..., None], np.float32)


def _builders_foam(rng: Rng, h: int, w: int) -> F32:
    """Draw builder's foam that has swollen before the lens: smooth bulges with a skin, dark creases, and some pores."""
    y, x = np.indices((h // 2, w // 2), np.float32) * 2
    height = np.zeros((h // 2, w // 2), np.float32)
    for size in np.sort(rng.uniform(0.07, 0.36, 80) ** 1.3)[::-1] * h:
        at, stretch, turn = rng.uniform(-0.1, 1.1, 2) * [w, h], rng.uniform(1, 1.7), rng.uniform(0, np.pi)
        dx, dy = x - at[0], y - at[1]
        off = np.hypot((dx * np.cos(turn) + dy * np.sin(turn)) / stretch, dy * np.cos(turn) - dx * np.sin(turn)) / size
        bulge = size * (0.75 * np.sqrt(np.clip(1.001 - off**2, 0, None)) + rng.uniform(0.1, 0.6)) * (off < 1)
        height = np.maximum(height, bulge)
    height = np.asarray(cv2.resize(height, (w, h)), np.float32)
    near = cv2.GaussianBlur(height, (0, 0), 0.035 * h)
    crease = np.clip((near - height) / (0.05 * h), 0, 1)
    skin = 0.35 * field(rng, h, w, 40) + 1.2 * field(rng, h, w, 14)
    slope = np.tanh(0.9 * relief(height + skin, rng.uniform(0, 2 * np.pi), 2.0))
    light = np.clip(0.83 + 0.3 * slope, 0.3, 1.15) * (1 - 0.6 * crease)
    foam = np.array([[236, 214, 150], [240, 232, 200], [222, 184, 110]])[rng.integers(3)]
    old = np.clip(0.3 + 0.2 * field(rng, h, w, 5), 0, 1)[..., None]
    picture = canvas(h, w, light[..., None] * (foam * (1 - 0.3 * old) + 0.3 * old * foam * [0.9, 0.72, 0.45]))
    for size in 1 + 7 * rng.uniform(0, 1, 220) ** 6:  # pores
        at = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        tone = (picture[at[1], at[0]] * rng.uniform(0.45, 0.75)).tolist()
        cv2.ellipse(picture, at, (int(size) + 1, int(0.7 * size) + 1), float(rng.uniform(0, 180)), 0, 360, tone, -1)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8), np.float32)


def _cobweb(rng: Rng, h: int, w: int) -> F32:
    """Draw a cobweb close to the lens: a grey sheet of threads that cross and sag, with dust and dead flies."""
    grey = rng.uniform(88, 150)
    tint = np.array([1, 0.99, 0.96])
    picture = canvas(h, w, (grey + 16 * field(rng, h, w, 3) + 9 * field(rng, h, w, 9))[..., None] * tint)
    anchors = np.r_[rng.uniform(-0.1, 1.1, (7, 2)), rng.uniform(0.2, 0.8, (4, 2))] * [w, h]
    s = np.linspace(0, 1, 24)[:, None]
    for _ in range(900):
        start = anchors[rng.integers(len(anchors))] + rng.normal(0, 0.06, 2) * h
        end = start + rng.uniform(0.2, 1.3) * h * np.array([np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn)])
        hang = np.array([0, rng.uniform(0, 0.1) * h])
        thread = start * (1 - s) + end * s + 4 * s * (1 - s) * hang
        tone = (float(np.clip(rng.normal(grey + 38, 30), 40, 250)) * tint).tolist()
        cv2.polylines(picture, [thread.astype(np.int32)], False, tone, int(rng.choice([1, 1, 1, 2])), cv2.LINE_AA)
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.2)
    clump = np.clip(field(rng, h, w, 8) + 0.7 * field(rng, h, w, 25) - 0.8, 0, 1)[..., None]
    soft = canvas(h, w, soft * (1 - 0.6 * clump) + 0.6 * clump * (grey + 55) * tint)
    for _ in range(500):  # dust
        at = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        cv2.circle(soft, at, int(rng.choice([1, 1, 2, 3])), (rng.uniform(60, 235) * tint).tolist(), -1, cv2.LINE_AA)
    for at in rng.uniform(0.05, 0.95, (int(rng.integers(1, 5)), 2)) * [w, h]:  # flies
        size, turn = rng.uniform(0.015, 0.03) * h, float(rng.uniform(0, 180))
        middle = at.astype(int).tolist()
        cv2.ellipse(soft, middle, (int(1.5 * size), int(0.7 * size)), turn, 0, 360, [38, 36, 34], -1, cv2.LINE_AA)
        wings = (int(1.9 * size), int(0.5 * size))
        cv2.ellipse(soft, middle, wings, turn + 35, 0, 360, [grey * 0.8] * 3, 1, cv2.LINE_AA)
    return np.asarray(soft + 3 * rng.normal(size=(h, w, 1)), np.float32)


def _droppings(rng: Rng, h: int, w: int) -> F32:
    """Draw birds' droppings: chalky white that ran down in streaks, over and over, with olive and black cores."""
    chalk = np.array([226, 224, 212]) * rng.uniform(0.85, 1.05)
    picture = canvas(h, w, (0.86 + 0.06 * field(rng, h, w, 5) + 0.02 * field(rng, h, w, 50))[..., None] * chalk)
    down = rng.normal(0, 0.12)
    for _ in range(190):
        at, size = rng.uniform(-0.05, 1.05, 2) * [w, h], h * 0.15 * rng.uniform(0.15, 1) ** 2
        tone = rng.uniform(0.86, 1.08)
        colour = np.clip(chalk * tone * [1, 1, rng.uniform(0.88, 1)], 0, 255)
        turn = np.linspace(0, 2 * np.pi, 40)
        rim = size * (1 + 0.22 * np.sin(turn * rng.integers(3, 8) + rng.uniform(0, 6)) + rng.normal(0, 0.07, 40))
        splash = at + np.stack([rim * np.cos(turn), rim * np.sin(turn)], 1)
        cv2.fillPoly(picture, [splash.astype(np.int32)], colour.tolist(), cv2.LINE_AA)
        cv2.polylines(picture, [splash.astype(np.int32)], True, (colour * 0.93).tolist(), 2, cv2.LINE_AA)
        for _ in range(int(rng.integers(0, 7))):  # it runs down
            top = at + np.array([rng.uniform(-0.7, 0.7) * size, 0])
            foot = top + rng.uniform(0.5, 3.5) * size * np.array([np.sin(down), np.cos(down)])
            wide = max(1, int(size * rng.uniform(0.1, 0.35)))
            cv2.line(picture, top.astype(int).tolist(), foot.astype(int).tolist(), colour.tolist(), wide, cv2.LINE_AA)
            cv2.circle(picture, foot.astype(int).tolist(), int(0.7 * wide), colour.tolist(), -1, cv2.LINE_AA)
        if rng.random() < 0.28:
            core = np.array([[84, 86, 52], [44, 40, 34], [120, 104, 62]])[rng.integers(3)] * rng.uniform(0.8, 1.2)
            for _ in range(int(rng.integers(2, 7))):
                place = (at + rng.normal(0, 0.4 * size, 2)).astype(int).tolist()
                axes = (int(size * rng.uniform(0.15, 0.5)) + 1, int(size * rng.uniform(0.1, 0.25)) + 1)
                cv2.ellipse(picture, place, axes, float(rng.uniform(0, 180)), 0, 360, core.tolist(), -1, cv2.LINE_AA)
    grain = 1 + 0.2 * relief(0.6 * field(rng, h, w, w / 8) + 1.5 * field(rng, h, w, 25), 0.8, 1.5)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.6) * grain[..., None], np.float32)


def _modelling_clay(rng: Rng, h: int, w: int) -> F32:
    """Draw modelling clay: two or three colours kneaded into bands, pressed flat, with nail marks and smooth dents."""
    y, x = np.indices((h, w), np.float32)
    colours = np.array([[205, 60, 55], [240, 200, 60], [60, 140, 85], [65, 110, 185], [235, 225, 210], [120, 75, 140]])
    few = rng.permutation(colours)[: int(rng.integers(2, 4))]
    u, v = x / w + 0.1 * field(rng, h, w, 3), y / w + 0.1 * field(rng, h, w, 3)
    turn = rng.uniform(0, np.pi)
    band = 2.2 * (u * np.cos(turn) + v * np.sin(turn)) + 0.12 * field(rng, h, w, 12)
    place = (band * len(few)) % len(few)
    share = (
        np.stack(
            [
                np.clip(1.3 - 2.2 * np.abs((place - k + len(few) / 2) % len(few) - len(few) / 2), 0, 1) ** 0.5
                for k in range(len(few))
            ],
            -1,
        )
        + 1e-3
    )
    mixed = (share / share.sum(-1, keepdims=True)) @ few
    height = 6 * field(rng, h, w, 4) + 0.5 * field(rng, h, w, 20)
    for _ in range(int(rng.integers(4, 9))):  # dents of finger tips
        off = np.hypot((x - rng.uniform(0, w)) * rng.uniform(0.7, 1.1), y - rng.uniform(0, h)) / (0.13 * h)
        height -= 0.035 * h * np.exp(-(off**4))
    for _ in range(int(rng.integers(2, 6))):  # nail marks
        at, bow = rng.uniform(0.05, 0.95, 2) * [w, h], rng.uniform(0.05, 0.09) * h
        way = np.arctan2(y - at[1], x - at[0])
        arc = np.abs(np.hypot(x - at[0], y - at[1]) - bow) + 9 * np.clip(np.cos(way - rng.uniform(0, 6)), 0, None) * bow
        height -= 6 * np.exp(-((arc / 4) ** 2))
    slope = np.tanh(relief(height, rng.uniform(0, 2 * np.pi), 1.8))
    tone = np.clip(0.85 + 0.33 * slope, 0.35, 1.2) + 0.012 * rng.normal(size=(h, w))
    return np.asarray(tone[..., None] * mixed + 22 * np.clip(slope - 0.3, 0, 1)[..., None], np.float32)


def _rubber_glove(rng: Rng, h: int, w: int) -> F32:
    """Draw a rubber glove: smooth rubber with long folds and a soft shine, and the raised pattern of its palm."""
    y, x = np.indices((h, w), np.float32)
    rubbers = np.array([[238, 200, 55], [228, 120, 150], [60, 120, 190], [40, 150, 120], [205, 60, 45], [55, 56, 60]])
    rubber, angle = rubbers[rng.integers(6)], rng.uniform(0, np.pi)
    across = x * np.cos(angle) + y * np.sin(angle) + 0.09 * w * field(rng, h, w, 3)
    folds = sum(
        0.02 * h * rng.uniform(0.5, 1.2) * np.exp(-np.abs(np.sin(np.pi * across / length + rng.uniform(0, 3))) * 5)
        for length in rng.uniform(0.25, 0.7, 3) * w
    )
    pitch = rng.uniform(0.045, 0.07) * h
    u, v = (x + 0.58 * y) / pitch, (x - 0.58 * y) / pitch
    stud = np.maximum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)) * 2
    palm = 1 / (1 + np.exp(-6 * (field(rng, h, w, 2) + rng.uniform(-0.4, 0.9))))
    raised = 3.2 * palm / (1 + np.exp(14 * (stud - 0.72)))
    slope = np.tanh(1.1 * relief(folds + raised + 0.25 * field(rng, h, w, 30), rng.uniform(0, 2 * np.pi), 1.6))
    shine = 60 * np.exp(-(((slope - 0.5) / 0.22) ** 2)) + 16 * np.exp(
        -((((x - y) / w - rng.uniform(-0.5, 0.7)) / 0.2) ** 2)
    )
    tone = np.clip(0.8 + 0.36 * slope + 0.04 * field(rng, h, w, 4), 0.2, 1.15)
    picture = tone[..., None] * rubber + shine[..., None]
    for k in range(int(rng.integers(0, 4))):  # gaps between fingers
        off = np.abs(x - (k + rng.uniform(0.6, 0.9)) * w / 4 + 0.03 * w * np.sin(3 * y / h + k))
        gap = np.exp(-((off / (0.014 * w * np.clip(3 * (0.55 - y / h), 0.01, 1))) ** 2)) * (y < 0.55 * h)
        picture *= (1 - 0.85 * gap)[..., None]
    return np.asarray(picture, np.float32)


def _shipping_label(rng: Rng, h: int, w: int) -> F32:
    """Draw a shipping label: thermal paper with bar codes, words and figures, scuffed, with air bubbles below."""
    page = canvas(h, w, [238, 238, 234])
    ink = [float(rng.uniform(25, 70))] * 3
    top = -int(rng.uniform(0, 0.25) * h)
    while top < h:
        tall, kind = int(rng.uniform(0.14, 0.32) * h), rng.random()
        if kind < 0.45:
            left, right = int(rng.uniform(0.02, 0.2) * w), int(rng.uniform(0.7, 1.0) * w)
            unit, at = int(rng.integers(2, 5)), left
            while at < right:
                wide = unit * int(rng.integers(1, 4))
                cv2.rectangle(page, (at, top + 8), (at + wide - 1, top + int(0.78 * tall)), ink, -1)
                at += wide + unit * int(rng.integers(1, 4))
            figures = "".join(rng.choice(list("0123456789 "), 22))
            cv2.putText(page, figures, (left, top + int(0.95 * tall)), 0, tall / 190, ink, 2, cv2.LINE_AA)
        elif kind < 0.6:
            cv2.rectangle(page, (int(0.03 * w), top + 6), (int(0.24 * w), top + tall - 6), ink, -1)
            letter = str(rng.choice(list("ABCEXP1237")))
            cv2.putText(page, letter, (int(0.08 * w), top + int(0.8 * tall)), 2, tall / 38, [238] * 3, 6, cv2.LINE_AA)
            words = "".join(rng.choice(list("ABEKLNORST-0123"), 8))
            cv2.putText(page, words, (int(0.28 * w), top + int(0.75 * tall)), 2, tall / 45, ink, 5, cv2.LINE_AA)
        else:
            for line in range(int(rng.integers(2, 6))):
                words = "".join(rng.choice(list("abdeghiklmnorstu .,-0123"), 30))
                start = (int(rng.choice([0.03, 0.5]) * w), top + int((0.18 + 0.18 * line) * tall))
                cv2.putText(page, words, start, 0, tall / 300 + 0.25, ink, 2, cv2.LINE_AA)
        top += tall
        cv2.line(page, (0, top), (w, top), ink, int(rng.integers(2, 6)))
    height = 0.5 * field(rng, h, w, 5)
    y, x = np.indices((h, w), np.float32)
    for size in rng.uniform(0.015, 0.05, 14) * h:  # air below
        off = np.hypot(x - rng.uniform(0, w), y - rng.uniform(0, h)) / size
        height += 3 * np.exp(-(off**2))
    light = 0.97 + 0.3 * relief(height, rng.uniform(0, 2 * np.pi), 2.5) + 0.02 * field(rng, h, w, 3)
    scuffs = np.clip(field(rng, max(h // 8, 8), w, 60) - 1.3, 0, 1)
    scuffed = 90 * cv2.resize(scuffs, (w, h)) * (page[..., 0] < 120)
    picture = light[..., None] * page + scuffed[..., None]
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7), np.float32)


def _egg(rng: Rng, h: int, w: int) -> F32:
    """Draw a thrown egg: yolk that runs down, cloudy white with bubbles and strings, and pieces of shell."""
    run = field(rng, h, w, 3) + 0.25 * field(rng, h, w, 9) + 0.5 * cv2.resize(field(rng, max(h // 6, 8), w, 12), (w, h))
    yolk = (1 / (1 + np.exp(-5 * (run - rng.uniform(-0.7, 0.2)))))[..., None]
    strings = np.exp(-np.abs(field(rng, h, w, 5) + 0.4 * field(rng, h, w, 12)) * 7)
    slime = (168 + 14 * field(rng, h, w, 4) + 30 * strings)[..., None] * np.array([1, 0.98, 0.88])
    deep = np.clip(0.9 + 0.12 * field(rng, h, w, 4), 0.6, 1.1)[..., None]
    orange = deep * colour_between(rng, [226, 140, 22], [246, 190, 60])
    height = 9 * yolk[..., 0] + 2 * field(rng, h, w, 7) + 2 * strings
    slope = np.tanh(relief(height, rng.uniform(0, 2 * np.pi), 3))
    picture = slime * (1 - yolk) + orange * yolk
    wet = canvas(
        h, w, picture * (0.96 + 0.2 * slope)[..., None] + 95 * np.exp(-(((slope - 0.42) / 0.1) ** 2))[..., None]
    )
    for size in 2 + 9 * rng.uniform(0, 1, 130) ** 4:  # bubbles
        at = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        tone = wet[at[1], at[0]].astype(float)
        cv2.circle(wet, at, int(size), np.clip(tone * 0.82, 0, 255).tolist(), 1, cv2.LINE_AA)
        cv2.circle(wet, (at[0] - int(size / 3), at[1] - int(size / 3)), 1, [255, 255, 250], -1, cv2.LINE_AA)
    shell = np.array([[206, 152, 116], [236, 228, 214]])[rng.integers(2)]
    for _ in range(int(rng.integers(7, 16))):
        at, size = rng.uniform(0, 1, 2) * [w, h], rng.uniform(0.02, 0.1) * h
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 8))))
        piece = at + size * rng.uniform(0.6, 1.2, (len(turn), 1)) * np.stack([np.cos(turn), np.sin(turn)], 1)
        cv2.fillPoly(wet, [(piece + np.array([3, 6])).astype(np.int32)], (shell * 0.35).tolist(), cv2.LINE_AA)
        tone = np.clip(shell * rng.uniform(0.8, 1.08), 0, 255)
        cv2.fillPoly(wet, [piece.astype(np.int32)], tone.tolist(), cv2.LINE_AA)
        cv2.polylines(wet, [piece.astype(np.int32)], True, [244, 240, 232], 2, cv2.LINE_AA)
    return np.asarray(wet.astype(np.float32) + 2 * rng.normal(size=(h, w, 1)), np.float32)


FIFTH_MATERIALS: Final[dict[str, Material]] = {
    "envelope": Material(_envelope),
    "rolled paint": Material(_rolled_paint, edge="spray"),
    "gauze bandage": Material(_gauze),
    "felt pad": Material(_felt),
    "foil lid": Material(_foil_lid),
    "cap": Material(_cap),
    "toothpaste": Material(_toothpaste, edge="lumps"),
    "builder's foam": Material(_builders_foam, edge="lumps"),
    "cobweb": Material(_cobweb, clear=0.12, edge="lumps"),
    "bird droppings": Material(_droppings, edge="lumps"),
    "modelling clay": Material(_modelling_clay, edge="lumps"),
    "rubber glove": Material(_rubber_glove),
    "shipping label": Material(_shipping_label),
    "broken egg": Material(_egg, clear=0.08, edge="lumps"),
}

"""The fourth group's materials: each draws (h, w, 3) in grey levels, at twice the film's size."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from support.unseen.film import Material, Rng, canvas, colour_between, field

from engines.arrays import F32


def _denim(rng: Rng, h: int, w: int) -> F32:
    """Draw the denim of a jacket: blue twill with white flecks, worn folds, and seams with two rows of stitches."""
    y, x = np.indices((h, w), np.float32)
    warp = np.repeat(rng.normal(0, 0.09, w // 3 + 1), 3)[:w] + 0.05 * rng.normal(size=(h, w))
    fleck = np.clip(np.sin(2 * np.pi * (x + y) / rng.uniform(4.5, 7)) + 0.5 * rng.normal(size=(h, w)), 0, 1) ** 2
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle) + 0.06 * w * field(rng, h, w, 3)
    folds = np.sin(2 * np.pi * along / (rng.uniform(0.25, 0.6) * w)) + 0.4 * field(rng, h, w, 6)
    worn = np.clip(0.35 * folds + 0.2 * field(rng, h, w, 40), 0, 1)
    tone = 0.9 + 0.16 * np.gradient(folds, axis=1) * w / 20 + warp
    white = (0.15 + 0.4 * fleck + 0.5 * worn)[..., None]
    picture = (colour_between(rng, [28, 38, 66], [72, 100, 146]) * (1 - white) + 190 * white) * tone[..., None]
    for angle in rng.choice([0.0, np.pi / 2, 0.35, -0.5], int(rng.integers(1, 3)), replace=False):
        across = (y - rng.uniform(0.2, 0.8) * h) * np.cos(angle) - (x - rng.uniform(0.2, 0.8) * w) * np.sin(angle)
        length, half = x * np.cos(angle) + y * np.sin(angle), 0.035 * h
        picture *= (1 - 0.35 * np.exp(-(((across - half - 5) / 5) ** 2)) + 0.1 * (np.abs(across) < half))[..., None]
        puckers = 0.22 * np.sin(length / 7 + 3 * field(rng, h, w, 9)) * np.exp(-((across / (1.6 * half)) ** 2))
        picture *= (1 + puckers)[..., None]
        stitch = (np.abs(np.abs(across) - 0.65 * half) < 1.7) & (length % 15 < 11)
        picture[stitch] = [205, 140, 60]
    for _ in range(int(rng.integers(0, 3))):  # rivets
        ring = np.hypot(x - rng.uniform(0, w), y - rng.uniform(0, h)) / (0.035 * h)
        picture[ring < 1] = np.array([190, 120, 80]) * (0.6 + 0.5 * np.cos(7 * ring[ring < 1]))[:, None]
    return np.asarray(picture, np.float32)


def _quilted(rng: Rng, h: int, w: int) -> F32:
    """Draw a quilted jacket: stuffed bands between stitched lines, with small wrinkles and a shine on each band."""
    y, x = np.indices((h, w), np.float32)
    pitch = rng.uniform(0.2, 0.42) * h
    row = (y + 0.05 * h * field(rng, h, w, 2) + 0.015 * h * field(rng, h, w, 9)) / pitch
    across = row % 1
    round_ = np.sqrt(np.clip(1 - (2 * across - 1) ** 2, 0, 1))
    near_line = np.exp(-np.minimum(across, 1 - across) / 0.16)
    wrinkles = np.zeros((h, w), np.float32)
    for cells in (14, 26):
        stretched = cv2.resize(field(rng, max(h // 6, 8), w, cells), (w, h), interpolation=cv2.INTER_CUBIC)
        wrinkles += stretched * near_line + 0.25 * field(rng, h, w, cells)
    height = cv2.GaussianBlur(pitch * 0.5 * round_ + 0.03 * h * wrinkles, (0, 0), 1.6)
    slope = np.gradient(height, axis=0) + rng.choice([-1, 1]) * 0.6 * np.gradient(height, axis=1)
    tone = np.clip(0.75 - 0.24 * slope, 0.12, 1.3)
    shine = np.exp(-(((slope + rng.uniform(0.5, 0.9)) / 0.22) ** 2))
    colour = np.array([[24, 26, 32], [150, 28, 34], [36, 62, 120], [196, 160, 40], [70, 84, 60], [150, 140, 150]])
    picture = tone[..., None] * colour[rng.integers(len(colour))] + 85 * shine[..., None]
    thread = (np.minimum(across, 1 - across) * pitch < 1.6) & (x % 9 < 6)
    picture[thread] *= 0.45
    if rng.random() < 0.4:  # a zip, with a flap beside it
        off = x - rng.uniform(0.2, 0.8) * w
        picture[np.abs(off) < 11] = 45 + 25 * (np.abs(off[np.abs(off) < 11]) > 4)[:, None]
        teeth = (np.abs(off) < 5) & ((y + 4 * np.sign(off)) % 8 < 4)
        picture[teeth] = [185, 180, 165]
    return np.asarray(picture + 2 * rng.normal(size=(h, w, 1)), np.float32)


def _flag(rng: Rng, h: int, w: int) -> F32:
    """Draw a flag that the wind has wrapped over the lens: three bands, some with a disc or a cross, in deep folds."""
    y, x = np.indices((h, w), np.float32)
    colours = rng.permutation(
        np.array([[200, 30, 45], [240, 238, 232], [25, 60, 140], [20, 130, 70], [245, 200, 40], [25, 24, 26]])
    )
    angle, length = rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.45) * w
    phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle) + 0.08 * w * field(rng, h, w, 2)) / length
    folds = np.sin(phase) + 0.35 * np.sin(2.3 * phase + 2 * field(rng, h, w, 2))
    u, v = x + 0.08 * length * np.cos(phase), y + 0.09 * h * folds
    along, total = (v, h) if rng.random() < 0.5 else (u, w)
    band = np.clip((along / total * 1.1 + rng.uniform(-0.3, 0.2)) * 3, 0, 2).astype(int)
    picture = colours[band].astype(np.float32)
    kind = rng.random()
    if kind < 0.35:
        picture[np.hypot(u - 0.5 * w, v - 0.5 * h) < rng.uniform(0.18, 0.3) * h] = colours[3]
    elif kind < 0.7:
        cross = np.minimum(np.abs(u - rng.uniform(0.3, 0.6) * w), np.abs(v - 0.5 * h))
        picture[cross < 0.11 * h], picture[cross < 0.06 * h] = colours[3], colours[4]
    weave = 0.03 * np.sin(1.6 * u) * np.sin(1.6 * v) + 0.02 * rng.normal(size=(h, w))
    light = 0.8 + 0.3 * np.cos(phase + 0.6) + 0.12 * field(rng, h, w, 6) + weave
    light -= 0.3 * np.clip(folds - 0.9, 0, 1)
    return np.asarray(picture * np.clip(light, 0.2, 1.15)[..., None], np.float32)


def _mop(rng: Rng, h: int, w: int) -> F32:
    """Draw a mop pressed on the lens: thick wet cords of cotton, each twisted of two yarns, one over another."""
    cloth = np.array([[205, 200, 188], [150, 148, 140], [120, 150, 185], [190, 168, 130]])[rng.integers(4)]
    picture = canvas(h, w, cloth * 0.2)
    hang, thick = rng.uniform(0, np.pi), rng.uniform(0.045, 0.075) * h
    down, side = np.array([np.cos(hang), np.sin(hang)]), np.array([-np.sin(hang), np.cos(hang)])
    s, reach = np.linspace(-1, 1, 70)[:, None], np.hypot(h, w) / 2
    for depth in np.linspace(0.45, 1.1, 80):
        waves = rng.normal(0, 1, 4)
        bend = 0.05 * w * (waves[0] * np.sin(2 * s + waves[1]) + 0.4 * waves[2] * np.sin(6 * s + 6 * waves[3]))
        start = np.array([w, h]) / 2 + side * rng.uniform(-1, 1) * reach + down * rng.uniform(-0.6, 0.6) * reach
        cord = start + (down + side * rng.normal(0, 0.22)) * s * reach * rng.uniform(0.5, 1.3) + side * bend
        tone = cloth * depth * rng.uniform(0.85, 1.1)
        for part, shade in ((1.25, 0.3), (1.0, 0.65), (0.72, 0.9), (0.35, 1.05)):
            colour = np.clip(tone * shade, 0, 255).tolist()
            cv2.polylines(picture, [cord.astype(np.int32)], False, colour, max(1, int(part * thick)), cv2.LINE_AA)
        fine = np.stack([np.interp(np.arange(0, 69, 0.25), np.arange(70), cord[:, k]) for k in (0, 1)], 1)
        gone = np.r_[0, np.cumsum(np.hypot(*np.diff(fine, axis=0).T))]
        for at in np.interp(np.arange(0, gone[-1], 0.55 * thick), gone, np.arange(len(fine))).astype(int):
            ends = (
                fine[at]
                + 0.48 * thick * np.array([[-0.7], [0.7]]) * down
                + 0.48 * thick * np.array([[-1], [1]]) * side * rng.uniform(0.8, 1.0)
            )
            cv2.line(picture, *ends.astype(int).tolist(), np.clip(tone * 0.5, 0, 255).tolist(), 1, cv2.LINE_AA)
    return np.asarray(picture + 5 * rng.normal(size=(h, w, 1)), np.float32)


def _tissue(rng: Rng, h: int, w: int) -> F32:
    """Draw wet toilet paper: torn sheets in layers, with soaked patches, crumpled ridges and rows of embossed dots."""
    y, x = np.indices((h, w), np.float32)
    white = rng.uniform(190, 235) * np.array([1.0, 0.985, 0.95])
    tone = np.full((h, w), rng.uniform(0.72, 0.85), np.float32)
    for _ in range(int(rng.integers(7, 13))):  # sheets with a torn edge
        angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.95, 2) * [w, h]
        off = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle)
        off += 0.02 * h * field(rng, h, w, 30) + 0.05 * h * field(rng, h, w, 5)
        aside = np.abs((y - at[1]) * np.cos(angle) - (x - at[0]) * np.sin(angle) + 0.04 * h * field(rng, h, w, 9))
        off = np.maximum(off, aside - rng.uniform(0.25, 0.6) * h)
        lies = np.clip(0.5 - off / 2.5, 0, 1)
        tone *= 1 - 0.28 * np.exp(-np.clip(off, 0, None) / (0.025 * h)) * (1 - lies)
        tone += lies * (rng.uniform(0.8, 1.0) - tone) * 0.6
    soaked = 1 / (1 + np.exp(-5 * (field(rng, h, w, 4) + 0.3 * field(rng, h, w, 18) - 0.3)))
    ridges = -np.abs(field(rng, h, w, 9)) - 0.5 * np.abs(field(rng, h, w, 22))
    ridges = cv2.GaussianBlur(ridges, (0, 0), 1.3)
    slope = (np.gradient(ridges, axis=1) + np.gradient(ridges, axis=0)) * w / 40
    pitch = rng.uniform(13, 20)
    dots = np.hypot((x / pitch + 0.5 * (np.round(y / pitch) % 2)) % 1 - 0.5, y / pitch - np.round(y / pitch))
    tone += 0.16 * np.clip(slope, -1.5, 1.5) - 0.09 * np.exp(-((dots / 0.17) ** 2)) * (1 - soaked)
    tone = tone * (1 - 0.3 * soaked)
    wet = 55 * soaked * np.clip(slope - 0.7, 0, 1)
    picture = tone[..., None] * white + wet[..., None] + 4 * rng.normal(size=(h, w, 1))
    return np.asarray(picture, np.float32)


def _comb(rng: Rng, h: int, w: int) -> F32:
    """Draw the comb of a wasps' nest: cells of grey paper, open and dark, or closed by a white cap, or with a larva."""
    y, x = np.indices((h, w), np.float32)
    size = rng.uniform(0.11, 0.2) * h
    p = np.stack([x + 0.12 * size * field(rng, h, w, 8), y + 0.12 * size * field(rng, h, w, 8)], -1) / size
    step = np.array([1, np.sqrt(3)], np.float32)
    first, second = (p % step) - step / 2, ((p - step / 2) % step) - step / 2
    own = np.where((np.square(first).sum(-1) < np.square(second).sum(-1))[..., None], first, second)
    place = np.round((p - own) * np.array([2, 2 / np.sqrt(3)])).astype(int) % 61
    chance = rng.uniform(0, 1, (61, 61))[place[..., 1], place[..., 0]]
    wall = np.maximum(np.abs(own[..., 0]), 0.5 * np.abs(own[..., 0]) + 0.866 * np.abs(own[..., 1])) * 2
    lit = own[..., 0] * np.cos(2.2) + own[..., 1] * np.sin(2.2)
    paper = colour_between(rng, [120, 108, 92], [185, 172, 150])
    fibre = 1 + 0.1 * field(rng, h, w, 45) + 0.08 * np.sin(18 * wall + 4 * field(rng, h, w, 6))
    hollow = np.clip(0.1 + 0.5 * wall**4 + 0.35 * lit, 0.04, 0.9) * (0.7 + 0.6 * chance)
    rim = np.exp(-(((wall - 0.97) / 0.11) ** 2))
    picture = (hollow * (1 - rim) + (0.95 + 0.25 * chance) * rim * fibre)[..., None] * paper
    dome = np.clip(1 - (wall / 0.92) ** 6, 0, 1)[..., None]
    cap = (215 - 60 * wall**2 + 60 * lit)[..., None] * np.array([1, 0.97, 0.88]) * fibre[..., None]
    closed = (chance < rng.uniform(0.1, 0.35))[..., None] * dome
    picture = picture * (1 - closed) + cap * closed
    body = np.hypot(own[..., 0] - 0.05, own[..., 1] * 1.1) / 0.3
    larva = ((chance > 0.8) * np.clip(3 * (1 - body), 0, 1))[..., None]
    grub = (205 * (1.05 - 0.5 * body**2) + 14 * np.sin(26 * own[..., 1]))[..., None] * np.array([1, 0.95, 0.75])
    picture = picture * (1 - larva) + grub * larva
    return np.asarray(picture * (1 + 0.1 * field(rng, h, w, 3))[..., None], np.float32)


def _nest(rng: Rng, h: int, w: int) -> F32:
    """Draw a bird's nest: straws and twigs in all directions, one over another, with tufts of down between."""
    picture = canvas(h, w, [22, 17, 12])
    stalks = np.array([[150, 125, 80], [205, 180, 120], [95, 70, 48], [120, 112, 95], [66, 50, 38]])
    share = rng.dirichlet([2, 2, 2, 1, 1])
    s, ring = np.linspace(0, 1, 16)[:, None], rng.uniform(0.2, 0.8, 2) * [w, h]
    for depth in np.linspace(0.3, 1.15, 620):
        at = rng.uniform(-0.1, 1.1, 2) * [w, h]
        about = np.arctan2(*(at - ring)[::-1]) + np.pi / 2 + rng.normal(0, 0.75)  # they lie about the hollow
        length, curve = rng.uniform(0.2, 1.0) * h, rng.normal(0, 0.6)
        way = np.hstack([np.cos(about + curve * s), np.sin(about + curve * s)])
        stalk = at + np.cumsum(way, axis=0) * length / len(s)
        thick = int(rng.choice([1, 2, 3, 5, 7], p=[0.25, 0.3, 0.25, 0.14, 0.06]))
        colour = stalks[rng.choice(5, p=share)] * depth * rng.uniform(0.8, 1.2)
        for shift, wide, shade in ((thick, thick, 0.25), (0, thick, 1.0), (-0.25 * thick, thick // 3, 1.25)):
            if wide:
                ink = np.clip(colour * shade, 0, 255).tolist()
                cv2.polylines(picture, [(stalk + shift).astype(np.int32)], False, ink, wide, cv2.LINE_AA)
        if rng.random() < 0.03:  # down
            for turn in rng.uniform(0, 2 * np.pi, 60):
                tip = at + rng.uniform(0.03, 0.09) * h * np.array([np.cos(turn), np.sin(turn)])
                grey = [float(rng.uniform(170, 240) * min(depth, 1))] * 3
                cv2.line(picture, at.astype(int).tolist(), tip.astype(int).tolist(), grey, 1, cv2.LINE_AA)
    return picture.astype(np.float32)


def _moth(rng: Rng, h: int, w: int) -> F32:
    """Draw a moth that sits on the lens: wings with scales, wavy bands, veins and eye spots, and a furry body."""
    y, x = np.indices((h, w), np.float32)
    turn, head = rng.uniform(-0.5, 0.5), np.array([rng.uniform(0.3, 0.7) * w, -rng.uniform(0.0, 0.3) * h])
    dx, dy = x - head[0], y - head[1]
    across, along = np.abs(dx * np.cos(turn) + dy * np.sin(turn)), dy * np.cos(turn) - dx * np.sin(turn)
    far, angle = np.hypot(across, along) / h, np.arctan2(across, along)
    greys = [([70, 58, 46], [176, 156, 128]), ([58, 60, 62], [196, 194, 188]), ([94, 62, 34], [214, 168, 104])]
    dark, light = map(np.array, [*greys, ([44, 52, 36], [158, 166, 120])][rng.integers(4)])
    wavy = far + 0.03 * np.sin(9 * angle + rng.uniform(0, 6)) + 0.012 * np.sin(31 * angle) + 0.02 * field(rng, h, w, 9)
    bands = np.cumsum(rng.uniform(0.08, 0.22, 12))
    tones = np.clip(np.where(np.arange(13) % 2, 0.25, 0.75) + rng.normal(0, 0.18, 13), 0, 1)
    place = np.searchsorted(bands, wavy)
    mix = tones[place] + 0.12 * field(rng, h, w, 14) + 0.1 * rng.normal(size=(h, w))
    scales = 0.09 * np.sin(far * h / 1.6 + 3 * field(rng, h, w, 60)) + 0.12 * rng.normal(size=(h, w))
    near = np.abs(wavy[..., None] - bands).min(-1)
    mix = (mix + scales) * (1 - 0.55 * np.exp(-((near / 0.012) ** 2)))
    vein = np.abs((angle * 5) % 1 - 0.5) * far
    mix -= 0.2 * np.exp(-((vein / 0.012) ** 2))
    mix = cv2.GaussianBlur(np.clip(mix, 0, 1).astype(np.float32), (0, 0), 0.8)[..., None]
    picture = dark * (1 - mix) + light * mix
    spot = np.hypot(across - rng.uniform(0.3, 0.6) * h, along - rng.uniform(0.5, 0.9) * h) / (
        rng.uniform(0.06, 0.11) * h
    )
    for size, colour in ((1.0, dark * 0.4), (0.8, light * 1.1), (0.55, dark * 0.3), (0.2, np.array([235, 232, 225]))):
        picture[spot + 0.05 * rng.normal(size=(h, w)) < size] = np.clip(colour, 0, 255)
    stout = 0.11 * h * np.clip(1.25 - along / (1.1 * h), 0.1, 1)
    hair = cv2.blur(rng.normal(size=(h, w)).astype(np.float32), (1, 9))
    body = np.clip((stout - across) / 4 + 2 * hair, 0, 1)[..., None]
    hairs = 0.75 + 0.5 * hair + 0.18 * np.sin(along / (0.03 * h)) - 0.35 * np.minimum(across / stout, 1.2) ** 2
    return np.asarray(picture * (1 - body) + body * hairs[..., None] * (dark + 0.4 * light), np.float32)


def _sand(rng: Rng, h: int, w: int) -> F32:
    """Draw sand that the wind blew on a wet lens: grains of several colours on lumps and ripples."""
    y, x = np.indices((h, w), np.float32)
    base = colour_between(rng, [120, 95, 66], [205, 176, 132])
    angle = rng.uniform(0, np.pi)
    across = x * np.cos(angle) + y * np.sin(angle) + 0.05 * w * field(rng, h, w, 4)
    height = 0.8 * np.sin(2 * np.pi * across / (rng.uniform(0.08, 0.2) * w)) * np.clip(0.5 + field(rng, h, w, 2), 0, 1)
    height += field(rng, h, w, 6) + 0.4 * field(rng, h, w, 20)
    slope = cv2.GaussianBlur(np.gradient(height, axis=1) + np.gradient(height, axis=0), (0, 0), 2)
    tone = np.clip(0.9 - 0.15 * slope * w / 30, 0.45, 1.2)
    grains = np.zeros((h, w, 3), np.float32)
    palette = np.array([[1, 1, 1], [0.7, 0.68, 0.66], [1.25, 1.2, 1.15], [0.35, 0.33, 0.33], [1.1, 0.85, 0.65]])
    for coarse in (1, 2, 3):
        shape = (h // coarse + 1, w // coarse + 1)
        chosen = palette[rng.choice(5, shape, p=[0.5, 0.22, 0.14, 0.06, 0.08])].astype(np.float32)
        grains += cv2.resize(chosen, (w + coarse, h + coarse), interpolation=cv2.INTER_NEAREST)[:h, :w] / 3
    grains = cv2.GaussianBlur(grains, (0, 0), 0.7)
    return np.asarray(base * tone[..., None] * (0.35 + 0.65 * grains), np.float32)


def _mortar(rng: Rng, h: int, w: int) -> F32:
    """Draw mortar that a builder threw on and spread: arcs of the trowel with a ridge at each side, pits and grit."""
    y, x = np.indices((h, w), np.float32)
    height = 0.8 * field(rng, h, w, 5) + 0.25 * field(rng, h, w, 16)
    for _ in range(int(rng.integers(5, 10))):
        middle, radius = rng.uniform(-0.5, 1.5, 2) * [w, h], rng.uniform(0.5, 1.6) * h
        off = np.hypot(x - middle[0], y - middle[1]) - radius + 0.01 * h * field(rng, h, w, 12)
        half = rng.uniform(0.06, 0.15) * h
        sweep = np.cos(np.arctan2(y - middle[1], x - middle[0]) - rng.uniform(0, 2 * np.pi)) > rng.uniform(-0.2, 0.6)
        inside = np.clip((half - np.abs(off)) / 4, 0, 1) * sweep
        scratches = 0.1 * np.interp(off, np.linspace(-half, half, 60), rng.normal(0, 1, 60))
        height = height * (1 - inside) + inside * (0.4 * height + scratches)
        height += 0.7 * np.exp(-(((np.abs(off) - half) / 5) ** 2)) * sweep
    height = cv2.GaussianBlur(height.astype(np.float32), (0, 0), 1.4)
    slope = np.gradient(height, axis=1) * rng.choice([-1, 1]) + np.gradient(height, axis=0)
    grit = cv2.GaussianBlur(rng.normal(size=(h, w)).astype(np.float32), (0, 0), 0.9)
    tone = np.clip(0.85 - 0.16 * slope * w / 40, 0.35, 1.25) + 0.11 * grit + 0.05 * field(rng, h, w, 3)
    picture = canvas(h, w, tone[..., None] * colour_between(rng, [104, 102, 98], [178, 172, 160]))
    for size in 1 + 6 * rng.uniform(0, 1, 260) ** 5:  # pits
        at = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        axes, turn = (int(1.4 * size) + 1, int(size)), float(rng.uniform(0, 180))
        dark = (picture[at[1], at[0]] * rng.uniform(0.45, 0.7)).tolist()
        cv2.ellipse(picture, at, axes, turn, 0, 360, dark, -1, cv2.LINE_AA)
    return picture.astype(np.float32)


FOURTH_MATERIALS: Final[dict[str, Material]] = {
    "denim": Material(_denim),
    "quilted jacket": Material(_quilted),
    "flag": Material(_flag),
    "mop": Material(_mop),
    "wet tissue": Material(_tissue, edge="lumps"),
    "wasps' comb": Material(_comb),
    "bird's nest": Material(_nest, edge="lumps"),
    "moth": Material(_moth),
    "sand": Material(_sand, edge="spray"),
    "mortar": Material(_mortar, edge="lumps"),
}

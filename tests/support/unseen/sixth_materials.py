"""The sixth group's materials: each draws (h, w, 3) in grey levels, at twice the film's size."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from support.unseen.film import Material, Rng, canvas, colour_between, facets, field, relief

from engines.arrays import F32


def _one_of(rng: Rng, *colours: tuple[int, int, int]) -> Any:
    """Return one of the colours, a little darker or lighter."""
    return np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.08)


def _creases(rng: Rng, h: int, w: int, cells: float) -> F32:
    """Return the height of sharp folds that cross, about 0 to -3, in three scales from `cells` on."""
    return sum(-np.abs(field(rng, h, w, cells * k)) / k**0.7 for k in (1, 2.3, 5))  # type: ignore[return-value]


def _text(rng: Rng, picture: Any, size: float, ink: list[int], at: Any) -> None:
    """Write random letters on a picture: `size` is the height of a capital in pixels."""
    letters = "".join(rng.choice(list("AEIORSTNLMDaeiorstnlmd  "), int(rng.integers(5, 15))))
    cv2.putText(picture, letters, np.int32(at).tolist(), cv2.FONT_HERSHEY_SIMPLEX, size / 21, ink, 1, 16)


def _straw_hat(rng: Rng, h: int, w: int) -> F32:
    """Draw a straw hat: rows of plait about its crown, each over the next, of flat straws that shine, and a ribbon."""
    y, x = np.indices((h, w), np.float32)
    centre, pitch = rng.uniform(-0.1, 1.1, 2) * [w, h], rng.uniform(0.075, 0.12) * h
    dx, dy = (x - centre[0]) * rng.uniform(0.75, 1), y - centre[1]
    row = np.hypot(dx, dy) / pitch + 0.12 * field(rng, h, w, 9)
    number, v = np.floor(row), row % 1
    hashed, reach = rng.uniform(0, 1, 1009), np.maximum(number, 0) + 1
    along = np.arctan2(dy, dx) * reach * 0.9 + 7 * hashed[(number.astype(int) * 13) % 1009]
    u = 1.7 * (along + 0.9 * np.abs(v - 0.5) + 0.05 * field(rng, h, w, 40))  # straws meet in the middle of a row
    straw, s = np.floor(u), u % 1
    which = (straw * 7 + number * 31 + 401 * (v > 0.5)).astype(int)
    shade, fibre = hashed[which % 1009], hashed[(which * 5 + (s * 8).astype(int)) % 1009]
    tone = (0.6 + 0.4 * shade + 0.14 * (fibre - 0.5)) * (1 - 0.55 * (2 * s - 1) ** 6)
    tone *= (1 - 0.28 * np.exp(-(((v - 0.5) / 0.06) ** 2))) * (1 - 0.6 * np.exp(-v / 0.1)) * (1.05 - 0.2 * v)
    tone += 0.22 * np.clip(shade - 0.6, 0, 1) * np.exp(-(((s - 0.4) / 0.18) ** 2))  # gloss
    straws = colour_between(rng, [196, 156, 96], [240, 220, 172])
    picture = tone[..., None] * (straws + 14 * (shade[..., None] - 0.5) * [0.2, 0.6, -1.2])
    if rng.random() < 0.6:
        ribbon, inner = _one_of(rng, (30, 34, 60), (140, 30, 40), (26, 26, 26), (60, 90, 70)), rng.integers(4, 9)
        off = (row - inner - 1.2) / 1.2
        grosgrain = 0.85 + 0.12 * np.sin(along * 26 / reach * inner) - 0.3 * off**4 + 0.1 * field(rng, h, w, 5)
        picture = np.where((np.abs(off) < 1)[..., None], grosgrain[..., None] * ribbon, picture)
        picture *= (1 - 0.4 * np.exp(-np.clip(off - 1, 0, None) * 4) * (off >= 1))[..., None]
    return np.asarray(picture * (1 + 0.08 * field(rng, h, w, 3))[..., None], np.float32)


def _striped_sock(rng: Rng, h: int, w: int) -> F32:
    """Draw a sock that is pulled over the camera: ribs of fine stitches, stripes, pilling, stretched in the middle."""
    y, x = np.indices((h, w), np.float32)
    stretch = np.exp(-(((x / w - rng.uniform(0.3, 0.7)) / 0.4) ** 2 + ((y / h - rng.uniform(0.3, 0.7)) / 0.5) ** 2))
    bow = rng.uniform(-0.15, 0.15) * (x / w - 0.5) ** 2 * h + 0.008 * h * field(rng, h, w, 4)
    wale, course = rng.uniform(7, 11), rng.uniform(5, 7)
    u, v = (x + 0.2 * wale * field(rng, h, w, 8)) / wale, (y + bow) / course
    yarns = rng.uniform(0, 1, (4, 1)) * [190, 190, 190] + rng.uniform(-1, 1, (4, 3)) * 75 + 25
    stripes = np.repeat(yarns.clip(12, 240)[rng.permutation(12) % 4], rng.integers(4, 18, 12), axis=0)
    knit = v + 1.1 * np.abs(u % 1 - 0.5)  # a stitch is a V
    colour = stripes[np.floor(knit).astype(int) % len(stripes)]
    loop = np.sqrt(np.clip(1 - (2 * (knit % 1) - 1) ** 2, 0, 1)) * np.sqrt(np.abs(np.sin(2 * np.pi * u)) + 0.05)
    rib = np.cos(np.pi * u / 2)  # two up, two down
    gap = np.clip(-rib, 0, 1) ** 2 * (0.35 + 0.35 * stretch)
    tone = (0.5 + 0.5 * loop) * (1 + 0.16 * rib) * (1 - gap) * (1 + 0.1 * field(rng, h, w, 4))
    fluff = np.clip(field(rng, h, w, w / 5) + 0.8 * field(rng, h, w, 30) - 1.7, 0, 1)[..., None]
    picture = tone[..., None] * colour * (1 - 0.5 * fluff) + 0.5 * fluff * (colour * 0.6 + 80)
    return np.asarray(picture + 4 * rng.normal(size=(h, w, 1)), np.float32)


def _street_map(rng: Rng, h: int, w: int) -> F32:
    """Draw a folded street map: parks, a river, roads with their names, folds with worn corners, and wrinkles."""
    page, s = canvas(h, w, [222, 215, 198]), np.linspace(-0.1, 1.1, 30)
    for kind in rng.permutation(3 * [[206, 222, 176], [226, 214, 202], [170, 206, 228], [236, 222, 190]]):
        turn = np.sort(rng.uniform(0, 2 * np.pi, 9))
        shape = rng.uniform(0.08, 0.25) * h * rng.uniform(0.6, 1.3, (9, 1)) * np.c_[np.cos(turn), np.sin(turn)]
        cv2.fillPoly(page, [(rng.uniform(0, 1, 2) * [w, h] + shape).astype(np.int32)], kind.tolist(), 16)
    grid, step = rng.uniform(0, np.pi / 2), rng.uniform(0.07, 0.11) * h
    roads = [(grid + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.03), 3, [246, 246, 240]) for _ in range(70)]
    large = [(rng.uniform(0, np.pi), wide, tint) for wide, tint in 3 * [(6, [250, 226, 120]), (8, [240, 160, 90])]]
    river = [(rng.uniform(0, np.pi), int(rng.uniform(0.05, 0.1) * h), [158, 198, 226])]
    for layer in (river, roads, large):
        lines = []
        for angle, wide, tint in layer:
            at = np.round(rng.uniform(-4, 4, 2) * h / step) * step * 0.35 + [w / 2, h / 2]
            bend = 0.03 * h * np.sin(s * rng.uniform(3, 9) + rng.uniform(0, 6)) * (wide > 3)
            far = (s - 0.5) * rng.choice([0.5, 1, 2.2]) * w
            line = far[:, None] * [np.cos(angle), np.sin(angle)] + bend[:, None] * [-np.sin(angle), np.cos(angle)]
            lines.append(((at + line).astype(np.int32), wide, tint))
        for border, dark in ((2, 0.72), (0, 1.0)):  # the borders of all first, so that roads join
            for line, wide, tint in lines:
                cv2.polylines(page, [line], False, (dark * np.array(tint)).tolist(), wide + border, 16)
    for size in rng.choice([5, 6, 7, 11], 26, p=[0.4, 0.3, 0.2, 0.1]):
        ink = [[60, 60, 64], [160, 40, 60], [50, 90, 150]][rng.integers(3)]
        _text(rng, page, size, ink, rng.uniform(-0.05, 0.95, 2) * [w, h])
    y, x = np.indices((h, w), np.float32)
    light, worn = 1 + 0.04 * field(rng, h, w, 3), np.zeros((h, w), np.float32)
    for part, side, pitch in ((x, w, rng.uniform(0.24, 0.4) * w), (y, h, rng.uniform(0.4, 0.7) * h)):
        off = (part - rng.uniform(0.1, 0.5) * side + 2 * field(rng, h, w, 3)) / pitch + 50.5
        near = off % 1 - 0.5
        light += 0.13 * np.sign(np.floor(off) % 2 - 0.5) * np.tanh(near * 40) * np.exp(-np.abs(near) * 5)
        worn += np.exp(-np.abs(near) * pitch / 2.2)
    light += 0.05 * np.tanh(relief(5 * _creases(rng, h, w, 4), rng.uniform(0, 6), 1.2))
    bare = np.clip(worn * (0.5 + 0.5 * field(rng, h, w, 50)) + 1.6 * (worn > 1.2) - 0.25, 0, 0.8)[..., None]
    return np.asarray((page * (1 - bare) + bare * 236) * light[..., None], np.float32)


def _printed_carton(rng: Rng, h: int, w: int) -> F32:
    """Draw a carton of cereals: a large print, a bowl, a table of nutrients, a crease that has lost its ink, gloss."""
    y, x = np.indices((h, w), np.float32)
    top, low, accent = (_one_of(rng, (230, 60, 40), (250, 200, 40), (40, 90, 180), (60, 150, 80)) for _ in range(3))
    fade = np.clip(y / h + 0.3 * (x / w - 0.5), 0, 1)[..., None]
    rays = np.sin(np.arctan2(y - 0.8 * h, x - 0.4 * w) * 18 + rng.uniform(0, 6)) > 0.3
    page = canvas(h, w, top * (1 - fade) + (0.6 * low + 0.4 * top) * fade + 16 * rays[..., None])
    bowl, size = np.array([rng.uniform(0.25, 0.5) * w, rng.uniform(0.65, 0.95) * h]), rng.uniform(0.3, 0.42) * h
    for part, tone in ((1.0, [225, 228, 232]), (0.93, [190, 196, 206]), (0.88, [250, 246, 236])):
        axes = (int(1.3 * part * size), int(0.7 * part * size))
        cv2.ellipse(page, bowl.astype(int).tolist(), axes, 0, 0, 360, tone, -1, 16)
    for turn in rng.uniform(0, 2 * np.pi, 90):  # rings of cereals in milk
        at = bowl + rng.uniform(0, 0.8) ** 0.6 * size * np.array([1.2 * np.cos(turn), 0.6 * np.sin(turn)])
        axes, askew = tuple((rng.uniform(0.018, 0.034, 2) * h).astype(int).tolist()), float(rng.uniform(0, 180))
        for shift, dark in ((3, 0.45), (0, rng.uniform(0.7, 1.1))):
            tone = (dark * np.array([206, 150, 76])).tolist()
            cv2.ellipse(page, (at + shift).astype(int).tolist(), axes, askew, 0, 360, tone, 5, 16)
    word, place = str(rng.choice(["Crispo", "Flakes", "HONEY", "Nutty"])), (int(0.06 * w), int(0.42 * h))
    for shift, ink in ((5, [250, 248, 240]), (0, (accent * 0.6).tolist())):
        cv2.putText(page, word, (place[0] + shift, place[1] + shift), 3, h / 95, ink, 3, 16)
    left = int(rng.uniform(0.68, 0.8) * w)
    page[:, left:] = np.clip(0.35 * page[:, left:] + 0.65 * low, 0, 255)
    cv2.rectangle(page, (left + 14, int(0.12 * h)), (w + 9, int(0.72 * h)), [246, 246, 240], -1)
    for line in (np.arange(0.16, 0.72, 0.045) * h).astype(int).tolist():
        _text(rng, page, 6.5, [40, 40, 44], (left + 20, line))
        cv2.line(page, (left + 16, line + 3), (w, line + 3), [130, 130, 130], 1)
    dots = 1 + 0.05 * np.sin(x * 1.6) * np.sin(y * 1.6) + 0.02 * rng.normal(size=(h, w))
    bare = np.clip(np.exp(-(((x - left) / 3) ** 2)) * (0.6 + 0.6 * field(rng, h, w, 30)), 0, 0.75)[..., None]
    light = np.where(x < left, 1.04, 0.82) + 0.05 * np.tanh(relief(4 * _creases(rng, h, w, 3), 1, 2))
    gloss = 55 * np.exp(-((((x + 0.4 * y) / w - rng.uniform(0.1, 0.9) + 0.03 * field(rng, h, w, 3)) / 0.1) ** 2))
    return np.asarray(page * (dots * light)[..., None] * (1 - bare) + bare * 174 + gloss[..., None], np.float32)


def _sawdust(rng: Rng, h: int, w: int) -> F32:
    """Draw sawdust that sticks to a greasy lens: fine grains in heaps, and splinters."""
    wood = colour_between(rng, [170, 118, 70], [238, 206, 156])
    heaps = 5 * field(rng, h, w, 5) + 2.2 * field(rng, h, w, w / 9) + 1.6 * field(rng, h, w, w / 4)
    light = np.clip(0.8 + 0.3 * np.tanh(0.7 * relief(heaps, 0.8, 0.8)) + 0.05 * field(rng, h, w, 4), 0.2, 1.2)
    grains = cv2.GaussianBlur(rng.normal(1, 0.34, (h, w, 1)) + rng.normal(0, 0.06, (h, w, 3)), (0, 0), 0.9)
    picture = canvas(h, w, light[..., None] * (0.5 + 0.5 * grains) * wood)
    for size in np.sort(rng.pareto(2.2, 1500) * 0.006 + 0.006).clip(0, 0.06) * h:  # splinters lie on the grains
        at, turn = rng.uniform(0, 1, 2) * [w, h], rng.uniform(0, np.pi)
        way, aside = size * np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        half = aside * size * rng.uniform(0.15, 0.45)
        chip = np.array([at - way - half, at - way + half, at + 0.9 * way + half, at + way - 0.6 * half])
        tone = wood * rng.normal(0.95, 0.16) * [1, rng.uniform(0.93, 1.02), rng.uniform(0.82, 1.02)]
        cv2.fillPoly(picture, [np.int32(chip + np.array([1, 0.3 * size + 1]))], (wood * 0.38).tolist(), 16)
        cv2.fillPoly(picture, [chip.astype(np.int32)], tone.clip(20, 250).tolist(), 16)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7), np.float32)


def _soap_suds(rng: Rng, h: int, w: int) -> F32:
    """Draw suds of washing-up liquid on the lens: fine foam, and bubbles with rims, glints and films of colour."""
    milk = rng.uniform(165, 200) * (1 + 0.07 * field(rng, h, w, 4) + 0.03 * field(rng, h, w, w / 4))
    picture = np.repeat(milk[..., None], 3, axis=2).astype(np.float32)
    for size in np.sort((0.016 * rng.uniform(0, 1, 1300) ** -0.5).clip(0, rng.uniform(0.1, 0.2)) * h)[::-1]:
        at, reach = rng.uniform(-0.03, 1.03, 2) * [w, h], int(size) + 3
        left, top = np.maximum(at.astype(int) - reach, 0)
        part = picture[top : max(int(at[1]) + reach, 0), left : max(int(at[0]) + reach, 0)]
        y, x = np.indices(part.shape[:2], np.float32)
        u, v = (x + left - at[0]) / size, (y + top - at[1]) / size
        off, shade = np.hypot(u, v), rng.normal(-12, 10) - 14 * min(1, size / 30)
        tone = shade + 62 * np.exp(-(((off - 0.95) / (1.5 / size + 0.04)) ** 2))
        tone -= 26 * np.exp(-(((off - 0.72) / 0.16) ** 2))
        for aside, wide, bright in ((-0.42, 0.16, 75), (0.48, 0.22, 24)):  # the window, and its image on the far side
            tone += bright * np.exp(-((np.hypot(u - aside, 0.8 * (v - aside)) / wide) ** 4))
        film = (5 * v + 2 * u * v + rng.uniform(0, 6))[..., None] * [1.0, 1.2, 1.45]
        hue = np.cos(film) * np.clip(size / 3 - 3, 0, 14)
        alpha = np.clip((1 - off) * size + 0.5, 0, 1)[..., None]
        part += alpha * (milk[top:, left:][: len(y), : y.shape[1], None] + tone[..., None] + hue - part)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.8), np.float32)


def _crisp_packet(rng: Rng, h: int, w: int) -> F32:
    """Draw a packet of crisps: metallised film with a print, crushed, and the crimped seal at its end."""
    y, x = np.indices((h, w), np.float32)
    ground = _one_of(rng, (200, 30, 36), (30, 130, 70), (24, 70, 160), (236, 150, 20), (120, 40, 120))
    page, other = canvas(h, w, ground), (255 - ground).clip(30, 235).tolist()
    cv2.ellipse(page, (w // 2, h // 2), (int(0.42 * w), int(0.3 * h)), -12, 0, 360, other, -1, 16)
    word, at = str(rng.choice(["CRISPS", "Paprika", "Salted", "CHEESE"])), (int(0.16 * w), int(0.6 * h))
    cv2.putText(page, word, at, cv2.FONT_HERSHEY_TRIPLEX, w / 210, [250, 248, 235], 3, 16)
    seal = rng.uniform(-0.1, 0.22) * h + 3 * field(rng, h, w, 3)
    bare = ((y < seal) | (y > 0.96 * h))[..., None]  # the seal shows the metal
    colour = np.where(bare, np.array([176.0, 178, 182]), page)
    crimp = 1.2 * np.sin(2 * np.pi * y / 7) * bare[..., 0]
    bend = 14 * np.sin(x / w * rng.uniform(4, 9) + rng.uniform(0, 6)) * np.exp(-np.abs(y - seal) / (0.4 * h))
    crushed = rng.uniform(4, 8) * _creases(rng, h, w, 7)
    slope, other = (relief(crimp + bend + crushed, rng.uniform(0, 6.3), 0.9) for _ in range(2))
    patch, *_ = facets(rng, h, w, 90)
    tilt = cv2.GaussianBlur(rng.normal(0, 1, patch.max() + 1)[patch].astype(np.float32), (0, 0), 1.2)
    room = np.sin(0.9 * slope + 0.8 * tilt + 0.9 * field(rng, h, w, 2) + rng.uniform(0, 6)) + 0.3 * np.sin(3 * other)
    picture = np.clip(0.72 + 0.36 * room, 0.1, 1.4)[..., None] * colour
    picture += (150 * np.clip(room - 0.72, 0, 1) + 18 * np.clip(other, 0, 1))[..., None] * [1, 1, 1.02]
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.6), np.float32)


def _moss(rng: Rng, h: int, w: int) -> F32:
    """Draw moss: cushions of small pointed leaves, bright at their tips, brown where it is dry."""
    high = field(rng, h, w, 6) + 0.5 * field(rng, h, w, 14)
    dry = 1 / (1 + np.exp(-4 * (field(rng, h, w, 4) - rng.uniform(0.3, 1.4))))
    picture = canvas(h, w, [26, 30, 16])
    rows, columns = rng.integers(0, h, 3200), rng.integers(0, w, 3200)
    for number in np.argsort(high[rows, columns]):  # the highest lie on top
        row, column = int(rows[number]), int(columns[number])
        lit = np.clip(0.7 + 0.22 * high[row, column] + rng.normal(0, 0.12), 0.2, 1.3)
        leaf = lit * (np.array([112, 142, 44]) + dry[row, column] * np.array([38, -24, 20]))
        size, start = rng.uniform(0.012, 0.028) * h, rng.uniform(0, 2 * np.pi)
        for turn in start + np.arange(int(rng.integers(5, 8))) * rng.uniform(0.9, 1.2):
            tip = np.array([column, row]) + size * rng.uniform(0.7, 1.2) * np.array([np.cos(turn), np.sin(turn)])
            cv2.line(picture, (column, row), tip.astype(int).tolist(), (leaf * rng.uniform(0.7, 1.15)).tolist(), 2, 16)
        cv2.circle(picture, (column, row), 1, (leaf * 1.35).clip(0, 255).tolist(), -1, 16)
    soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    return np.asarray(soft * (1 + 0.1 * field(rng, h, w, 3))[..., None], np.float32)


def _bin_liner(rng: Rng, h: int, w: int) -> F32:
    """Draw a bin liner: dark thin plastic, drawn into folds, whose edges shine in the light of the sky."""
    y, x = np.indices((h, w), np.float32)
    plastic = _one_of(rng, (20, 20, 22), (26, 32, 52), (44, 46, 48), (24, 48, 36))
    knot, height = rng.uniform(-0.3, 1.3, 2) * [w, h], 5 * _creases(rng, h, w, 3)
    turn = np.arctan2(y - knot[1], x - knot[0]) + 0.1 * field(rng, h, w, 3)
    far = np.hypot(y - knot[1], x - knot[0]) / w
    drawn, place = field(rng, 16, 4096, 90), np.float32((turn + 3.3) / 6.6 * 4000)
    fold = cv2.remap(drawn, place, np.float32(np.clip(far, 0, 1) * 15), cv2.INTER_LINEAR)  # they run to the knot
    height = height + 24 * (0.25 + far) * fold + 2.2 * _creases(rng, h, w, 12)
    slope, other = (relief(height, rng.uniform(0, 6.3), 1.3) for _ in range(2))
    sky = np.exp(-(((slope - 0.8) / 0.35) ** 2)) + 0.6 * np.exp(-(((other - 1.2) / 0.2) ** 2))
    sky += 0.16 * np.clip(1 + np.tanh(slope), 0, 2) * (1 + 0.4 * field(rng, h, w, 3))
    broken = np.clip(0.75 + 0.4 * field(rng, h, w, 30), 0, 1.3)
    picture = plastic * (1 + 0.25 * np.tanh(other))[..., None] + (rng.uniform(70, 150) * sky * broken)[..., None]
    return np.asarray(picture * [0.98, 1, 1.03] + 1.5 * rng.normal(size=(h, w, 1)), np.float32)


def _face_mask(rng: Rng, h: int, w: int) -> F32:
    """Draw a surgical mask: pale fleece with points of its calender, three pleats, a seam with welds, and a loop."""
    y, x = np.indices((h, w), np.float32)
    fleece = _one_of(rng, (164, 200, 222), (226, 232, 232), (52, 54, 58), (232, 190, 204))
    sag = 0.05 * h * field(rng, h, w, 2) + rng.uniform(-0.2, 0.2) * (x / w - 0.5) ** 2 * h
    fibre = cv2.resize(field(rng, h, w // 6, w / 14), (w, h)) + field(rng, h, w, w / 5)
    tone = 0.93 + 0.014 * fibre + 0.015 * field(rng, h, w, 12) + 0.015 * rng.normal(size=(h, w))
    u, v = np.stack([x + y + sag, x - y - sag]) / rng.uniform(6, 9)
    tone -= 0.1 * np.exp(-((np.hypot(u % 1 - 0.5, v % 1 - 0.5) / 0.25) ** 2))
    for at in (np.arange(3) * rng.uniform(0.2, 0.26) + rng.uniform(0.2, 0.35)) * h:  # pleats
        off = y + sag - at + 1.5 * field(rng, h, w, 9)
        tone += 0.09 * np.exp(-np.clip(-off, 0, None) / (0.03 * h)) * (off < 0)
        tone -= 0.34 * np.exp(-np.clip(off, 0, None) / (0.02 * h)) * (off >= 0)
        tone -= 0.1 * np.exp(-(((off - 20) / 16) ** 2))
    tone += 0.06 * np.tanh(relief(7 * field(rng, h, w, 5) + 4 * _creases(rng, h, w, 5), rng.uniform(0, 6.3), 2))
    side = w * rng.choice([0.08, 0.92]) + 0.15 * sag
    weld = np.exp(-(((np.abs(x - side) - 5) / 2) ** 2)) * ((y + 0.3 * x) % 9 < 5)
    tone -= 0.16 * weld + 0.1 * np.exp(-(((x - side) / 9) ** 2))
    picture = canvas(h, w, tone[..., None] * fleece)
    loop = np.linspace(0, np.pi, 40)[:, None] + [np.pi / 2, 0]
    curve = rng.uniform([0.3, 0], [0.7, 0.2]) * [w, h] + np.sin(loop) * rng.uniform(0.3, 0.6, 2) * [w, h]
    for shift, tone in ((5, (fleece * 0.72).tolist()), (0, [236, 236, 234])):
        cv2.polylines(picture, [np.int32(curve + shift)], False, tone, 6, 16)
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.7), np.float32)


def _safety_vest(rng: Rng, h: int, w: int) -> F32:
    """Draw a safety vest: knitted mesh in a fluorescent colour, folded, with dirty tape that shines, and its seams."""
    y, x = np.indices((h, w), np.float32)
    dye, pitch = _one_of(rng, (206, 240, 40), (255, 120, 30), (255, 90, 60)), rng.uniform(7, 11)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.1)
    folds = 0.05 * h * field(rng, h, w, 3) - 12 * np.abs(field(rng, h, w, 2.5)) - 5 * np.abs(field(rng, h, w, 5))
    u, v = (x + 0.3 * folds) / pitch, (y + 0.3 * folds) / (0.8 * pitch)
    hole = np.hypot((u + 0.5 * (np.floor(v) % 2)) % 1 - 0.5, (v % 1 - 0.5) * 0.9)
    mesh = 1 - 0.62 * np.exp(-((hole / 0.27) ** 4)) + 0.06 * rng.normal(size=(h, w))
    light = 0.88 + 0.24 * np.tanh(relief(folds, rng.uniform(0, 6.3), 3)) + 0.04 * field(rng, h, w, 3)
    picture = (light * mesh)[..., None] * dye
    across = (y - h / 2) * np.cos(angle) - (x - w / 2) * np.sin(angle) + 0.4 * folds
    along = (x - w / 2) * np.cos(angle) + (y - h / 2) * np.sin(angle)
    wide = rng.uniform(0.09, 0.15) * h
    for at in rng.uniform(-0.2, 0.1) * h + np.arange(-1, 2) * rng.uniform(0.45, 0.7) * h:
        off = np.abs(across - at)
        prism = 0.06 * np.sin(along * 1.1) * np.sin(across * 1.1 + along * 0.6)
        prism -= 0.06 * np.clip(field(rng, h, w, 5) + field(rng, h, w, w / 6), 0, 2)  # dirt
        tape = (0.72 + 0.35 * np.tanh(relief(folds, rng.uniform(0, 6.3), 4)) + prism)[..., None]
        picture *= (1 - 0.3 * np.exp(-np.clip(off - wide, 0, None) / 4))[..., None]
        picture = np.where((off < wide)[..., None], tape * [206, 208, 212], picture)
        picture *= (1 - 0.45 * np.exp(-(((off - 0.88 * wide) / 1.6) ** 2)) * (along % 10 < 7))[..., None]  # a seam
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.7), np.float32)


_BEE: Final = (
    (-0.35, 0, 1.1, 0.52, (18, 13, 9)),
    *(
        (-1.2 + 0.2 * k, 0, 0.16, half, ((52, 34, 13), (206, 138, 52))[k % 2])
        for k, half in enumerate((0.14, 0.28, 0.38, 0.44, 0.46, 0.44))
    ),
    (0.18, 0, 0.36, 0.38, (132, 98, 54)),
    (0.22, 0.06, 0.2, 0.2, (96, 70, 40)),
    (0.66, 0, 0.16, 0.27, (44, 34, 26)),
    *((-0.5, side, 0.66, 0.19, (168, 158, 140)) for side in (-0.34, 0.34)),
)
"""A bee's shadow, bands, back, head and wings: place along and across, half axes, colour."""


def _bee_swarm(rng: Rng, h: int, w: int) -> F32:
    """Draw a swarm of bees that sits on the camera: bodies over bodies, with bands, furry backs and wings."""
    picture, flow = canvas(h, w, [40, 30, 20]), 2 * field(rng, h, w, 3)
    for depth in np.linspace(0.4, 1.15, 430):  # the last lie on top
        at, size = rng.uniform(0, 0.999, 2) * [w, h], rng.uniform(0.07, 0.085) * h
        turn, lit = flow[int(at[1]), int(at[0])] + rng.normal(0, 0.7), depth * rng.uniform(0.75, 1.1)
        axis = size * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        for along, off, long, half, tone in _BEE:
            middle, sides = np.int32(at + [along, off] @ axis).tolist(), np.int32([size * long, size * half]).tolist()
            colour, wing = (lit * np.array(tone)).clip(0, 255).tolist(), abs(off) > 0.3
            shown = float(np.degrees(turn) + 16 * np.sign(off) * wing)
            below = picture.copy() if wing else picture
            cv2.ellipse(picture, middle, sides, shown, 0, 360, colour, -1, 16)
            if wing:  # one sees the body through it
                picture = cv2.addWeighted(picture, 0.32, below, 0.68, 0)
                cv2.ellipse(picture, middle, sides, shown, 0, 360, colour, 1, 16)
    hair = (1 + 0.12 * rng.normal(size=(h, w, 1))) * (1 + 0.1 * field(rng, h, w, 3))[..., None]
    return np.asarray(cv2.GaussianBlur(picture * hair, (0, 0), 0.8), np.float32)


SIXTH_MATERIALS: Final[dict[str, Material]] = {
    "straw hat": Material(_straw_hat),
    "striped sock": Material(_striped_sock),
    "street map": Material(_street_map),
    "printed carton": Material(_printed_carton),
    "sawdust": Material(_sawdust, edge="spray"),
    "soap suds": Material(_soap_suds, clear=0.08, edge="lumps"),
    "crisp packet": Material(_crisp_packet),
    "moss": Material(_moss, edge="lumps"),
    "bin liner": Material(_bin_liner),
    "face mask": Material(_face_mask),
    "safety vest": Material(_safety_vest),
    "bee swarm": Material(_bee_swarm, edge="lumps"),
}

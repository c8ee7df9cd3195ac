"""The third group's materials: each draws (h, w, 3) in grey levels, at twice the film's size."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from support.unseen.film import Material, Rng, canvas, colour_between, field

from engines.arrays import F32


def _notes(rng: Rng, h: int, w: int) -> F32:
    """Draw sticky notes, one over another: each with a scribble, a shadow, and a lower edge that curls up."""
    colours = np.array([[250, 232, 110], [250, 150, 175], [150, 220, 130], [130, 200, 240], [250, 180, 90]])
    picture, side = canvas(h, w, colours[0] * 0.8).astype(np.float32), int(rng.uniform(0.4, 0.7) * h)
    few = rng.choice(len(colours), int(rng.integers(1, 4)), replace=False)
    text = ("call Ann 16:30", "milk, bread", "back at 3 !", "ask Tom first", "room 204", "do not touch")
    curl = 1 - 0.22 * np.exp(-np.linspace(0, 7, side)) + 0.1 * np.exp(-np.linspace(9, 0, side))
    for y in np.arange(-0.3 * side, h, 0.62 * side):
        for x in np.arange(-0.4 * side, w, 0.68 * side):
            note = canvas(side, side, colours[rng.choice(few)] * rng.uniform(0.88, 1.02))
            for line in range(int(rng.integers(1, 5))):
                at = (int(0.06 * side), int((0.26 + 0.19 * line) * side))
                font = cv2.FONT_HERSHEY_SCRIPT_SIMPLEX
                cv2.putText(note, str(rng.choice(text)), at, font, side / 230, [35, 40, 95], 2, cv2.LINE_AA)
            turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.normal(0, 8)), 1)
            turn[:, 2] += [x + rng.normal(0, 0.06 * side), y + rng.normal(0, 0.06 * side)]
            lid = cv2.warpAffine(note * curl[:, None, None], turn, (w, h))
            mask = cv2.warpAffine(np.ones((side, side), np.float32), turn, (w, h))
            turn[:, 2] += [0.01 * side, 0.04 * side]
            dark = cv2.blur(cv2.warpAffine(np.ones((side, side), np.float32), turn, (w, h)), (9, 9))[..., None]
            picture = picture * (1 - 0.4 * dark) * (1 - mask[..., None]) + lid * mask[..., None]
    return np.asarray(picture, np.float32)


def _plaster(rng: Rng, h: int, w: int) -> F32:
    """Draw sticking plasters: a weave with rows of holes, a raised pad without holes, and another strip over it."""
    y, x = np.indices((h, w), np.float32)
    skin = colour_between(rng, [165, 112, 80], [232, 186, 150])
    picture = np.ones((h, w, 3)) * skin
    pitch = rng.uniform(0.045, 0.075) * h
    for angle, top in (
        (rng.normal(0, 0.2), -h),
        (rng.choice([-1, 1]) * rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.6) * h),
    ):
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        weave = 0.04 * np.sin(along * 1.5) * np.sin(across * 1.5) + 0.02 * rng.normal(size=(h, w))
        row = np.round(across / pitch)
        hole = np.hypot((along / pitch + 0.5 * (row % 2)) % 1 - 0.5, across / pitch - row)
        tone = 1 + weave + 0.05 * field(rng, h, w, 4)
        pad = np.clip((np.abs(along - rng.uniform(0.3, 0.7) * w) / w - rng.uniform(0.1, 0.2)) * 25, -1, 1)
        punched = np.exp(-((hole / 0.2) ** 4)) * (pad > 0.2)
        tone = (tone + 0.08 * (1 - pad**2) * np.sign(along - 0.5 * w) + 0.04 * (pad < 0)) * (1 - 0.5 * punched)
        lies = across > top
        picture *= 1 - 0.35 * np.exp(-(np.clip(top - across, 0, None) / (0.03 * h)))[..., None] * ~lies[..., None]
        picture[lies] = tone[lies][:, None] * skin
    return np.asarray(picture, np.float32)


def _gum(rng: Rng, h: int, w: int) -> F32:
    """Draw chewed gum: smooth lumps with a wet shine, dents, and the ridges of the thumb that pressed it on."""
    y, x = np.indices((h, w), np.float32)
    lumps = field(rng, h, w, 5) + 0.35 * field(rng, h, w, 13)
    for _ in range(int(rng.integers(3, 8))):  # dents of teeth
        off = np.hypot((x - rng.uniform(0, w)) / rng.uniform(1, 2), y - rng.uniform(0, h)) / (0.09 * h)
        lumps = lumps - 0.9 * np.exp(-(off**2))
    ring = np.hypot((x - rng.uniform(0.2, 0.8) * w) * 0.7, y - rng.uniform(0.2, 0.8) * h) + 4 * field(rng, h, w, 3)
    thumb = np.exp(-((ring / (0.3 * h)) ** 4))
    lumps = cv2.GaussianBlur(lumps + 0.06 * thumb * np.sin(2 * np.pi * ring / (0.025 * h)), (0, 0), 1.5)
    slope = (np.gradient(lumps, axis=1) * 0.7 + np.gradient(lumps, axis=0)) * w / 60
    colour = rng.choice([[225, 140, 155], [205, 205, 190], [165, 205, 185], [190, 165, 160]])
    shine = 70 * np.exp(-(((slope + rng.uniform(0.4, 0.7)) / 0.2) ** 2))
    picture = np.clip(0.85 - 0.3 * slope, 0.35, 1.2)[..., None] * colour + shine[..., None]
    return np.asarray(picture + 3 * rng.normal(size=(h, w, 1)), np.float32)


def _foam(rng: Rng, h: int, w: int) -> F32:
    """Draw shaving foam: white heaps with soft shadows, and bubbles of all sizes."""
    height = 0.06 * field(rng, h, w, 40)
    for hills in (4, 9, 18):  # heaps with round tops and narrow dents
        height -= 3 / hills * np.exp(-np.abs(field(rng, h, w, hills)) * 2)
    height = cv2.GaussianBlur(height, (0, 0), 2.5)
    slope = np.gradient(height, axis=1) * rng.choice([-1, 1]) + np.gradient(height, axis=0)
    shade = np.clip(0.1 + 0.1 * slope * w / 20, 0, 0.45)[..., None]
    picture = canvas(h, w, rng.uniform(225, 250) * (1 - shade * np.array([1, 0.9, 0.75])))
    for size in 1 + 8 * rng.uniform(0, 1, 900) ** 8:
        at = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        tone = np.clip(picture[at[1], at[0]] * rng.uniform(0.72, 0.9), 0, 255).tolist()
        cv2.circle(picture, at, int(size) + 1, tone, 1, cv2.LINE_AA)
        cv2.circle(picture, (at[0] - 1, at[1] - 1), int(size / 3), [255, 255, 255], -1, cv2.LINE_AA)
    return np.asarray(picture + 3 * rng.normal(size=(h, w, 1)), np.float32)


def _plumage(rng: Rng, h: int, w: int) -> F32:
    """Draw a bird's breast or back: rows of feathers, each with a shaft, barbs and a fringe, over the row below."""
    birds = [([140, 145, 155], [95, 100, 112]), ([125, 92, 62], [205, 175, 130]), ([238, 236, 230], [200, 200, 200])]
    base, fringe = map(np.array, [*birds, ([34, 36, 44], [62, 66, 84])][rng.integers(4)])
    picture, size = canvas(h, w, base * 0.5), rng.uniform(0.11, 0.22) * h
    lean = rng.normal(0, 0.35)
    down, side = np.array([np.sin(lean), np.cos(lean)]), np.array([np.cos(lean), -np.sin(lean)])
    reach = np.hypot(h, w) / 2
    for row in np.arange(reach, -reach, -0.8 * size):
        for column in np.arange(-reach, reach, 0.85 * size):
            shift = column + (0.42 * size if round(row / (0.8 * size)) % 2 else 0)
            at = np.array([w, h]) / 2 + down * row + side * shift + rng.normal(0, 0.13 * size, 2)
            angle = float(np.degrees(np.arctan2(down[1], down[0])) + rng.normal(0, 11))
            axes, tone = np.array([1.7, 0.6]) * size, rng.uniform(0.75, 1.15)
            middle = at.astype(int).tolist()
            for part, colour in ((1, base * 0.7), (0.95, fringe * tone), (0.75, base * tone)):
                cv2.ellipse(
                    picture, middle, (axes * part).astype(int).tolist(), angle, 0, 360, colour.tolist(), -1, cv2.LINE_AA
                )
            way = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
            for k in np.linspace(-0.9, 0.9, 26):
                root = at + way * k * axes[0]
                for turn in (-0.7, 0.7):
                    barb = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ way
                    tip = root + barb * axes[1] * rng.uniform(0.9, 1.25) * np.sqrt(1 - k**2)
                    ink = (base if k < 0.6 else fringe) * tone * rng.uniform(0.75, 1.08)
                    cv2.line(picture, root.astype(int).tolist(), tip.astype(int).tolist(), ink.tolist(), 1, cv2.LINE_AA)
            ends = (at + way * axes[0] * np.array([[-0.9], [0.9]])).astype(int).tolist()
            cv2.line(picture, *ends, (base * tone * 0.65).tolist(), 1, cv2.LINE_AA)
    shade = 1 + 0.12 * field(rng, h, w, 3)[..., None]
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8) * shade, np.float32)


def _fur(rng: Rng, h: int, w: int) -> F32:
    """Draw an animal's coat: thousands of hairs along one bent direction, in bands of two colours."""
    coats = [([60, 48, 36], [175, 145, 105]), ([150, 85, 35], [235, 185, 125]), ([20, 19, 20], [70, 66, 64])]
    dark, light = map(np.array, [*coats, ([150, 146, 140], [245, 242, 236])][rng.integers(4)])
    stripes = np.sin(2 * np.pi * np.linspace(0, 1, w) * rng.uniform(1.5, 4) + 1.5 * field(rng, h, w, 4)) + 0.6 * field(
        rng, h, w, 5
    )
    band = 1 / (1 + np.exp(-2.5 * stripes))
    bend, clump = rng.uniform(0, 2 * np.pi) + 0.35 * field(rng, h, w, 3), 0.3 * field(rng, h, w, 14)
    picture = canvas(h, w, dark * 0.5)
    s, long = np.linspace(0, 1, 5)[:, None], rng.uniform(0.07, 0.16) * h
    for layer in np.linspace(0.55, 1.05, 5):  # deep hairs are darker
        for row, column in (rng.uniform(0, 1, (1300, 2)) * [h, w]).astype(int):
            angle = bend[row, column] + clump[row, column] + rng.normal(0, 0.12)
            curl = rng.normal(0, 0.25)
            way = np.hstack([np.cos(angle + curl * s), np.sin(angle + curl * s)])
            hair = [column, row] + long * rng.uniform(0.6, 1.2) * s * way
            mix = np.clip(band[row, column] + rng.normal(0, 0.15), 0, 1)
            colour = (dark * (1 - mix) + light * mix) * layer * rng.uniform(0.75, 1.1)
            cv2.polylines(picture, [hair.astype(np.int32)], False, np.clip(colour, 0, 255).tolist(), 1, cv2.LINE_AA)
    return picture.astype(np.float32)


def _tarpaulin(rng: Rng, h: int, w: int) -> F32:
    """Draw a coated sheet: a flat weave, the square creases of its package, wrinkles, and a hem with eyelets."""
    y, x = np.indices((h, w), np.float32)
    colour = np.array([[35, 85, 170], [40, 110, 70], [225, 110, 35], [150, 155, 160]])[rng.integers(4)]
    pitch = rng.uniform(5, 9)
    weave = 0.07 * np.sign(np.sin(2 * np.pi * x / pitch) * np.sin(2 * np.pi * y / pitch))
    tone = 0.85 + weave + 0.1 * field(rng, h, w, 2)
    cell = rng.uniform(0.45, 0.8) * h
    for at, length in ((x, w), (y, h)):
        for k, middle in enumerate(np.arange(rng.uniform(0, cell), length, cell)):
            off = at - middle + 2 * field(rng, h, w, 3)
            tone += (-1) ** k * (0.3 * np.tanh(off / 3) * np.exp(-np.abs(off) / (0.12 * h)))
    for _ in range(int(rng.integers(3, 8))):  # wrinkles that run from a pull
        angle, at = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * [w, h]
        off = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle) + 0.03 * h * field(rng, h, w, 3)
        tone += 0.2 * np.tanh(off / 4) * np.exp(-np.abs(off) / (0.05 * h))
    gloss = 60 * np.clip(tone - 1.1, 0, 1)
    picture = tone[..., None] * colour + gloss[..., None]
    if rng.random() < 0.6:
        hem = rng.uniform(0.1, 0.9) * h
        picture[np.abs(y - hem) < 0.07 * h] *= 0.86
        picture[np.abs(np.abs(y - hem) - 0.07 * h) < 1.5] *= 0.6
        for middle in np.arange(rng.uniform(0, 0.5) * h, w, 0.5 * h):
            ring = np.hypot(x - middle, y - hem) / (0.035 * h)
            picture[ring < 1] = [185, 182, 170] * (1 - 0.3 * np.sin(6 * ring[ring < 1]))[:, None]
            picture[ring < 0.5] = 15
    return np.asarray(picture, np.float32)


def _blind(rng: Rng, h: int, w: int) -> F32:
    """Draw a closed blind: slats, each lighter at one edge, with a dark gap between, and the cords that hold them."""
    y, x = np.indices((h, w), np.float32)
    if rng.random() < 0.25:  # slats that hang upright
        y, x = x, y
    pitch, tall = rng.uniform(0.07, 0.17) * h, float(y.max())
    row = (y + 0.15 * pitch * np.sin(x / w * 3 + rng.uniform(0, 6))) / pitch
    number, across = np.floor(row).astype(int) + 1, row % 1
    tones = 1 + 0.05 * rng.normal(size=int(tall / pitch) + 4)
    tone = tones[number] * (0.72 + 0.38 * across - 0.15 * across**6) + 0.04 * field(rng, h, w, 3)
    tone *= 1 - 0.6 * np.exp(-((across / rng.uniform(0.05, 0.1)) ** 2))
    colour = colour_between(rng, [120, 112, 102], [240, 238, 230])
    if rng.random() < 0.3:  # bamboo
        colour, tone = np.array([190, 150, 95]), tone * (1 + 0.05 * np.sin(x * 0.9 + 9 * tones[number] * 40))
    picture = tone[..., None] * colour
    for at in np.arange(rng.uniform(0.05, 0.3), 1.1, rng.uniform(0.35, 0.5)) * x.max():
        cord = np.exp(-(((x - at) / 2.2) ** 2))[..., None]
        picture = picture * (1 - 0.8 * cord) + 0.8 * cord * (225 - 60 * ((y % 8) < 3)[..., None])
    return np.asarray(picture, np.float32)


def _fir(rng: Rng, h: int, w: int) -> F32:
    """Draw twigs of a fir, one over another: a brown stem with dense needles on both sides."""
    picture = canvas(h, w, [12, 20, 14])
    green, hang = colour_between(rng, [28, 70, 38], [80, 125, 95]), rng.uniform(0, 2 * np.pi)
    for depth in np.linspace(0.4, 1.2, 75):
        at, angle = rng.uniform(-0.15, 1.05, 2) * [w, h], hang + rng.normal(0, 0.6)
        long, needle = rng.uniform(0.5, 1.1) * h, rng.uniform(0.08, 0.12) * h
        curve = np.radians(rng.normal(0, 15))
        s = np.linspace(0, 1, 90)
        way = np.stack([np.cos(angle + curve * s), np.sin(angle + curve * s)], 1)
        stem = at + np.cumsum(way, axis=0) * long / len(s)
        cv2.polylines(
            picture, [stem.astype(np.int32)], False, (np.array([95, 68, 45]) * depth).tolist(), 3, cv2.LINE_AA
        )
        for k, (root, part) in enumerate(zip(stem, s, strict=True)):
            spread = (1 if k % 2 else -1) * (0.95 - 0.5 * part) + rng.normal(0, 0.12)
            c, sn = np.cos(spread), np.sin(spread)
            tip = root + np.array([[c, -sn], [sn, c]]) @ way[k] * needle * (1 - 0.4 * part) * rng.uniform(0.8, 1.1)
            tone = np.clip(green * depth * rng.uniform(0.7, 1.35), 0, 255).tolist()
            cv2.line(picture, root.astype(int).tolist(), tip.astype(int).tolist(), tone, 2, cv2.LINE_AA)
    return picture.astype(np.float32)


def _balloon(rng: Rng, h: int, w: int) -> F32:
    """Draw a balloon before the lens, or one before another: smooth, darker at the rim, with a window's reflection."""
    y, x = np.indices((h, w), np.float32)
    colours = np.array([[215, 25, 40], [30, 80, 200], [245, 195, 30], [235, 235, 235], [225, 70, 150], [40, 150, 70]])
    picture = np.zeros((h, w, 3))
    places = [(rng.uniform(0.3, 0.7), 2.0)]
    if rng.random() < 0.5:
        places.append((rng.uniform(-0.1, 1.1), 0.9))
    for (across, size), colour in zip(places, rng.permutation(colours), strict=False):
        middle = np.array([across, rng.uniform(0.35, 0.65)]) * [w, h]
        off = np.hypot(x - middle[0], (y - middle[1]) * 0.9) / (size * 0.5 * w)
        round_ = np.sqrt(np.clip(1 - off**2, 0, 1))
        lit = np.array([rng.uniform(-0.2, 0.2) * w, -rng.uniform(0.05, 0.25) * h]) + middle
        soft = np.exp(-(((x - lit[0]) / (0.35 * w)) ** 2 + ((y - lit[1]) / (0.4 * h)) ** 2))
        dx, dy = (x - lit[0]) / (0.055 * w), (y - lit[1] + 0.02 * w * ((x - lit[0]) / (0.1 * w)) ** 2) / (0.09 * w)
        pane = 1 / (1 + np.exp(8 * (np.maximum(np.abs(dx), np.abs(dy)) - 1)))
        pane *= np.clip(np.abs(dx) * 8, 0, 1)
        body = (0.35 + 0.5 * round_ + 0.25 * soft)[..., None] * colour + (30 * soft + 170 * pane)[..., None]
        alpha = np.clip((1 - off) * 0.5 * size * w / 2, 0, 1)[..., None]
        picture = picture * (1 - alpha) + body * alpha
    return np.asarray(picture + 1.5 * rng.normal(size=(h, w, 1)), np.float32)


THIRD_MATERIALS: Final[dict[str, Material]] = {
    "sticky notes": Material(_notes),
    "sticking plaster": Material(_plaster),
    "chewing gum": Material(_gum, edge="lumps"),
    "shaving foam": Material(_foam, edge="lumps"),
    "plumage": Material(_plumage),
    "fur": Material(_fur),
    "tarpaulin": Material(_tarpaulin),
    "closed blind": Material(_blind),
    "fir twigs": Material(_fir),
    "balloon": Material(_balloon),
}

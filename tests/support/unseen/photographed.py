"""A group whose materials are photographs: those of `materials/` that were held out from training."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from support.unseen.film import Group, Material, Rng

from engines.arrays import F32

LIST: Final = "films.csv"
HELD_OUT: Final = "held-out"
NAME: Final = "photographed"


def photographed_group(folder: Path) -> Group:
    """Return the group of the held-out photographs of `folder`. Raises `SystemExit` that names a wrong line or file.

    The figures count a photograph under the repository from which it comes.
    """
    path, materials = folder / LIST, {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            name, split, repository = (row.get(key) for key in ("path", "split", "repository"))
            if not name or not split or not repository:
                raise SystemExit(f"{path}:{number}: no path, split or repository; the list has these columns")
            if split == HELD_OUT:
                if not (folder / name).is_file():
                    raise SystemExit(f"{folder / name}: no such file; {path}:{number} lists it")
                materials[name] = Material(partial(draw_photograph, folder / name), source=repository)
    if not materials:
        raise SystemExit(f"{path}: no photograph has the split {HELD_OUT!r}")
    return Group(name=NAME, seed=2031, materials=materials, forms={}, covers_per_film=2)


def draw_photograph(path: Path, rng: Rng, h: int, w: int) -> F32:
    """Return a random part of a photograph: (h, w, 3) in grey levels.

    The part has 60 to 100 % of the sides of the largest one of its shape, and is stretched by at most a tenth. Raises
    `SystemExit` if OpenCV can't read the file.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SystemExit(f"{path}: OpenCV reads no picture from it; download it again")
    tall, wide = picture.shape[:2]
    shape = w / h * rng.uniform(0.9, 1.1)
    side = rng.uniform(0.6, 1.0) * min(tall, wide / shape)
    rows, columns = max(1, round(side)), max(1, min(wide, round(side * shape)))
    top, left = int(rng.integers(tall - rows + 1)), int(rng.integers(wide - columns + 1))
    part = picture[top : top + rows, left : left + columns, ::-1]
    smaller = rows > h
    shown = cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return np.asarray(shown, np.float32)

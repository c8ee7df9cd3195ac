"""Write films of two independent events: a lamp that is on, and a walker who crosses the picture. Both, one or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.labelled import write_film, write_list

from engines.arrays import U8

EVENTS = ("lamp", "walker")
COMBINATIONS = ((), ("lamp",), ("walker",), ("lamp", "walker"))


def draw_events(events: tuple[str, ...], seed: int, *, frames: int = 12, height: int = 48, width: int = 64) -> U8:
    """Draw (frames, height, width, 3) uint8 RGB with the events over a background that depends on the seed."""
    rng = np.random.default_rng([seed, 31])
    ground = np.kron(rng.integers(20, 110, (6, 8, 3)), np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
    out = np.repeat(ground[None], frames, axis=0)
    if "lamp" in events:
        x = int(rng.integers(4, width - 24))
        out[:, 2:14, x : x + 20] = (255, 230, 60)
    if "walker" in events:
        row = int(rng.integers(height // 2, height - 14))
        for frame, place in zip(out, np.linspace(0, width - 10, frames), strict=True):
            frame[row : row + 14, int(place) : int(place) + 10] = 245
    return out


def write_events(folder: Path, *, train: int = 5, val: int = 3, test: int = 2) -> Path:
    """Write `folder`/clips.csv and its films: so many of each combination in each split, each its own group."""
    rows = []
    for number, events in enumerate(COMBINATIONS):
        for i in range(train + val + test):
            split = "train" if i < train else "val" if i < train + val else "test"
            name = f"{'-'.join(events) or 'nothing'}_{i}.mp4"
            write_film(folder / name, draw_events(events, 100 * number + i))
            rows.append((name, "; ".join(events), split, name))
    return write_list(folder / "clips.csv", rows)

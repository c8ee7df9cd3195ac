"""Write small sets of labelled clips in the formats of real sets, with classes that models can learn."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from engines.arrays import U8

CLASSES = ("left", "right", "still")


def draw_clip(label: str, seed: int, *, frames: int = 12, height: int = 48, width: int = 64) -> U8:
    """Draw (frames, height, width, 3) uint8 RGB: a bright square moves left, right or not at all over a background."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 120, (6, 8, 3)), np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
    side, top = 12, int(rng.integers(0, height - 12))
    path = {"left": np.linspace(1, 0, frames), "right": np.linspace(0, 1, frames), "still": np.full(frames, 0.5)}[label]
    out = np.repeat(ground[None], frames, axis=0)
    for frame, place in zip(out, path, strict=True):
        x = int(place * (width - side))
        frame[top : top + side, x : x + side] = 255 - rng.integers(0, 20)
    return out


def draw_moving_dot(frames: int = 6, height: int = 60, width: int = 80) -> tuple[U8, npt.NDArray[np.float64]]:
    """Draw a clip with a small bright dot that moves right and down: (F, H, W, 3), and its places (F, 2) as shares."""
    clip = np.full((frames, height, width, 3), 60, np.uint8)
    places = np.stack([np.linspace(0.35, 0.65, frames), np.linspace(0.4, 0.6, frames)], axis=1)
    for frame, (x, y) in zip(clip, places, strict=True):
        column, row = int(x * width), int(y * height)
        frame[row - 1 : row + 2, column - 1 : column + 2] = 250
    return clip, places


def write_film(path: Path, frames: U8, *, fps: int = 10) -> Path:
    """Write frames (F, H, W, 3) as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "12", "x264-params": "threads=1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode(None))
    return path


def write_set(
    folder: Path, *, clips: int = 4, validation: int = 2, classes: Sequence[str] = CLASSES, **drawn: Any
) -> Path:
    """Write clips and `folder`/clips.csv: `clips` for training and `validation` of each class, each its own group."""
    rows = []
    for number, label in enumerate(classes):
        for i in range(clips + validation):
            name = f"{label}/{label}_{i}.mp4"
            write_film(folder / name, draw_clip(label, 100 * number + i, **drawn))
            rows.append((name, label, "train" if i < clips else "val", f"{label}-{i}"))
    return write_list(folder / "clips.csv", rows)


def write_list(path: Path, rows: Sequence[Sequence[str]], header: str = "path,label,split,group") -> Path:
    """Write a CSV list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def write_volumes(path: Path, *, each: int = 3, classes: int = 11, size: int = 28) -> Path:
    """Write a file in MedMNIST's format: volumes with a bright ball whose place depends on the class."""
    rng = np.random.default_rng(4)
    grid = np.stack(np.mgrid[:size, :size, :size]) / size
    arrays = {}
    for split, count in (("train", each), ("val", 1), ("test", 1)):
        labels = np.tile(np.arange(classes, dtype=np.uint8), count)
        images = rng.integers(0, 60, (len(labels), size, size, size), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            centre = np.random.default_rng([int(label), 9]).uniform(0.25, 0.75, 3) + rng.normal(0, 0.02, 3)
            image[np.linalg.norm(grid - centre[:, None, None, None], axis=0) < 0.2] = 220
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path

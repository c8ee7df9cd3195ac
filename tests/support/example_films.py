"""Make small films of one colour with a moving patch: examples for teaching, which `support.bundles` tells apart."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RED, GREEN, BLUE, GREY = (170, 40, 40), (40, 170, 40), (40, 40, 170), (100, 100, 100)


def write_example(
    path: Path, colour: tuple[int, int, int], *, seed: int = 0, seconds: float = 1.2, crf: int = 18, moves: bool = True
) -> Path:
    """Write a film of 64 x 48 pixels at 10 fps: `colour` with noise, and a dark patch whose path depends on `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    ground = np.clip(np.array(colour) + random.integers(-12, 13, 3), 0, 255)
    texture = random.integers(-20, 21, (6, 8, 1)).repeat(8, axis=0).repeat(8, axis=1)
    phase, speed = random.uniform(0, 6), random.uniform(0.2, 0.9)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": str(crf), "x264-params": "threads=1"}
        for number in range(round(10 * seconds)):
            image = np.clip(ground + texture, 0, 255).astype(np.uint8)
            if moves:
                x = round(28 + 26 * np.sin(phase + speed * number))
                image[16:32, x : x + 10] = image[16:32, x : x + 10] // 3
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_examples(
    folder: Path, colours: dict[str, tuple[int, int, int]], *, each: int = 6, first_seed: int = 0
) -> Path:
    """Write `each` films for each label into the subfolders of `folder`."""
    seed = first_seed
    for label, colour in colours.items():
        for number in range(each):
            seed += 1
            write_example(folder / label / f"film{number}.mp4", colour, seed=seed)
    return folder

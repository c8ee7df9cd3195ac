"""Measure what fast decoding saves, and what it changes: both decoders in turn on the same films.

    PYTHONPATH=.:tests python tests/benchmarks/exact_and_fast.py [FILM…] [--rounds 5]

Each film is encoded as cameras do: x264's main profile and x265, no B frames, two seconds between key frames. Without
FILM, the film of `streamclf bench` is encoded. A film is scaled to both sizes, so its details are softer than a
camera's; a little noise makes up for that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from engines.arrays import U8
from streamclf.bench.cameras.film import FilmSpec, render_frames
from streamclf.sources.av_container import AvContainer
from streamclf.sources.decoding import EXACT, WantedDecoding
from streamclf.sources.resize import FrameRenderer

FPS, SECONDS, NOISE = 25, 6, 2.0
X265 = "log-level=none:bframes=0:keyint=50:min-keyint=50:scenecut=0:open-gop=0:pools=none:frame-threads=1"
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "H.264": ("libx264", {"preset": "veryfast", "profile": "main", "bf": "0", "sc_threshold": "0"}),
    "H.265": ("libx265", {"preset": "superfast", "x265-params": X265}),
}
SIZES = ((1280, 720, (1, 2)), (1920, 1080, (2, 4)))
"""Width, height, and Mbit/s of H.264; H.265 gets half of that."""
SHRINKS = (1, 2, 4)
WAYS = {"exact": EXACT, "fast": WantedDecoding("fast")}


def pictures(film: Path | None, width: int, height: int) -> Iterator[U8]:
    """Yield the pictures of a film, at most six seconds of it, as (3 h / 2, w) uint8 planes with noise."""
    random = np.random.default_rng(1)
    if film is None:
        images: Iterator[U8] = render_frames(FilmSpec(width=width, height=height, fps=FPS), SECONDS * FPS)
    else:
        container = av.open(str(film))
        images = (
            frame.reformat(width=width, height=height, format="yuv420p").to_ndarray()
            for frame in container.decode(video=0)
        )
    for image in islice(images, SECONDS * FPS):
        noise = random.normal(0, NOISE, (height, width))
        noisy = image.copy()
        noisy[:height] = np.clip(noisy[:height] + noise, 0, 255)
        yield noisy


def encode(path: Path, images: Iterator[U8], size: tuple[int, int], codec: str, mbit: float) -> None:
    name, options = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(name, rate=FPS)
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 2 * FPS, int(mbit * 1e6)
        stream.options = options
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cost_ms(path: Path, way: str) -> float:
    """Return the processor time of one picture."""
    reader = AvContainer(str(path), shown="film", options={}, low_delay=True)
    reader.set_decoding(WAYS[way])
    began, count = time.process_time(), 0
    for frame in reader.frames():
        assert frame.decoding == way
        count += 1
    spent = time.process_time() - began
    reader.close()
    return 1e3 * spent / count


def differences(path: Path, shrink: int) -> tuple[float, int]:
    """Return the mean and the largest difference of the shrunk pictures, in grey levels of 255."""
    readers = [AvContainer(str(path), shown="film", options={}, low_delay=True) for _ in WAYS]
    for reader, wanted in zip(readers, WAYS.values(), strict=True):
        reader.set_decoding(wanted)
    render, means, largest = FrameRenderer(), [], 0
    for number, pair in enumerate(zip(*(reader.frames() for reader in readers), strict=True)):
        if number % 5 == 0:
            shown = []
            for frame in pair:
                out = np.empty((frame.height // shrink, frame.width // shrink, 3), np.uint8)
                render(frame.oriented, *out.shape[:2], "stretch", out)
                shown.append(out.astype(np.int16))
            difference = np.abs(shown[0] - shown[1])
            means.append(float(difference.mean()))
            largest = max(largest, int(difference.max()))
    return statistics.mean(means), largest


def rows(films: list[Path | None], folder: Path, rounds: int) -> Iterator[str]:
    for film in films:
        for width, height, rates in SIZES:
            images = list(pictures(film, width, height))
            for codec in CODECS:
                for rate in rates:
                    mbit = rate if codec == "H.264" else rate / 2
                    path = folder / "film.mp4"
                    encode(path, iter(images), (width, height), codec, mbit)
                    pairs = [(cost_ms(path, "exact"), cost_ms(path, "fast")) for _ in range(rounds)]
                    exact, fast = (statistics.median(each) for each in zip(*pairs, strict=True))
                    share = statistics.median(b / a for a, b in pairs)
                    changes = " | ".join(
                        f"{mean:.2f}, {most}" for mean, most in (differences(path, shrink) for shrink in SHRINKS)
                    )
                    name = "bench" if film is None else film.stem
                    times = f"{exact:.2f} | {fast:.2f} | {share:.2f}"
                    yield f"| {name} | {codec} {height}p, {mbit:g} | {times} | {changes} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("films", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| film | codec, Mbit/s | exact, ms | fast, ms | share | shrunk by 1 | by 2 | by 4 |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(arguments.films or [None], Path(folder), arguments.rounds):
            print(row, flush=True)


if __name__ == "__main__":
    main()

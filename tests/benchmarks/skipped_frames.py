"""Measure what skipping undecoded frames saves: processor time of a film's chunks with and without skipping, in turn.

    PYTHONPATH=.:tests python tests/benchmarks/skipped_frames.py [--rounds 7]

720p25, the film of `streamclf bench` at 2.3 Mbit/s, two seconds between key frames. The kinds: no B frames, as a camera
sends; two B frames that no frame is predicted from; three B frames with the middle one as a reference (x264's default);
H.265 with the same; MPEG-4 and MPEG-2 with two B frames; and Motion JPEG.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from engines.arrays import U8
from streamclf.bench.cameras.film import BITS_PER_PIXEL, GOP_S, FilmSpec, render_frames
from streamclf.sources.file import FileSource
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.sampling import ChunkMeta, ChunkSampler

SECONDS = 12
SIDE = 224
KINDS = {
    "H.264, no B": ("libx264", {"bf": "0"}),
    "H.264, 2 B": ("libx264", {"bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:threads=1"}),
    "H.264, 3 B, pyramid": ("libx264", {"bf": "3", "x264-params": "b-adapt=0:threads=1"}),
    "H.265, 3 B, pyramid": ("libx265", {"x265-params": "log-level=none:bframes=3:b-adapt=0:pools=none"}),
    "MPEG-4, 2 B": ("mpeg4", {"bf": "2"}),
    "MPEG-2, 2 B": ("mpeg2video", {"bf": "2"}),
    "Motion JPEG": ("mjpeg", {"qmin": "3", "qmax": "3"}),
}


class Sink:
    """A sink that discards its chunks."""

    def __init__(self) -> None:
        self._place = np.empty((1, SIDE, SIDE, 3), np.uint8)
        self.chunks = 0

    def begin(self) -> U8:
        return self._place

    def commit(self, chunk: ChunkMeta) -> int:
        self.chunks += 1
        return self.chunks


def write(path: Path, codec: str, options: dict[str, str], images: list[U8], spec: FilmSpec) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=spec.rate)
        stream.width, stream.height = spec.width, spec.height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = round(GOP_S * spec.fps)
        stream.bit_rate = int(BITS_PER_PIXEL * spec.width * spec.height * spec.fps)
        stream.options = {"preset": "veryfast", **options} if codec.startswith("lib") else options
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cost(path: Path, fps: float, *, skip: bool) -> tuple[float, int, int]:
    """Return (CPU seconds of all threads, frames, skipped frames) for all chunks of the film."""
    sink = Sink()
    sampler = ChunkSampler(fps, 1)
    builder = ChunkBuilder(sampler, sink, height=SIDE, width=SIDE, resize="stretch")
    frames = skipped = 0
    began = time.process_time()
    with FileSource(path) as source:
        if skip:
            source.set_frame_selector(sampler)
        for frame in source:
            builder.push(frame)
            frames += 1
            skipped += frame.skipped
    return time.process_time() - began, frames, skipped


def rows(folder: Path, rounds: int, kinds: list[str]) -> Iterator[str]:
    spec = FilmSpec(width=1280, height=720, fps=25)
    images = [image.copy() for image in render_frames(spec, SECONDS * 25)]
    for name in kinds:
        codec, options = KINDS[name]
        path = folder / "film.mkv"
        write(path, codec, options, images, spec)
        for fps in (5, 10):
            ratios, plain_s, left_out = [], [], 0.0
            for _ in range(rounds):
                plain, count, _ = cost(path, fps, skip=False)
                saving, _, skipped = cost(path, fps, skip=True)
                ratios.append(saving / plain)
                plain_s.append(plain / count)
                left_out = skipped / count
            yield (
                f"| {name} | {fps} | {left_out:.0%} | {1e3 * statistics.median(plain_s):.2f} ms "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    print("| film | model fps | skipped | CPU per frame, all decoded | with skipping |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder), arguments.rounds, arguments.kinds):
            print(row, flush=True)


if __name__ == "__main__":
    main()

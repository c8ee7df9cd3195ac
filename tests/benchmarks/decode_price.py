"""Measure what fast decoding changes in a model's predictions: the same clips decoded exactly and fast.

    PYTHONPATH=.:tests python -m benchmarks.decode_price gestures DATA/gestures/clips.csv --split val
    PYTHONPATH=.:tests python -m benchmarks.decode_price runs/fight DATA/fight/clips.csv --split val --films own h264
    PYTHONPATH=.:tests python -m benchmarks.decode_price camera-events DATA --camera-events

`--films`: `own` reads the films as they are. The others encode them again as a camera would: at 1280x720 or as much of
it as the shape fills, with the noise of a sensor, two seconds between key frames, without B frames. `h264` (main) and
`h265` have 2 Mbit/s, so that the loop filters have work. `mjpeg` is Motion JPEG. `images` writes the pictures as JPEG
files of that size, with quality 90, and reads them as a folder of images: whole, or reduced.

A row: windows, and |dp|, the largest difference of a label's probability in a window (mean, 99th percentile, largest);
clips or windows whose best label changes; accuracy of both. A clip's probabilities are the mean over its windows, as in
`python -m training evaluate`. The accuracy of camera-events is the mean recall over windows
(docs/development/camera-events.md).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import cv2
import numpy as np

from engines.arrays import F32, U8
from engines.bundle import ModelSpec
from streamclf.builtin_models import find_bundle
from streamclf.config.picture_area import PictureArea
from streamclf.sources import Source, open_source
from streamclf.sources.decoding import EXACT, WantedDecoding, shrink_factor
from streamclf.sources.image_file import decode_reduced
from streamclf.sources.resize import Resize, render_bgr
from training.builtin.camera_events import LABELS, benchmark
from training.data.clip_lists import read_rows
from training.data.decode import decode_clip
from training.data.windows import validation_layout
from training.errors import DataError
from training.evaluation.evaluate import EvaluationTarget, open_target

WIDTH, HEIGHT, BIT_RATE, GOP_S, NOISE = 1280, 720, 2_000_000, 2, 3.0
ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"preset": "veryfast", "profile": "main", "bf": "0"}),
    "h265": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0:pools=none"}),
    "mjpeg": ("mjpeg", "yuvj420p", {"qmin": "3", "qmax": "3"}),
}
MODES = ("exact", "fast")


@dataclass
class Price:
    """The predictions of one model on one kind of films, decoded both ways."""

    truth: list[int] = field(default_factory=list)
    means: dict[str, list[F32]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    differences: list[float] = field(default_factory=list)
    shrinks: list[float] = field(default_factory=list)
    films: set[str] = field(default_factory=set)

    def add(self, truth: int, exact: F32, fast: F32) -> None:
        """Add the windows (W, K) of one clip, or one window."""
        self.truth.append(truth)
        self.means["exact"].append(exact.mean(axis=0))
        self.means["fast"].append(fast.mean(axis=0))
        self.differences += np.abs(exact - fast).max(axis=1).tolist()

    def row(self, name: str, *, balanced: bool) -> str:
        """Return a row of the table; `balanced` takes the mean over labels of the accuracy."""
        exact, fast = (np.stack(self.means[mode]).argmax(axis=1) for mode in MODES)
        truth = np.array(self.truth)
        groups = [truth == label for label in np.unique(truth)] if balanced else [np.full(len(truth), True)]
        scores = [100 * np.mean([(found == truth)[group].mean() for group in groups]) for found in (exact, fast)]
        p99 = np.quantile(self.differences, 0.99)
        return (
            f"| {name} | {', '.join(sorted(self.films))} | {statistics.median(self.shrinks):.1f} "
            f"| {len(self.truth)} / {len(self.differences)} "
            f"| {np.mean(self.differences):.4f}, {p99:.4f}, {max(self.differences):.4f} | {int((exact != fast).sum())} "
            f"| {scores[0]:.1f} % | {scores[1]:.1f} % | {scores[1] - scores[0]:+.2f} |"
        )


class Decoding:
    """Open films exactly or fast, and count what they are."""

    def __init__(self, price: Price, target: tuple[int, int], resize: Resize, kind: str) -> None:
        self._price, self._target, self._resize, self._kind = price, target, resize, kind
        self.mode = "exact"

    def open(self, config: Any) -> Source:
        """Take the place of `open_source`."""
        source: Any = open_source(config)
        if self._kind == "images":
            source._render, self._number = self._render_image, 0
            return source
        info = source.info
        shrink = shrink_factor((info.height, info.width), self._target, self._resize)
        source.set_decoding(EXACT if self.mode == "exact" else WantedDecoding("fast", max(1.0, shrink)))
        self._price.shrinks.append(shrink)
        self._price.films.add(info.codec)
        return source

    def _render_image(self, frame: Any, height: int, width: int, resize: Resize, out: U8, area: PictureArea) -> None:
        """Render a frame of the film as a folder of images would, in whose files it is."""
        picture = frame.frame
        scale = min(WIDTH / picture.width, HEIGHT / picture.height)
        columns, rows = (round(side * scale / 16) * 16 for side in (picture.width, picture.height))
        image = picture.reformat(columns, rows, "bgr24", interpolation="BICUBIC").to_ndarray()
        self._number += 1
        noisy = np.clip(image + grain(self._number % 4)[:rows, :columns, None], 0, 255).astype(np.uint8)
        data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        shrink = shrink_factor((rows, columns), self._target, self._resize)
        self._price.shrinks.append(shrink)
        self._price.films.add("jpeg")
        render_bgr(
            decode_reduced(data, 1.0 if self.mode == "exact" else shrink).pixels, height, width, resize, out, area
        )


@functools.cache
def grain(seed: int) -> Any:
    """Return (HEIGHT, WIDTH) float32: the noise of a sensor in one frame."""
    return np.random.default_rng(seed).normal(0, NOISE, (HEIGHT, WIDTH)).astype(np.float32)


def encode(path: Path, folder: Path, kind: str) -> Path:
    """Write the film again as a camera would, with the times of its frames."""
    if kind not in ENCODERS:
        return path
    codec, pixels, options = ENCODERS[kind]
    out = folder / "camera.mkv"
    with av.open(str(path)) as film, av.open(str(out), "w") as container:
        source = film.streams.video[0]
        source.thread_type = "NONE"
        rate = source.average_rate or 25
        scale = min(WIDTH / source.width, HEIGHT / source.height)
        width, height = (round(side * scale / 2) * 2 for side in (source.width, source.height))
        stream: Any = container.add_stream(codec, rate=round(rate))
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, pixels, options
        stream.bit_rate, stream.gop_size = BIT_RATE, round(GOP_S * rate)
        stream.thread_count = 1
        stream.codec_context.time_base = source.time_base
        for number, frame in enumerate(film.decode(source)):
            image = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC").to_ndarray()
            noisy = image[:height] + grain(number % 4)[:height, :width]
            image[:height] = np.clip(noisy, 0, 255).astype(np.uint8)
            again = av.VideoFrame.from_ndarray(image, "yuv420p")
            again = again.reformat(format=pixels) if pixels != "yuv420p" else again
            again.pts, again.time_base = frame.pts, source.time_base
            container.mux(stream.encode(again))
        container.mux(stream.encode(None))
    return out


def clips(target: EvaluationTarget, data: Path, split: str | None, kind: str, every: int) -> Price:
    """Predict the clips of a list, or every so many of them."""
    price, reader = Price(), target.reader
    shape = reader.shape
    rows, folder = read_rows(data, notes=[], multi_label=False, known=reader.labels)
    decoding = Decoding(price, (shape.height, shape.width), reader.resize, kind)
    with tempfile.TemporaryDirectory() as scratch, patch("training.data.decode.open_source", decoding.open):
        for row in [row for row in rows if split is None or row.split == split][::every]:
            found = []
            try:
                path = encode(folder / row.path, Path(scratch), kind)
                for decoding.mode in MODES:
                    frames = decode_clip(path, reader.decode_spec).frames
                    layout = validation_layout(len(frames), shape, reader.windows)
                    chunks = frames[layout.frames].reshape(-1, shape.frames_per_chunk, *frames.shape[1:])
                    found.append(target.predictor.predict_proba(np.ascontiguousarray(chunks), layout.windows))
            except (DataError, av.error.FFmpegError) as error:
                print(f"left out: {error}")
                continue
            price.add(reader.labels.index(row.labels[0]), *found)
    return price


def camera_events(target: EvaluationTarget, spec: ModelSpec, data: Path, kind: str, excerpts: int, every: int) -> Price:
    """Predict the windows of the benchmark's held-out half, or of every `every`th film of it."""
    price = Price()
    decoding = Decoding(price, (spec.height, spec.width), spec.resize, kind)
    windows: Callable[[Path, Any], Iterator[tuple[float, U8]]] = benchmark._windows

    def windows_of_both(path: Path, spec: Any) -> Iterator[tuple[float, U8]]:
        with tempfile.TemporaryDirectory() as scratch:
            encoded, found = encode(path, Path(scratch), kind), []
            for decoding.mode in MODES:
                found.append(list(windows(encoded, spec)))
        for (start_s, exact), (_, fast) in zip(*found, strict=True):
            yield start_s, np.stack([exact, fast])

    held_out = [film for film in benchmark.real_films(data) if film.half == "held-out"]
    fixed = [film for film in held_out if film.path.name not in benchmark.NOT_FIXED]
    rows = np.arange(spec.chunks, dtype=np.int64)[None]
    with (
        patch("streamclf.classifier.offline.open_source", decoding.open),
        patch.object(benchmark, "_windows", windows_of_both),
        patch.object(benchmark, "EXCERPTS_PER_FILM", excerpts),
    ):
        for case in benchmark.cases(fixed[::every], spec, kinds=LABELS):
            exact, fast = (target.predictor.predict_proba(np.ascontiguousarray(part), rows) for part in case.frames)
            price.add(spec.labels.index(case.label), exact, fast)
    return price


def main() -> None:
    """Print a row of the table for each kind of films."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a bundle, by name or folder, or the folder of a run")
    parser.add_argument("data", type=Path, help="a list of clips; with --camera-events the folder of the benchmark")
    parser.add_argument("--split")
    parser.add_argument("--films", nargs="+", choices=("own", *ENCODERS, "images"), default=["own", "h264"])
    parser.add_argument("--every", type=int, default=1, help="take every Nth clip or film")
    parser.add_argument("--camera-events", action="store_true", help="measure as the benchmark of camera-events")
    parser.add_argument("--excerpts", type=int, default=benchmark.EXCERPTS_PER_FILM, help="of each of its long films")
    args = parser.parse_args()
    target = open_target(args.model, windows=None, backend="auto", precision="fp32")
    print(
        "| model, films | codec | shrunk by | clips / windows | dp: mean, p99, max | changed | exact | fast | points |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in args.films:
        if args.camera_events:
            spec = find_bundle(str(args.model)).spec
            price = camera_events(target, spec, args.data, kind, args.excerpts, args.every)
        else:
            price = clips(target, args.data, args.split, kind, args.every)
        print(price.row(f"{target.reader.name.split(' ')[0]}, {kind}", balanced=args.camera_events), flush=True)
    target.close()


if __name__ == "__main__":
    main()

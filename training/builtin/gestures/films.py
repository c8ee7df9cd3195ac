"""Write films of held-out clips as a stream shows them, with the times of the shapes, for `python -m training live`.

Each clip of a shape becomes one film for each of `STYLES`. All films are deterministic.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np

from engines.arrays import U8
from training.builtin.gestures.streams import Footage, Lead, Trail, compose_scene
from training.data.clip_lists import read_rows
from training.data.decode import DecodeSpec, decode_clip
from training.errors import DataError

FPS: Final = 30
HEIGHT, WIDTH = 160, 214
BEFORE_S, AFTER_S = 10.0, 5.0
"""Seconds of a film before and after the shape. Before it, the model's window must be full."""
OTHER: Final = "other"
LIST_NAME: Final = "films.csv"


class Style(NamedTuple):
    """The kind of time before and after a shape. `film`: other film is shown before and after it, with cuts."""

    lead: Lead
    trail: Trail
    film: bool = False


STYLES: Final = {
    "rest": Style("rest", "rest"),
    "hand": Style("enter", "leave"),
    "return": Style("enter", "return"),
    "cut": Style("cut", "cut", film=True),
}


def write_films(clips: Path, output: Path, *, split: str, around: Path | None = None) -> Path:
    """Write films of the shapes in one `split` of the list `clips` into the folder `output`, and return their list.

    `around`: a list of ordinary films, of which those of the same split are shown before and after the shapes in the
    style `cut`, besides the clips of `other`. Raises `DataError`.
    """
    chosen = _in_split(clips, split)
    shapes = [(path, label) for path, label in chosen if label != OTHER]
    if not shapes:
        raise DataError(f"{clips}: no clip of a shape in the split {split!r}; give another --split")
    fillers = [path for path, label in chosen if label == OTHER]
    fillers += [path for path, _ in _in_split(around, split)] if around is not None else []
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
    lines: list[tuple[str, str, str, str]] = []
    for number, (source, label) in enumerate(shapes):
        clip = read_footage(source, label)
        for style_number, (name, style) in enumerate(STYLES.items()):
            if style.film and not fillers:
                continue
            rng = np.random.default_rng([number, style_number])
            frames, first, last = _film(rng, clip, style, fillers)
            path = output / f"{source.stem}-{number:04}-{name}.mp4"  # clips of several folders may have one name
            with _writing(path):
                write_film(path, frames)
            lines.append((path.name, label, f"{first / FPS:.3f}", f"{(last + 1) / FPS:.3f}"))
    listed = output / LIST_NAME
    with _writing(listed), listed.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "start_s", "end_s"), *lines])
    return listed


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give another folder") from error


def _in_split(listed: Path, split: str) -> list[tuple[Path, str]]:
    """Return (path, label) of the films of one split of a list."""
    rows, folder = read_rows(listed)
    return [(folder / row.path, row.label) for row in rows if row.split == split]


def read_footage(path: Path, label: str, *, fps: float = FPS, height: int = HEIGHT, width: int = WIDTH) -> Footage:
    """Decode a clip at `fps`. Raises `DataError`."""
    spec = DecodeSpec(fps=fps, frames_per_chunk=1, steps=1, height=height, width=width, resize="stretch")
    frames = decode_clip(path, spec).frames
    return Footage(frames=frames, rate=fps, label=label, last=len(frames) - 1)


def write_film(path: Path, frames: U8) -> None:
    """Write (F, h, w, 3) uint8 RGB as H.264 at `FPS`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "18", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _film(rng: np.random.Generator, clip: Footage, style: Style, fillers: Sequence[Path]) -> tuple[U8, int, int]:
    scene = compose_scene(rng, clip, FPS, lead=style.lead, trail=style.trail, before_s=BEFORE_S, after_s=AFTER_S)
    if not style.film:
        return scene.frames, scene.first, scene.last
    before, after = (_filler(rng, fillers, round(seconds * FPS)) for seconds in (BEFORE_S, AFTER_S))
    return np.concatenate([before, scene.frames, after]), len(before) + scene.first, len(before) + scene.last


def _filler(rng: np.random.Generator, fillers: Sequence[Path], frames: int) -> U8:
    """Join random clips without a shape to `frames` frames."""
    parts: list[U8] = []
    while sum(map(len, parts)) < frames:
        parts.append(read_footage(fillers[int(rng.integers(len(fillers)))], OTHER).frames)
    return np.concatenate(parts)[:frames]

"""The benchmark of camera-events: real film, disturbed by code that shares nothing with the training data's code.

The service's own code reads and samples every film. Each window of an undisturbed film should be `normal`. Each
disturbance is also applied to excerpts at the film's own size, in three strengths. These are written as H.264 and read
in the same way.
"""

from __future__ import annotations

import csv
import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.offline import file_chunks
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.film_windows import frames_for, hold_photo, listed_films
from training.builtin.camera_events.tampering import STRENGTHS, TAMPERINGS, Excerpt, Tampered, inside
from training.data.decode import decode_clip
from training.errors import DataError

FIXED_CAMERAS = "fixed-cameras"
"""The folder of films that `python -m training download fixed-cameras` writes."""
PHOTOS = "photos"
"""The folder of photographs that `python -m training download photos` writes."""
EXCERPT_S = 2.4
EXCERPTS_PER_FILM = 12
"""The number of excerpts from a longer film; they are spread evenly."""
QUALITIES = (12, 23, 30)
"""H.264 CRF after tampering: nearly lossless, usual and coarse."""

CUT = "cut"
"""Stands for a label in cases whose window holds a cut to another film. Such a window is `moved` at most."""

_MILLISECOND = Fraction(1, 1000)
_X264 = {"preset": "veryfast", "x264-params": "mbtree=0"}
"""With its macroblock tree and B frames, x264 gives other bytes in each run from the same frames."""

NOT_FIXED = {
    "nofi019.mp4": "the whole scene drifts by 1 % of the width: a monitor, filmed by hand",
    "nofi031.mp4": "the camera pans slowly, 2 % of the width in 2 s; its captions stay",
    "nofi045.mp4": "a monitor, filmed by hand; its upper edge moves",
    "nofi046.mp4": "a monitor, filmed by hand; its right edge moves",
    "nofi047.mp4": "a monitor, filmed by hand; its right edge moves",
    "nofi048.mp4": "a monitor, filmed by hand; its right edge sways by 3 %",
    "nofi061.mp4": "the whole scene drifts by 1 %: a monitor, filmed by hand",
    "nofi092.mp4": "the whole scene drifts by 1 %: a monitor, filmed by hand",
    "nofi099.mp4": "the whole scene, shelves included, shifts by 1.4 %",
    "nofi110.mp4": "the whole view slides by 4.5 %: a monitor, filmed by hand",
    "nofi119.mp4": "fence and lawn drift by 1.3 %: a slow pan added in editing",
    "nofi130.mp4": "cars and fence drift by 2.4 %: a slow pan added in editing",
    "nofi131.mp4": "begins in a cross-fade from another film, then drifts by 5 %",
    "nofi137.mp4": "door frame and letterbox drift by 3.4 %: a slow zoom added in editing",
    "nofi143.mp4": "the whole view shifts by 2.3 % and brightens from a fade",
    "nofi150.mp4": "a monitor, filmed by hand; its frame moves by 1.4 %",
}
"""Films whose camera moves or whose view is cut, with the visible effect; see docs/development/camera-events.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One window of the benchmark with its label; `strength` is "" for an undisturbed window.

    `detail`: a case of the label that the figures keep apart, or "".
    """

    film: str
    source: str
    half: str
    label: str
    strength: str
    detail: str
    start_s: float
    frames: U8  # (T, t, H, W, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealFilm:
    """A film of the data folder; `source` is the set that it comes from, `half` is "tuning" or "held-out".

    Only the time from `start_s` to `end_s` is used.
    """

    path: Path
    source: str
    half: str
    start_s: float = 0.0
    end_s: float = math.inf


def real_films(data: Path) -> list[RealFilm]:
    """List the clips and the `no_fight` films in `data`, and the films of `fixed-cameras/` if this folder is there.

    All films of a group are in the same half. The list of `fixed-cameras/` names the half of each of its films; those
    to train on are left out.
    """
    clips = [(path, "signs" if path.suffix == ".mkv" else path.stem) for path in sorted((data / "clips").glob("*.m*"))]
    try:
        with (data / "fight" / "clips.csv").open(newline="") as table:
            fixed = [
                (data / "fight" / row["path"], row["group"])
                for row in csv.DictReader(table)
                if row["label"] == "no_fight"
            ]
    except OSError as error:
        raise DataError(
            f"{data}/fight/clips.csv: {error.strerror}; --data is the folder with clips/ and fight/"
        ) from error
    except KeyError as error:
        raise DataError(f"{data}/fight/clips.csv: no column {error}; it needs path, label and group") from error
    if not clips or not fixed:
        raise DataError(f"{data}: contains no film; --data is the folder with clips/ and fight/")
    return [*_halves("clips", clips), *_halves("no_fight", fixed), *_listed(data / FIXED_CAMERAS)]


def real_photos(data: Path) -> list[RealFilm]:
    """List the photographs of `photos/` in `data` if this folder is there, without those to train on.

    Each is held for one window, as a fixed camera shows a scene in which nothing moves. A thousand scenes say more
    about false alarms at other cameras than a thousand windows of a few films.
    """
    return _listed(data / PHOTOS)


def _listed(folder: Path) -> list[RealFilm]:
    """Return the films that the list of `folder` names, without those to train on; none without the folder."""
    return [
        RealFilm(path=film.path, source=folder.name, half=film.split, start_s=film.start_s, end_s=film.end_s)
        for film in (listed_films(folder) if folder.is_dir() else [])
        if film.split != "train"
    ]


def _halves(source: str, films: list[tuple[Path, str]]) -> Iterator[RealFilm]:
    """Assign whole groups to halves, the largest first and in serpentine order, so that the halves are about even."""
    sizes = Counter(group for _, group in films)
    ranked = sorted(sizes, key=lambda group: (-sizes[group], group))
    half = {group: "tuning" if rank % 4 in (0, 3) else "held-out" for rank, group in enumerate(ranked)}
    return (RealFilm(path=path, source=source, half=half[group]) for path, group in films)


def cases(films: list[RealFilm], spec: ModelSpec, *, kinds: tuple[str, ...] = (*LABELS, CUT)) -> Iterator[Case]:
    """Yield every window of the benchmark, film by film. Those of listed films and photographs are undisturbed only."""
    before: dict[str, Excerpt] = {}  # an excerpt of the film before, by half
    for number, film in enumerate(films):
        if "normal" in kinds:
            windows = _held(film.path, spec) if film.source == PHOTOS else _windows(film.path, spec)
            for start_s, frames in windows:
                if film.start_s <= start_s <= film.end_s - spec.window_s:
                    yield _case(film, "normal", "", "", start_s, frames)
        wanted = [kind for kind in kinds if kind in TAMPERINGS]
        original = None
        is_disturbed = film.source not in (FIXED_CAMERAS, PHOTOS) and (wanted or CUT in kinds)
        for part, original in enumerate(_excerpts(film.path) if is_disturbed else ()):
            if CUT in kinds and film.half in before and part == 0:
                yield from _tampered(film, CUT, "", cut(original, before[film.half]), spec, QUALITIES[number % 3])
            for offset, kind in enumerate(wanted):
                seed = int.from_bytes(hashlib.sha256(f"{film.path.name}/{part}/{kind}".encode()).digest()[:4], "big")
                strength = STRENGTHS[(number + part + offset) % len(STRENGTHS)]
                tampered = TAMPERINGS[kind](np.random.default_rng(seed), original, strength)
                yield from _tampered(film, kind, strength, tampered, spec, QUALITIES[seed % len(QUALITIES)])
        if original is not None:
            small = [cv2.resize(each, (640, 360), interpolation=cv2.INTER_AREA) for each in original.frames]
            before[film.half] = Excerpt(frames=np.stack(small).astype(np.uint8), times_s=original.times_s)


def cut(excerpt: Excerpt, other: Excerpt) -> Tampered:
    """Replace the second half of an excerpt by another film, at the size of the first."""
    _, height, width, _ = excerpt.frames.shape
    half = len(excerpt.frames) // 2
    rest = [
        np.asarray(cv2.resize(other.frames[i % len(other.frames)], (width, height), interpolation=cv2.INTER_AREA))
        for i in range(len(excerpt.frames) - half)
    ]
    at_s = float(excerpt.times_s[half])
    frames = np.concatenate([excerpt.frames[:half], np.stack(rest)])
    return Tampered(excerpt=Excerpt(frames=frames, times_s=excerpt.times_s), rule=inside(at_s, at_s))


def _case(film: RealFilm, label: str, strength: str, detail: str, start_s: float, frames: U8) -> Case:
    name = film.path.name
    return Case(
        film=name,
        source=film.source,
        half=film.half,
        label=label,
        strength=strength,
        detail=detail,
        start_s=start_s,
        frames=frames,
    )


def _tampered(
    film: RealFilm, kind: str, strength: str, tampered: Tampered, spec: ModelSpec, crf: int
) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tampered.mkv"
        write_excerpt(path, tampered.excerpt, crf)
        for start_s, frames in _windows(path, spec):
            if tampered.rule(start_s, start_s + spec.window_s):
                yield _case(film, kind, strength, tampered.detail, start_s, frames)


def _windows(path: Path, spec: ModelSpec) -> Iterator[tuple[float, U8]]:
    """Yield (start in seconds, (T, t, H, W, 3)) of every window with a hop of one chunk. No window spans a gap."""
    recent: list[tuple[int, float, U8]] = []
    with closing(file_chunks(spec, path)) as chunks:
        for meta, pixels in chunks:
            recent = [item for item in recent if item[0] == meta.segment][-(spec.chunks - 1) :]
            recent.append((meta.segment, meta.start_pts_ns / 1e9, pixels))
            if len(recent) == spec.chunks:
                yield recent[0][1], np.stack([item[2] for item in recent])


def _held(path: Path, spec: ModelSpec) -> Iterator[tuple[float, U8]]:
    """Yield (0.0, (T, t, H, W, 3)): a photograph as one window, with noise drawn from the file's name."""
    photo = decode_clip(path, frames_for(spec, spec.resize)).frames[0]
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    frames = hold_photo(np.random.default_rng(seed), photo, spec.chunks * spec.frames_per_chunk)
    yield 0.0, frames.reshape(spec.chunks, spec.frames_per_chunk, *frames.shape[1:])


def _excerpts(path: Path) -> Iterator[Excerpt]:
    """Decode the film, or excerpts of it, at its own size."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.time, frame) for frame in container.decode(stream) if frame.time is not None]
        first, last = frames[0][0], frames[-1][0]
        count = min(EXCERPTS_PER_FILM, max(1, int((last - first) / EXCERPT_S)))
        for start in np.linspace(first, max(first, last - EXCERPT_S), count):
            part = [(t, f) for t, f in frames if start <= t <= start + EXCERPT_S]
            stacked = np.stack([np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for _, frame in part])
            yield Excerpt(frames=stacked, times_s=np.array([t - part[0][0] for t, _ in part]))


def write_excerpt(path: Path, excerpt: Excerpt, crf: int, *, rate: int = 30) -> None:
    """Write H.264 with the excerpt's own times. `rate`: the frames a second that the encoder plans for."""
    height, width = (size // 2 * 2 for size in excerpt.frames.shape[1:3])
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={**_X264, "crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = stream.time_base = _MILLISECOND
        for image, time_s in zip(excerpt.frames, excerpt.times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), _MILLISECOND
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))

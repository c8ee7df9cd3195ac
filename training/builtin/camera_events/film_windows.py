"""Real film of fixed cameras, and photographs: the list of a folder, and undisturbed windows to train on.

A photograph is held, as a fixed camera shows a scene in which nothing moves. There are far more photographs than films
of fixed cameras, so they show a network many more kinds of scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.sources import Resize
from training.data.clip_cache import read_array, store_clips
from training.data.csv_columns import plain_name
from training.data.csv_lists import read_records
from training.data.decode import DecodeSpec
from training.data.file_names import listed_path
from training.data.shape import Shape
from training.errors import DataError

LIST: Final = "films.csv"
"""The list in a folder of films or photographs: `path`, `split` (train, tuning or held-out), `start_s` and `end_s`."""
SPLITS: Final = ("train", "tuning", "held-out")
PHOTO_NOISE: Final = 2.5
"""The strongest noise of a held photograph, as a standard deviation in grey levels. A camera's picture has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFilm:
    """A film in which nothing happens to the camera from `start_s` to `end_s`, or a photograph."""

    path: Path
    split: str
    start_s: float
    end_s: float


def listed_films(folder: Path) -> list[ListedFilm]:
    """Read the list of the films in `folder`. Raises `DataError` that names the line.

    `split` is `train` where the list has no such column, and the whole film is used where it gives no times.
    """
    path = folder / LIST
    header, records = read_records(path)
    names = [plain_name(name) for name in header]
    films = []
    for line, fields in records:
        row = dict(zip(names, (field.strip() for field in fields), strict=True))
        split = row.get("split") or "train"
        if not row.get("path"):
            raise DataError(f"{path}:{line}: no path; the columns are path,split,start_s,end_s")
        if split not in SPLITS:
            raise DataError(f"{path}:{line}: split {split!r}; write {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
        try:
            start_s, end_s = float(row.get("start_s") or 0), float(row.get("end_s") or "inf")
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}; write start_s and end_s in seconds") from error
        if not 0 <= start_s < end_s:
            raise DataError(f"{path}:{line}: start_s {start_s:g}, end_s {end_s:g}; write 0 or more, then more")
        films.append(
            ListedFilm(path=folder / listed_path(folder, row["path"]), split=split, start_s=start_s, end_s=end_s)
        )
    if not films:
        raise DataError(f"{path}: lists no film")
    return films


def training_films(folder: Path) -> list[ListedFilm]:
    """Return the films of `folder` that may be trained on. Raises `DataError` where there is none."""
    if not (folder / LIST).is_file():
        raise DataError(
            f"{folder / LIST}: no such file; `python -m training download fixed-cameras` and `download photos` get the "
            "project's lists with their files, and data.film=[] data.film_windows=0 trains without them"
        )
    films = [film for film in listed_films(folder) if film.split == "train"]
    if not films:
        raise DataError(f"{folder / LIST}: no film has the split 'train'")
    return films


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmWindows:
    """Windows of decoded films, by folder: each has its file of frames (F, H, W, 3) and its undisturbed frames.

    A file of one frame is a photograph.
    """

    window: int
    folders: tuple[tuple[tuple[Path, range], ...], ...]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def decoded(cls, folders: Sequence[Path], shape: Shape, cache: Path, *, workers: int) -> FilmWindows:
        """Decode the training films of `folders` that `cache` lacks, as the service samples and scales them.

        Raises `DataError` where they cannot be read, or are shorter than a window.
        """
        spec = frames_for(shape, "stretch")
        decoded, notes = [], []
        for folder in folders:
            listed = training_films(folder)
            stored = store_clips([film.path for film in listed], spec, cache, workers=workers)
            notes += [clip.reason for clip in stored if clip.frames is None]
            decoded.append(
                tuple(
                    (clip.frames, _undisturbed(film, clip.facts["frames"], shape))
                    for film, clip in zip(listed, stored, strict=True)
                    if clip.frames is not None
                )
            )
        return cls(window=shape.window, folders=tuple(decoded), notes=notes)

    def draw(self, rng: np.random.Generator) -> U8:
        """Draw a folder, a film of it, each as often as another, and a window: (F, H, W, 3) uint8 RGB, read-only."""
        films = self.folders[int(rng.integers(len(self.folders)))]
        path, frames = films[int(rng.integers(len(films)))]
        images = read_array(path)
        if len(images) == 1:
            return hold_photo(rng, np.asarray(images[0], np.uint8), self.window)
        start = int(rng.integers(frames.start, frames.stop - self.window + 1))
        return np.asarray(images[start : start + self.window], np.uint8)


def _undisturbed(film: ListedFilm, frames: int, shape: Shape) -> range:
    """Return the range of the listed frames. Raises `DataError` where a film's range is shorter than a window."""
    if frames == 1:
        return range(1)
    first, last = (int(min(at_s * shape.fps, frames)) for at_s in (film.start_s, film.end_s))
    if last - first < shape.window:
        raise DataError(
            f"{film.path}: {(last - first) / shape.fps:g} s from start_s to end_s, and a window has "
            f"{shape.window / shape.fps:g} s; remove its line from {LIST}"
        )
    return range(first, last)


def frames_for(model: Shape | ModelSpec, resize: Resize) -> DecodeSpec:
    """Return how to decode films and photographs to the frames that `model` takes."""
    return DecodeSpec(
        fps=model.fps,
        frames_per_chunk=model.frames_per_chunk,
        steps=1,
        height=model.height,
        width=model.width,
        resize=resize,
    )


def hold_photo(rng: np.random.Generator, photo: U8, frames: int) -> U8:
    """Repeat a photograph (H, W, 3) uint8 for a number of frames: (F, H, W, 3), with a camera's noise."""
    pixels = photo.ravel().astype(np.int16)
    # Each frame takes another part of the same noise: to draw all of it anew would take longer than all else.
    noise = rng.standard_normal(2 * pixels.size, np.float32) * np.float32(rng.uniform(0, PHOTO_NOISE))
    levels = np.rint(noise).astype(np.int16)
    starts = rng.integers(pixels.size, size=frames)
    held = np.stack([pixels + levels[start : start + pixels.size] for start in starts])
    return np.asarray(np.clip(held, 0, 255), np.uint8).reshape(frames, *photo.shape)

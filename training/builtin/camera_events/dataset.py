"""Made footage on disk, rendered once by several processes, and windows cut from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F32, U8
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.footage import make_clip, window_label
from training.data.pool import pooled
from training.errors import DataError

# What the encoder is asked for besides the label, per chunk; see `chunk_truth`.
TRUTHS = ("dx", "dy", "brightening", "blur", "noise", "cover", "shake")
# What the head is asked for, per chunk: the same since the chunk before; see `between_truth`.
BETWEEN = ("dx", "dy", "brightening")
THUMBNAIL = (6, 8)
_NOT_ASKED = np.float32(np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageSpec:
    """What determines every byte of a cache; its digest names the cache, so none is ever mistaken for another."""

    clips: int
    frames: int
    fps: float
    height: int
    width: int
    window: int
    normal_share: float
    seed: int
    maker: int = 4  # raise when the maker's code changes what it makes

    @property
    def digest(self) -> str:
        """Twelve hex digits."""
        text = json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def kind(self, index: int) -> str:
        """The label that happens in clip `index`."""
        if np.random.default_rng([self.seed, index, 1]).random() < self.normal_share:
            return "normal"
        return LABELS[1 + index % (len(LABELS) - 1)]

    @property
    def offsets(self) -> range:
        """First frames of the windows in one clip: every second frame."""
        return range(0, self.frames - self.window + 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """frames: (C, F, H, W, 3) uint8; truths: (C, F, 7) float32; labels: (C, offsets) int8, -1 where undecided."""

    spec: FootageSpec
    frames: U8
    truths: F32
    labels: npt.NDArray[np.int8]


def open_footage(spec: FootageSpec, folder: Path, *, workers: int) -> Footage:
    """The footage of `spec`, rendering what `folder` lacks; killed, it goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"footage-{spec.digest}"
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "frames": ((spec.clips, spec.frames, spec.height, spec.width, 3), np.uint8),
        "truths": ((spec.clips, spec.frames, len(TRUTHS)), np.float32),
        "labels": ((spec.clips, len(spec.offsets)), np.int8),
        "done": ((spec.clips,), np.uint8),
    }
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        path = stem.with_name(f"{stem.name}.{name}.npy")
        if path.is_file():
            arrays[name] = np.lib.format.open_memmap(path, mode="r+")
            if arrays[name].shape != shape:
                raise DataError(f"{path}: shape {arrays[name].shape}, expected {shape}; delete the file")
        else:
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    missing = np.flatnonzero(arrays["done"] == 0).tolist()
    jobs = [(spec, index) for index in missing]
    rendered = pooled(render_clip, jobs, workers=workers)
    for count, (index, frames, truths, labels) in enumerate(rendered, start=1):
        arrays["frames"][index], arrays["truths"][index], arrays["labels"][index] = frames, truths, labels
        arrays["done"][index] = 1
        if count % 200 == 0:
            print(f"rendered {count} of {len(missing)} clips", flush=True)
    return Footage(spec=spec, frames=arrays["frames"], truths=arrays["truths"], labels=arrays["labels"])


def render_clip(job: tuple[FootageSpec, int]) -> tuple[int, U8, F32, npt.NDArray[np.int8]]:
    """(index, frames, truths, labels) of one clip: the same on every machine with the same libraries."""
    spec, index = job
    rng = np.random.default_rng([spec.seed, index])
    clip = make_clip(rng, spec.kind(index), frames=spec.frames, fps=spec.fps, height=spec.height, width=spec.width)
    truth = clip.truth
    changed_view = np.diff(truth.view, prepend=truth.view[0]) != 0
    columns = [truth.x, truth.y, truth.gain + truth.exposure, truth.blur, truth.noise, truth.cover, truth.shake]
    truths = np.stack(columns, axis=1).astype(np.float32)
    truths[changed_view, :2] = _NOT_ASKED
    labels = np.full(len(spec.offsets), -1, np.int8)
    for i, start in enumerate(spec.offsets):
        label = window_label(truth.take(np.arange(start, start + spec.window)), fps=spec.fps)
        if label is not None:
            labels[i] = LABELS.index(label)
    return index, clip.frames, truths, labels


def chunk_truth(truths: F32, frames_per_chunk: int) -> F32:
    """(T*t, 7) per frame -> (T, 7) per chunk, each about within -3..3; NaN where there is no sensible answer.

    Motion and brightening are those from a chunk's first frame to its last; the rest are means. Shake has no
    meaning within one chunk and is not asked for.
    """
    chunks = truths.reshape(-1, frames_per_chunk, len(TRUTHS))
    change, mean = chunks[:, -1] - chunks[:, 0], chunks.mean(axis=1)
    out = np.empty((len(chunks), len(TRUTHS)), np.float32)
    out[:, :3] = _motion(change)
    out[:, 3] = np.log1p(mean[:, 3] * 300)
    out[:, 4] = np.log1p(mean[:, 4]) - 1
    out[:, 5] = mean[:, 5] * 2
    out[:, 6] = _NOT_ASKED
    out[_blind(mean), :2] = _NOT_ASKED
    return out


def between_truth(truths: F32, frames_per_chunk: int) -> F32:
    """(T*t, 7) per frame -> (T, 3): from the last frame of the chunk before to a chunk's first; NaN as above."""
    chunks = truths.reshape(-1, frames_per_chunk, len(TRUTHS))
    out = np.full((len(chunks), len(BETWEEN)), _NOT_ASKED, np.float32)
    out[1:] = _motion(chunks[1:, 0] - chunks[:-1, -1])
    blind = _blind(chunks.mean(axis=1))
    out[1:][blind[1:] | blind[:-1], :2] = _NOT_ASKED
    return out


def _blind(means: F32) -> npt.NDArray[np.bool_]:
    """(T, 7) -> (T,): behind a cover or a strong blur nobody can tell how the camera moves."""
    return (means[:, 5] > 0.4) | (means[:, 3] > 0.03)


def _motion(change: F32) -> F32:
    """Changes (T, 7) -> dx, dy and brightening (T, 3) within about -3..3.

    Large motion cannot be measured from two small pictures, only noticed: the root compresses it.
    """
    way = np.sign(change[:, :2]) * np.sqrt(np.abs(change[:, :2]) * 30)
    return np.concatenate([way, np.clip(change[:, 2:3] * 2, -3, 3)], axis=1)


def augment(rng: np.random.Generator, frames: U8, truths: F32) -> tuple[U8, F32]:
    """A window (F, H, W, 3) seen otherwise: mirrored, backwards, tinted, through another gamma, grey, bordered."""
    truths = truths.copy()
    if rng.random() < 0.5:
        frames, truths[:, 0] = frames[:, :, ::-1], -truths[:, 0]
    if rng.random() < 0.15:
        frames, truths[:, 1] = frames[:, ::-1], -truths[:, 1]
    if rng.random() < 0.3:
        frames, truths = frames[::-1], truths[::-1]
    if rng.random() < 0.3:
        frames = frames[..., rng.permutation(3)]
    levels = np.arange(256, dtype=np.float32) / 255
    tone = levels ** np.exp(rng.normal(0, 0.25)) * rng.uniform(0.75, 1.2) + rng.normal(0, 0.03)
    frames = np.clip(tone * 255, 0, 255).astype(np.uint8)[frames]
    if rng.random() < 0.1:
        grey = frames.mean(axis=-1, keepdims=True, dtype=np.float32).astype(np.uint8)
        frames = np.broadcast_to(grey, frames.shape)
    return frames, truths


def thumbnails(chunks: U8) -> F32:
    """(T, t, H, W, 3) -> (T, 48): each chunk's first frame as 6 x 8 grey values in about -2..2.

    A switch or a knock between two chunks is in neither: only if features tell roughly what each chunk looked
    like can the head see that they differ.
    """
    rows, columns = THUMBNAIL
    small = [cv2.resize(chunk[0], (columns, rows), interpolation=cv2.INTER_AREA) for chunk in chunks]
    grey = np.stack(small).astype(np.float32).mean(axis=-1)
    return np.asarray((grey.reshape(len(chunks), -1) - 127.5) / 64, np.float32)


def cut(rng: np.random.Generator, footage: Footage, index: int, offset: int, frames_per_chunk: int) -> tuple[U8, F32]:
    """An augmented window as the model takes it: (T, t, H, W, 3) uint8, and its chunks' truths (T, 58)."""
    span = slice(offset, offset + footage.spec.window)
    frames, truths = augment(rng, footage.frames[index, span], footage.truths[index, span])
    chunks = frames.reshape(-1, frames_per_chunk, *frames.shape[1:])
    chunks = np.ascontiguousarray(chunks)
    asked = (chunk_truth(truths, frames_per_chunk), thumbnails(chunks), between_truth(truths, frames_per_chunk))
    return chunks, np.concatenate(asked, axis=1)

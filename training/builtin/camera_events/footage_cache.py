"""Synthetic footage on disk: clips rendered once, by several processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import F32, U8
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.disturbances import CameraTrack
from training.builtin.camera_events.footage import make_clip, window_label
from training.data.pool import map_in_processes
from training.errors import DataError

STATES = ("dx", "dy", "brightening", "blur", "noise", "cover", "shake")
"""The columns of `Footage.states`: the camera's state at each frame.

Before `training.builtin.camera_events.targets` turns them into targets, the first three are positions and brightness,
not changes.
"""
_UNKNOWN = np.float32(np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageSpec:
    """All parameters that determine the rendered bytes. Their digest names the cache, so caches are never confused."""

    clips: int
    frames: int
    fps: float
    height: int
    width: int
    window: int
    normal_share: float
    seed: int
    maker: int = 12
    """Raise this number when the rendering code changes what it renders."""

    @property
    def digest(self) -> str:
        """Return twelve hex digits."""
        text = json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def kind(self, index: int) -> str:
        """Return the label of what happens in clip `index`."""
        if np.random.default_rng([self.seed, index, 1]).random() < self.normal_share:
            return "normal"
        return LABELS[1 + index % (len(LABELS) - 1)]

    @property
    def offsets(self) -> range:
        """Return the first frames of the windows in one clip: every second frame."""
        return range(0, self.frames - self.window + 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """Rendered clips: `frames` (C, F, H, W, 3) uint8; `states` (C, F, 7); `labels` (C, offsets), -1 where ambiguous."""

    spec: FootageSpec
    folder: Path
    frames: U8
    states: F32
    labels: npt.NDArray[np.int8]

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the folder to another process, and not gigabytes of mapped frames."""
        return partial(open_footage, workers=0), (self.spec, self.folder)


def open_footage(spec: FootageSpec, folder: Path, *, workers: int) -> Footage:
    """Open the footage of `spec`, after rendering what `folder` lacks. A killed call resumes where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"footage-{spec.digest}"
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "frames": ((spec.clips, spec.frames, spec.height, spec.width, 3), np.uint8),
        "truths": ((spec.clips, spec.frames, len(STATES)), np.float32),  # the states; caches have this file name
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
    rendered = map_in_processes(render_clip, jobs, workers=workers)
    for count, (index, frames, states, labels) in enumerate(rendered, start=1):
        arrays["frames"][index], arrays["truths"][index], arrays["labels"][index] = frames, states, labels
        arrays["done"][index] = 1
        if count % 200 == 0:
            print(f"rendered {count} of {len(missing)} clips", flush=True)
    return Footage(spec=spec, folder=folder, frames=arrays["frames"], states=arrays["truths"], labels=arrays["labels"])


def render_clip(job: tuple[FootageSpec, int]) -> tuple[int, U8, F32, npt.NDArray[np.int8]]:
    """Render one clip: (index, frames, states, labels), the same on all machines with the same libraries."""
    spec, index = job
    rng = np.random.default_rng([spec.seed, index])
    clip = make_clip(rng, spec.kind(index), frames=spec.frames, fps=spec.fps, height=spec.height, width=spec.width)
    track = clip.track
    states = camera_states(track)
    labels = np.full(len(spec.offsets), -1, np.int8)
    for i, start in enumerate(spec.offsets):
        label = window_label(track.select(np.arange(start, start + spec.window)), fps=spec.fps)
        if label is not None:
            labels[i] = LABELS.index(label)
    return index, clip.frames, states, labels


def camera_states(track: CameraTrack) -> F32:
    """Turn a track of F frames into `STATES`, (F, 7). The direction is unknown where the view changes."""
    columns = [track.x, track.y, track.gain + track.exposure, track.blur, track.noise, track.cover, track.shake]
    states = np.stack(columns, axis=1).astype(np.float32)
    states[np.diff(track.view, prepend=track.view[0]) != 0, :2] = _UNKNOWN
    return states

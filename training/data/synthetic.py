"""Clips that a maker draws, rendered once to disk by several processes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from engines.arrays import F32, I64, U8
from training.builtin.gestures.maker import VERSION, make_clip
from training.builtin.gestures.shapes import DrawnPaths, load_paths
from training.data.clip_cache import alone, read_array, write_array
from training.data.clips import Clips
from training.data.pool import pooled
from training.data.recipes import GesturesMadeData
from training.errors import DataError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MadeSpec:
    """What determines every byte of what is made."""

    maker: int
    drawn: str
    labels: tuple[str, ...]
    clips: int
    frames: int
    fps: float
    height: int
    width: int
    seed: int

    @property
    def digest(self) -> str:
        """Twelve hex digits."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class MadeClips(Clips):
    """Clip i is of class i % K, so that classes are even."""

    truth_names: Sequence[str] = ("x", "y", "visible")

    def __init__(self, spec: MadeSpec, folder: Path, *, steps: int) -> None:
        self._spec, self._folder, self._steps = spec, folder, steps
        self.labels: I64 = np.arange(spec.clips, dtype=np.int64) % len(spec.labels)
        self.names = [f"made {spec.seed}/{i}" for i in range(spec.clips)]
        self.groups = [""] * spec.clips

    def key(self, index: int) -> str:
        """Spec and number."""
        return f"{self._spec.digest}/{index}"

    def steps(self, index: int) -> int:
        """The same for all."""
        return self._steps

    def frames(self, index: int) -> U8:
        """(F, h, w, 3)."""
        return np.asarray(read_array(_path(self._folder, index)), np.uint8)

    def truths(self, index: int) -> F32 | None:
        """(F, 3): where the fingertip is, NaN where it is hidden, and whether it is seen."""
        return np.asarray(read_array(_path(self._folder, index, "truths")), np.float32)


def open_made(
    data: GesturesMadeData,
    *,
    clips: int,
    seed: int,
    fps: float,
    size: tuple[int, int],
    steps: int,
    labels: tuple[str, ...],
) -> Clips:
    """Render what the cache lacks; killed, it goes on where it stopped."""
    spec = MadeSpec(
        maker=VERSION,
        drawn="" if data.trajectories is None else str(data.trajectories.resolve()),
        labels=labels,
        clips=clips,
        frames=data.frames * steps,
        fps=fps * steps,
        height=size[0],
        width=size[1],
        seed=seed,
    )
    folder = data.cache / f"made-{spec.digest}"
    with alone(folder):
        missing = [(spec, folder, index) for index in range(clips) if not _path(folder, index).is_file()]
        for count, _ in enumerate(pooled(_make, missing, workers=data.workers), start=1):
            if count % 500 == 0 or count == len(missing):
                print(f"made {count} of {len(missing)} clips", file=sys.stderr, flush=True)
    return MadeClips(spec, folder, steps=steps)


def _path(folder: Path, index: int, what: str = "frames") -> Path:
    return folder / f"{index:06}.{what}.npy"


@lru_cache(maxsize=1)
def _drawn(path: str) -> DrawnPaths:
    return load_paths(Path(path))


def _make(job: tuple[MadeSpec, Path, int]) -> None:
    """One clip; its frames come last, so that a clip that has them is whole."""
    spec, folder, index = job
    label = spec.labels[index % len(spec.labels)]
    rng = np.random.default_rng([spec.seed, index])
    drawn = _drawn(spec.drawn) if spec.drawn else None
    clip = make_clip(rng, label, frames=spec.frames, fps=spec.fps, height=spec.height, width=spec.width, drawn=drawn)
    frames, points = clip.frames, clip.tips
    if frames.shape != (spec.frames, spec.height, spec.width, 3) or frames.dtype != np.uint8:
        raise DataError(f"training.builtin.gestures made {frames.dtype} {frames.shape} of {label!r}")
    seen = ~np.isnan(points).any(axis=1, keepdims=True)
    write_array(_path(folder, index, "truths"), np.hstack([points, seen]).astype(np.float32))
    write_array(_path(folder, index), frames)

"""The data kind `synthetic_gestures`: clips rendered to disk once, by several processes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from engines.arrays import F32, I64, U8
from training.builtin.gestures import LABELS
from training.builtin.gestures.maker import VERSION, make_clip
from training.builtin.gestures.shapes import DrawnPaths, load_paths
from training.data.base import ClipSection
from training.data.clip_cache import exclusive_folder, read_array, write_array
from training.data.clips import Clips
from training.data.dataset import ClipDataSet
from training.data.pool import map_in_processes
from training.data.shape import Shape
from training.errors import DataError

VALIDATION_SEED_OFFSET = 1_000_000
"""Added to the recipe's seed for validation clips, so that they differ from all training clips."""


class SyntheticGesturesData(ClipSection):
    """Clips that `training.builtin.gestures` renders. They show no real person, so bundles may contain some of them."""

    kind: Literal["synthetic_gestures"] = "synthetic_gestures"
    clips: int = Field(ge=4, description="training clips")
    validation_clips: int = Field(ge=4)
    frames: int = Field(ge=2, description="frames of one clip, at the recipe's fps")
    trajectories: Path | None = Field(None, description=".npz of paths that people drew, used for some of the clips")

    synthetic: ClassVar[bool] = True

    def label_names(self) -> tuple[str, ...]:
        """Return the classes: the ten shapes and `other`, unless the recipe chooses some of them."""
        return self.labels or LABELS

    def open(self, shape: Shape, *, seed: int, stretch: bool) -> ClipDataSet:
        """Render the clips that the cache lacks."""
        return ClipDataSet(
            labels=self.label_names(),
            training=self._render(
                self.clips, shape.fps, seed=seed, size=shape.enlarged(self.train_scale), steps=self.steps
            ),
            validation=self._render(
                self.validation_clips,
                shape.fps,
                seed=seed + VALIDATION_SEED_OFFSET,
                size=(shape.height, shape.width),
                steps=self.steps if stretch else 1,
            ),
        )

    def card_text(self) -> str:
        """Count the clips."""
        return (
            f"{self.clips} clips rendered by `training/builtin/gestures`; {self.validation_clips} more for validation."
        )

    def _render(self, clips: int, fps: float, *, seed: int, size: tuple[int, int], steps: int) -> SyntheticClips:
        """Render the clips that the cache lacks. A killed call resumes where it stopped."""
        spec = SyntheticSpec(
            version=VERSION,
            trajectories="" if self.trajectories is None else str(self.trajectories.resolve()),
            labels=self.label_names(),
            clips=clips,
            frames=self.frames * steps,
            fps=fps * steps,
            height=size[0],
            width=size[1],
            seed=seed,
        )
        folder = self.cache / f"gestures-{spec.digest}"
        with exclusive_folder(folder):
            missing = [(spec, folder, index) for index in range(clips) if not _path(folder, index).is_file()]
            for count, _ in enumerate(map_in_processes(_render_clip, missing, workers=self.workers), start=1):
                if count % 500 == 0 or count == len(missing):
                    print(f"rendered {count} of {len(missing)} clips", file=sys.stderr, flush=True)
        return SyntheticClips(spec, folder, steps=steps)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSpec:
    """All parameters that determine the rendered bytes."""

    version: int
    trajectories: str
    labels: tuple[str, ...]
    clips: int
    frames: int
    fps: float
    height: int
    width: int
    seed: int

    @property
    def digest(self) -> str:
        """Return twelve hex digits, which name the cache folder."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class SyntheticClips(Clips):
    """Rendered clips on disk. Clip i is of class i % K, so all classes have equally many clips."""

    aux_names: Sequence[str] = ("x", "y", "visible")

    def __init__(self, spec: SyntheticSpec, folder: Path, *, steps: int) -> None:
        self._spec, self._folder, self._steps = spec, folder, steps
        self.labels: I64 = np.arange(spec.clips, dtype=np.int64) % len(spec.labels)
        self.names = [f"synthetic {spec.seed}/{i}" for i in range(spec.clips)]
        self.groups = [""] * spec.clips

    def key(self, index: int) -> str:
        """Return the spec's digest and the clip's number."""
        return f"{self._spec.digest}/{index}"

    def steps(self, index: int) -> int:
        """Return the steps, which are the same for all clips."""
        return self._steps

    def frames(self, index: int) -> U8:
        """Return (F, h, w, 3)."""
        return np.asarray(read_array(_path(self._folder, index)), np.uint8)

    def aux_targets(self, index: int) -> F32 | None:
        """Return (F, 3): x and y of the fingertip, NaN where it is hidden, and whether it is visible."""
        return np.asarray(read_array(_path(self._folder, index, "targets")), np.float32)


def _path(folder: Path, index: int, array: str = "frames") -> Path:
    return folder / f"{index:06}.{array}.npy"


@lru_cache(maxsize=1)
def _load_trajectories(path: str) -> DrawnPaths:
    return load_paths(Path(path))


def _render_clip(job: tuple[SyntheticSpec, Path, int]) -> None:
    """Render one clip. Its frames are written last, so a clip that has frames is complete."""
    spec, folder, index = job
    label = spec.labels[index % len(spec.labels)]
    rng = np.random.default_rng([spec.seed, index])
    drawn = _load_trajectories(spec.trajectories) if spec.trajectories else None
    clip = make_clip(rng, label, frames=spec.frames, fps=spec.fps, height=spec.height, width=spec.width, drawn=drawn)
    frames, points = clip.frames, clip.tips
    if frames.shape != (spec.frames, spec.height, spec.width, 3) or frames.dtype != np.uint8:
        raise DataError(f"training.builtin.gestures rendered {frames.dtype} {frames.shape} for {label!r}")
    visible = ~np.isnan(points).any(axis=1, keepdims=True)
    write_array(_path(folder, index, "targets"), np.hstack([points, visible]).astype(np.float32))
    write_array(_path(folder, index), frames)

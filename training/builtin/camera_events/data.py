"""The data kind `camera_events`: windows of synthetic footage, to train on and to validate with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from engines.arrays import F32, U8
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.film_windows import FilmWindows, training_films
from training.builtin.camera_events.footage import jump_frames
from training.builtin.camera_events.footage_cache import STATES, Footage, FootageSpec, open_footage
from training.builtin.camera_events.fresh_windows import fresh_window
from training.builtin.camera_events.targets import COVER_MAP, training_window
from training.data.augment import AugmentRecipe
from training.data.base import DataSection
from training.data.batches import Batch, TrainingBatches, ValidationBatches, process_share
from training.data.dataset import DataSet
from training.data.shape import Shape
from training.data.windows import WindowsRecipe
from training.errors import RunError

VALIDATION_SEED_OFFSET = 1_000_000
"""Added to the recipe's seed for validation clips, so that they differ from all training clips."""
VALIDATION_BATCH = 32
"""Windows of one validation batch."""
GOLDEN_LABEL = "moved"
"""The label of the windows from which the golden window is chosen."""


class CameraEventsData(DataSection):
    """Footage that `training.builtin.camera_events` renders."""

    kind: Literal["camera_events"] = "camera_events"
    cache: Path = Field(description="folder for rendered footage, about 1.7 MB a clip at 144 x 192")
    clips: int = Field(ge=8, description="training clips")
    validation_clips: int = Field(ge=8)
    frames: int = Field(ge=2, description="frames of one clip; at least a window")
    normal_share: float = Field(gt=0, lt=1, description="share of clips in which nothing happens")
    normal_windows: float = Field(
        gt=0, lt=1, description="share of a training batch's windows in which nothing happens"
    )
    fresh_windows: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a training batch's windows that are normal windows, disturbed anew in each step",
    )
    film: tuple[Path, ...] = Field(
        (),
        description="folders with films.csv: film of fixed cameras in which nothing happens, or photographs, to "
        "disturb anew too; each folder as often as another",
    )
    film_windows: float = Field(
        0.0, ge=0, le=1, description="share of the windows disturbed anew that come from the film, not from the footage"
    )
    workers: int = Field(2, ge=0, le=64, description="processes that render, or decode")

    synthetic: ClassVar[bool] = True
    cuts_windows: ClassVar[bool] = True
    required_model: ClassVar[str | None] = "vivit_factorised"
    has_benchmark: ClassVar[bool] = True

    def label_names(self) -> tuple[str, ...]:
        """Return the seven labels of camera-events."""
        return LABELS

    def open(self, shape: Shape, *, seed: int, stretch: bool) -> FootageDataSet:
        """Prepare the data set; it renders each part when the part is first used. Raises `DataError` without film."""
        for folder in self.film:
            training_films(folder)
        return FootageDataSet(self, shape, seed=seed)

    @field_validator("film", mode="before")
    @classmethod
    def _one_folder(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _check_film(self) -> CameraEventsData:
        if bool(self.film) != bool(self.film_windows):
            raise ValueError(
                f"data.film={', '.join(map(str, self.film)) or '[]'}, data.film_windows={self.film_windows:g}: give "
                "both, or neither; the second is a share above 0"
            )
        return self

    @property
    def cache_folder(self) -> Path:
        """Return the folder for rendered footage."""
        return self.cache

    def check_shape(self, shape: Shape) -> None:
        """Raise `ValueError` where a clip is shorter than a window, or a window too short for any label."""
        least = jump_frames(shape.fps) + 3
        if shape.window < least:
            raise ValueError(
                f"model.chunks={shape.chunks}: a window has {shape.window} frames; the labels need at least {least} at "
                f"{shape.fps:g} fps"
            )
        if self.frames < shape.window:
            raise ValueError(
                f"data.frames={self.frames}: a window has {shape.window} frames; give at least {shape.window}"
            )

    def card_text(self) -> str:
        """Count the clips and films, and say how they were made."""
        rendered = (
            "rendered by the recipe itself (`training/builtin/camera_events/`): drawn scenes, moving sprites, "
            f"disturbances, codecs. {self.clips} clips for training, {self.validation_clips} for validation. "
            "`golden.npz` is a window of the synthetic footage. "
        )
        if not self.film:
            return rendered + "No film of any real camera, no data set, no real person."
        return (
            rendered + f"{self.film_windows:.0%} of the windows that are disturbed anew come from real film and "
            "photographs (files: "
            + ", ".join(f"{len(training_films(folder)):,} of `{folder.name}`" for folder in self.film)
            + ")."
        )

    def spec_metrics(self, metrics: dict[str, Any], benchmark: dict[str, Any] | None) -> dict[str, float]:
        """Select balanced accuracy and false alarms: on synthetic footage and, if measured, on real film."""
        selected = {
            "synthetic_balanced_accuracy": metrics["balanced_accuracy"],
            "synthetic_false_alarms": metrics["false_alarms"],
        }
        if benchmark is not None:
            for half in ("all", "tuning", "held-out"):
                for name in ("balanced_accuracy", "false_alarms"):
                    selected[f"real_{half.replace('-', '_')}_{name}"] = benchmark[half][name]
        return selected


class FootageDataSet(DataSet):
    """Windows of synthetic footage. The training footage is rendered only when training batches are made."""

    def __init__(self, data: CameraEventsData, shape: Shape, *, seed: int) -> None:
        self._data, self._shape, self._seed = data, shape, seed
        self.labels = LABELS
        self.notes: list[str] = []

    def training_batches(
        self, shape: Shape, *, windows: WindowsRecipe, augment: AugmentRecipe, seed: int, batch: int
    ) -> FootageTrainingBatches:
        """Return batches of augmented windows; `windows` and `augment` are not used."""
        film = None
        if self._data.film:  # before the footage: a film that does not fit is reported before minutes of rendering
            film = FilmWindows.decoded(self._data.film, shape, self._data.cache, workers=self._data.workers)
            self.notes += film.notes
        footage = self._open(self._data.clips, self._seed)
        return FootageTrainingBatches(footage, self._data, shape, seed=seed, batch=batch, film=film)

    def validation_batches(self, shape: Shape, windows: WindowsRecipe) -> FootageValidationBatches:
        """Return batches of all validation windows whose label is clear; `windows` is not used."""
        return FootageValidationBatches(self._validation, shape)

    def golden_candidates(self, shape: Shape, windows: WindowsRecipe) -> Iterator[U8]:
        """Yield validation windows (T, t, H, W, 3) in which the camera moves."""
        footage = self._validation
        found = np.argwhere(footage.labels == LABELS.index(GOLDEN_LABEL))
        if not len(found):
            raise RunError(
                f"no validation window is {GOLDEN_LABEL!r}; raise data.validation_clips={self._data.validation_clips}"
            )
        for clip, i in found:
            start = footage.spec.offsets[i]
            frames = footage.frames[clip, start : start + footage.spec.window]
            yield frames.reshape(-1, shape.frames_per_chunk, *frames.shape[1:])

    @cached_property
    def _validation(self) -> Footage:
        return self._open(self._data.validation_clips, self._seed + VALIDATION_SEED_OFFSET)

    def _open(self, clips: int, seed: int) -> Footage:
        data, shape = self._data, self._shape
        spec = FootageSpec(
            clips=clips,
            frames=data.frames,
            fps=shape.fps,
            height=shape.height,
            width=shape.width,
            window=shape.window,
            normal_share=data.normal_share,
            seed=seed,
        )
        return open_footage(spec, data.cache, workers=data.workers)


class FootageTrainingBatches(TrainingBatches):
    """Training batches of augmented windows; `target` (N,) is the class, `aux_targets` (N, T, 70)."""

    def __init__(
        self,
        footage: Footage,
        data: CameraEventsData,
        shape: Shape,
        *,
        seed: int,
        batch: int,
        film: FilmWindows | None = None,
    ) -> None:
        super().__init__(seed=seed, batch=batch)
        self.footage, self.shape = footage, shape
        self._film, self._film_share = film, data.film_windows
        normal, disturbed = np.argwhere(footage.labels == 0), np.argwhere(footage.labels > 0)
        if not len(normal) or not len(disturbed):
            raise RunError(
                f"data.clips={data.clips}: {len(normal)} normal and {len(disturbed)} disturbed windows; raise the "
                "number of clips"
            )
        self.windows = np.concatenate([normal, disturbed])  # (windows, 2): clip, offset's index
        self._normal, self._fresh_share = normal, data.fresh_windows
        share = data.normal_windows
        self.odds = np.repeat([share / len(normal), (1 - share) / len(disturbed)], [len(normal), len(disturbed)])

    def sample_batch(self, rng: np.random.Generator, size: int) -> Batch:
        """See `TrainingBatches`."""
        sampled = [self._sample(rng) for _ in range(size)]
        frames, aux_targets, target = (np.stack(column) for column in zip(*sampled, strict=True))
        return {
            "frames": torch.from_numpy(frames),
            "aux_targets": torch.from_numpy(aux_targets),
            "target": torch.from_numpy(target),
        }

    def _sample(self, rng: np.random.Generator) -> tuple[U8, F32, np.int64]:
        """Draw a window (T, t, H, W, 3), its auxiliary targets (T, 70) and its class."""
        if rng.random() < self._fresh_share:
            (frames, states), (other, _) = (self._undisturbed(rng) for _ in range(2))
            frames, states, covers, label = fresh_window(rng, frames, states, other, fps=self.footage.spec.fps)
            target = LABELS.index(label)
        else:
            clip, i = self.windows[rng.choice(len(self.odds), p=self.odds)]
            frames, states = self._window(clip, i)
            target = self.footage.labels[clip, i]
            covers = np.zeros((len(frames), *COVER_MAP), np.float32)
            covers[states[:, STATES.index("cover")] > 0] = np.nan  # the cache has the covered share, but not where
        return *training_window(rng, frames, states, covers, self.shape.frames_per_chunk), np.int64(target)

    def _undisturbed(self, rng: np.random.Generator) -> tuple[U8, F32]:
        """Draw an undisturbed window of the film or of the footage: frames (F, H, W, 3), states (F, 7)."""
        if self._film is not None and rng.random() < self._film_share:
            frames = self._film.draw(rng)
            return frames, np.zeros((len(frames), len(STATES)), np.float32)
        return self._window(*rng.choice(self._normal))

    def _window(self, clip: int, i: int) -> tuple[U8, F32]:
        """Return the frames (F, H, W, 3) and the states (F, 7) of the window at offset number `i` of a clip."""
        start = self.footage.spec.offsets[i]
        span = slice(start, start + self.footage.spec.window)
        return self.footage.frames[clip, span], self.footage.states[clip, span]


class FootageValidationBatches(ValidationBatches):
    """Every validation window with a clear label once, not augmented; each process reads its share."""

    def __init__(self, footage: Footage, shape: Shape) -> None:
        self.footage, self.shape = footage, shape
        self.windows = np.argwhere(footage.labels >= 0)
        self.labels = footage.labels[footage.labels >= 0].astype(np.int64)

    def __iter__(self) -> Iterator[Batch]:
        spec, chunks = self.footage.spec, self.shape.chunks
        share = np.array(process_share(len(self.windows), whole=self.whole))
        for numbers in np.array_split(share, max(len(share) // VALIDATION_BATCH, 1)):
            frames = np.stack(
                [
                    self.footage.frames[clip, spec.offsets[i] : spec.offsets[i] + spec.window]
                    for clip, i in self.windows[numbers]
                ]
            )
            yield {
                "frames": torch.from_numpy(frames.reshape(len(numbers) * chunks, -1, *frames.shape[2:])),
                "windows": torch.arange(len(numbers) * chunks).reshape(-1, chunks),
                "clips": torch.from_numpy(numbers),
            }

"""The `data` section of a recipe: one class for each kind of data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from streamclf.sources import Resize
from training.data.windows import Fill
from training.section import Section


class CameraEventsData(Section):
    """Footage that `training.builtin.camera_events` makes."""

    kind: Literal["camera_events"] = "camera_events"
    cache: Path = Field(description="folder for rendered footage, about 1.7 MB a clip at 144 x 192")
    clips: int = Field(ge=8)
    validation_clips: int = Field(ge=8)
    frames: int = Field(ge=2, description="frames of one clip; at least a window")
    normal_share: float = Field(gt=0, lt=1, description="share of clips in which nothing happens")
    normal_windows: float = Field(gt=0, lt=1, description="share of a step's windows in which nothing happens")
    workers: int = Field(2, ge=0, le=64, description="processes that render")


class ClipData(Section):
    """What every set of labelled clips has in common."""

    labels: tuple[str, ...] = Field((), description="the classes in the model's order; the alphabet's by default")
    cache: Path = Field(Path("runs/cache"), description="folder for decoded clips")
    workers: int = Field(2, ge=0, le=64, description="processes that decode or render")
    train_scale: float = Field(1.0, ge=1, le=2, description="training clips are kept larger by this, for sharp crops")
    steps: int = Field(1, ge=1, le=8, description="frames kept for each one of fps, so that speeds can be drawn")


class ClipsData(ClipData):
    """Video files: a CSV list, a folder of classes, UCF101's lists; see `training.data.clip_lists`."""

    kind: Literal["clips"] = "clips"
    path: Path = Field(description="a CSV with path,label,split,group, or a folder")
    videos: Path | None = Field(None, description="folder that the list's paths are relative to, if not its own")
    ucf101_list: Literal[1, 2, 3] = Field(1, description="which of UCF101's three lists")
    train_split: str = "train"
    held_back_split: str = "val"
    folds: int | None = Field(None, ge=2, le=100, description="instead of splits: deal groups into so many parts")
    fold: int = Field(0, ge=0, description="the part that is held back")
    held_back_share: float = Field(0.2, gt=0, lt=1, description="for lists that tell no splits")
    resize: Resize = Field("stretch", description="how a frame of another shape becomes the model's")
    find_twins: bool = Field(True, description="look for near-duplicates across the split")

    @model_validator(mode="after")
    def _fold_exists(self) -> ClipsData:
        if self.fold and self.fold >= (self.folds or 1):
            raise ValueError(f"fold={self.fold}: counts from 0 to folds - 1 (folds={self.folds})")
        return self


class VolumesData(ClipData):
    """MedMNIST's .npz of grey volumes: slices are frames, grey is written three times."""

    kind: Literal["volumes"] = "volumes"
    path: Path = Field(description="the .npz, with train_images, train_labels, val_images, …")
    train_split: str = "train"
    held_back_split: str = "val"
    keep: tuple[int, int, int] | None = Field(
        None, description="take only so many first voxels of depth, height and width; all by default"
    )


class GesturesMadeData(ClipData):
    """Clips that `training.builtin.gestures` makes; they can be shipped, they show nobody."""

    kind: Literal["gestures_made"] = "gestures_made"
    clips: int = Field(ge=4, description="to train on")
    held_back_clips: int = Field(ge=4)
    frames: int = Field(ge=2, description="of one clip, at the recipe's fps")
    trajectories: Path | None = Field(None, description=".npz of paths that people drew, used for some of the clips")


class Part(Section):
    """One source of a mixture."""

    share: float = Field(gt=0, description="of the windows of a step, against the other parts' shares")
    held_back: bool = Field(True, description="whether the model is measured on what this part holds back")
    data: ClipsData | VolumesData | GesturesMadeData = Field(discriminator="kind")


class MixedData(Section):
    """Several sources with the same classes, drawn from by share."""

    kind: Literal["mixed"] = "mixed"
    parts: tuple[Part, ...] = Field(min_length=2, max_length=16)

    @model_validator(mode="after")
    def _is_measured(self) -> MixedData:
        if not any(part.held_back for part in self.parts):
            raise ValueError("parts: at least one must have held_back: true, or nothing is measured")
        return self


ClipRecipe = ClipsData | VolumesData | GesturesMadeData | MixedData
DataRecipe = Annotated[CameraEventsData | ClipRecipe, Field(discriminator="kind")]


class WindowsRecipe(Section):
    """How windows are cut from clips."""

    fit: Literal["rate", "stretch"] = Field(
        "rate", description="windows at the recipe's fps, as serving has them; or the whole clip stretched to one"
    )
    span: tuple[float, float] = Field((0.8, 1.0), description="with stretch: share of a clip that training sees")
    jitter: float = Field(0.3, ge=0, le=0.5, description="training's times are off by up to this share of an interval")
    short_clips: Fill = Field("hold", description="a clip shorter than a window: hold its last frame, or loop it")
    measured: int = Field(
        5, ge=0, le=1000, description="windows of a held-back clip, whose answers are averaged; 0: all"
    )
    balanced: bool = Field(True, description="draw every class as often, however many clips it has")
    views: int = Field(0, ge=0, le=256, description="with a frozen encoder: how often each clip is drawn and encoded")

    @model_validator(mode="after")
    def _ordered(self) -> WindowsRecipe:
        if not 0.1 <= self.span[0] <= self.span[1] <= 1:
            raise ValueError(f"span={list(self.span)}: two shares, the smaller first, between 0.1 and 1")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the model asks of a clip."""

    fps: float
    frames_per_chunk: int
    chunks: int
    height: int
    width: int

    @property
    def window(self) -> int:
        """Frames in one window."""
        return self.frames_per_chunk * self.chunks

    def enlarged(self, scale: float) -> tuple[int, int]:
        """(height, width), each `scale` times as large."""
        return math.ceil(self.height * scale), math.ceil(self.width * scale)

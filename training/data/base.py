"""The base classes of a recipe's `data` section; each kind of data is a subclass in a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources import Resize
from training.data.dataset import DataSet
from training.data.shape import Shape
from training.errors import RecipeError
from training.section import Section


class DataSection(Section, ABC):
    """One kind of data: its keys in a recipe, how to open it, and what other code must know about it."""

    kind: str

    synthetic: ClassVar[bool] = False
    """Whether the project renders the clips itself, so that a bundle may contain some of them."""
    cuts_windows: ClassVar[bool] = False
    """Whether this kind cuts and augments windows itself. Recipes then have no `windows` and `augment` sections."""
    required_model: ClassVar[str | None] = None
    """The only `model.kind` that this kind can train; None where every kind can."""
    trains_head_only: ClassVar[bool] = False
    """Whether this kind encodes its windows once, with a frozen encoder, so that only a head can be trained."""
    has_benchmark: ClassVar[bool] = False
    """Whether a benchmark on other data exists, whose figures `export --figures` adds to the model card."""

    @property
    def has_independent_labels(self) -> bool:
        """Tell whether a clip may have several labels, or none."""
        return False

    @abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """Return the classes without decoding clips. Raises `DataError` where they are not known."""

    @abstractmethod
    def open(self, shape: Shape, *, seed: int, stretch: bool) -> DataSet:
        """Read, check, and decode or render the data. Raises `DataError` for data that cannot be trained on.

        `stretch`: windows stretch whole clips, so validation clips are also kept at `steps` times the frame rate.
        """

    @property
    @abstractmethod
    def cache_folder(self) -> Path:
        """Return the folder for decoded or rendered clips."""

    @property
    def resize_policy(self) -> Resize | None:
        """Return how frames of another shape become the model's; None where no video files are read."""
        return None

    @property
    def area(self) -> PictureArea:
        """Return the part of each film's picture that the model sees."""
        return WHOLE

    @property
    def volume_crop(self) -> tuple[int, int, int] | None:
        """Return how many first voxels of depth, height and width are used; None for all, or without volumes."""
        return None

    @abstractmethod
    def card_text(self) -> str:
        """Describe the data's origin in a sentence of the model card."""

    def dataset_names(self) -> tuple[str, ...]:
        """Return the names of the data sets for the model card: the folder of a list, or the name of another file."""
        path: Path | None = getattr(self, "path", None)
        if path is None:
            return ()
        return (path.stem if path.suffix == ".npz" else path.parent.name if path.suffix else path.name,)

    def check_shape(self, shape: Shape) -> None:
        """Raise `ValueError` where clips of this section are too short for the model."""

    def spec_metrics(self, metrics: dict[str, Any], benchmark: dict[str, Any] | None) -> dict[str, float]:
        """Select the figures that a bundle's `spec.json` gets. `benchmark`: the benchmark's figures, if measured."""
        names = ("top1", "top5", "balanced_accuracy", "map", "macro_f1", "auc", "clips")
        return {name: metrics[name] for name in names if metrics.get(name) is not None}


class ClipSection(DataSection, ABC):
    """The keys that all sets of labelled clips have in common."""

    labels: tuple[str, ...] = Field(
        (), description="the classes, in the order of the model's outputs; alphabetical by default"
    )
    cache: Path = Field(Path("runs/cache"), description="folder for decoded or rendered clips")
    workers: int = Field(2, ge=0, le=64, description="processes that decode or render")
    train_scale: float = Field(
        1.0, ge=1, le=2, description="training clips are stored this many times larger, so that crops stay sharp"
    )
    steps: int = Field(
        1, ge=1, le=8, description="frames stored for each frame at the recipe's fps, so that speeds can be varied"
    )

    @property
    def cache_folder(self) -> Path:
        """Return the folder for decoded or rendered clips."""
        return self.cache


def given_path(path: Path | None, what: str) -> Path:
    """Return `path`, or raise `RecipeError` that says how to get the data and how to give their path."""
    if path is None:
        raise RecipeError(
            f"data.path: missing. Give {what} on the command line: data.path=PATH. "
            "The comment at the top of the recipe says where its data come from; "
            "`python -m training download` fetches organmnist3d and ucf101top5"
        )
    return path

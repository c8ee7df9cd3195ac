"""The `data` section of a recipe: the union of all kinds of data, and mixtures of several of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources import Resize
from training.builtin.camera_events.data import CameraEventsData
from training.builtin.gestures.data import SyntheticGesturesData
from training.builtin.gestures.stream_data import GestureStreamsData
from training.data.base import DataSection
from training.data.clips import ConcatenatedClips
from training.data.dataset import ClipDataSet
from training.data.shape import Shape
from training.data.video_files import ClipsData
from training.data.volumes import VolumesData
from training.errors import DataError, RecipeError
from training.section import Section


class MixturePart(Section):
    """One source of a mixture."""

    share: float = Field(gt=0, description="weight of this part's windows in a training batch, against other parts'")
    validation: bool = Field(True, description="whether this part's validation clips measure the model")
    data: ClipsData | VolumesData | SyntheticGesturesData = Field(discriminator="kind")

    def check_path(self, number: int) -> None:
        """Raise `RecipeError` where part `number` lacks its path, so that no other part is rendered in vain."""
        try:
            self.data.label_names()
        except RecipeError as error:
            raise RecipeError(str(error).replace("data.path", f"data.parts.{number}.data.path")) from error


class MixedData(DataSection):
    """Several sources with the same classes. Training windows are drawn from them by share."""

    kind: Literal["mixed"] = "mixed"
    parts: tuple[MixturePart, ...] = Field(min_length=2, max_length=16)

    @model_validator(mode="after")
    def _check_validation(self) -> MixedData:
        if not any(part.validation for part in self.parts):
            raise ValueError("parts: at least one must have validation: true, or nothing measures the model")
        if len({part.data.has_independent_labels for part in self.parts}) > 1:
            raise ValueError("parts: some have multi_label: true and some have not; give it to all parts, or to none")
        return self

    @property
    def has_independent_labels(self) -> bool:
        """Tell whether clips of the parts may have several labels."""
        return self.parts[0].data.has_independent_labels

    def label_names(self) -> tuple[str, ...]:
        """Return the classes of the first part; all parts have the same."""
        return self.parts[0].data.label_names()

    def open(self, shape: Shape, *, seed: int, stretch: bool) -> ClipDataSet:
        """Open all parts and put their clips together."""
        for number, part in enumerate(self.parts):
            part.check_path(number)
        sets = [part.data.open(shape, seed=seed, stretch=stretch) for part in self.parts]
        for other in sets[1:]:
            if other.labels != sets[0].labels:
                raise DataError(
                    f"parts: one has the classes {', '.join(sets[0].labels)}, another {', '.join(other.labels)}; give "
                    "all parts the same data.labels"
                )
        total = sum(part.share for part in self.parts)
        validation = [item.validation for part, item in zip(self.parts, sets, strict=True) if part.validation]
        return ClipDataSet(
            labels=sets[0].labels,
            training=ConcatenatedClips([item.training for item in sets]),
            validation=validation[0] if len(validation) == 1 else ConcatenatedClips(validation),
            odds=np.concatenate([part.share / total * item.odds for part, item in zip(self.parts, sets, strict=True)]),
            notes=[note for item in sets for note in item.notes],
        )

    @property
    def cache_folder(self) -> Path:
        """Return the cache folder of the first part."""
        return self.parts[0].data.cache_folder

    @property
    def resize_policy(self) -> Resize | None:
        """Return the policy of the first part that reads video files; it holds for all parts."""
        policies = [part.data.resize_policy for part in self.parts]
        return next((policy for policy in policies if policy is not None), None)

    @property
    def area(self) -> PictureArea:
        """Return the part of the picture of the first part that has one; evaluation uses it for all clips."""
        return next((part.data.area for part in self.parts if part.data.area != WHOLE), WHOLE)

    @property
    def volume_crop(self) -> tuple[int, int, int] | None:
        """Return the crop of the first part that has one."""
        crops = [part.data.volume_crop for part in self.parts]
        return next((crop for crop in crops if crop is not None), None)

    def dataset_names(self) -> tuple[str, ...]:
        """Return the names of all parts."""
        return tuple(name for part in self.parts for name in part.data.dataset_names())

    def card_text(self) -> str:
        """Describe each part, with its share."""
        return " ".join(f"{part.data.card_text()[:-1]} ({part.share:g} parts)." for part in self.parts)


DataRecipe = Annotated[
    CameraEventsData | ClipsData | VolumesData | SyntheticGesturesData | GestureStreamsData | MixedData,
    Field(discriminator="kind"),
]

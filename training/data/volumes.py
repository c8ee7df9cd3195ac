"""The data kind `volumes`: MedMNIST's volumes as clips of slices, from one .npz file.

The file has the arrays train_images, train_labels, val_images and so on.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engines.arrays import F32, I64, U8
from engines.printable import printable
from streamclf.sources.resize import render_bgr
from training.data.base import ClipSection, given_path
from training.data.clips import Clips
from training.data.dataset import ClipDataSet
from training.data.shape import Shape
from training.errors import DataError

MAX_BYTES = 16 << 30


class VolumesData(ClipSection):
    """MedMNIST's .npz of grey volumes: slices become frames, and grey is copied into three channels."""

    kind: Literal["volumes"] = "volumes"
    path: Path | None = Field(None, description="the .npz, with train_images, train_labels, val_images, …")
    train_split: str = "train"
    validation_split: str = "val"
    keep: tuple[int, int, int] | None = Field(
        None, description="use only this many first voxels of depth, height and width; all by default"
    )

    @property
    def volume_crop(self) -> tuple[int, int, int] | None:
        """Return how many first voxels of depth, height and width are used."""
        return self.keep

    def given_path(self) -> Path:
        """Return the .npz. Raises `RecipeError` where the recipe gives none."""
        return given_path(self.path, "the .npz file in MedMNIST's format")

    def label_names(self) -> tuple[str, ...]:
        """Return the classes; numbers where the recipe does not name them."""
        path = self.given_path()
        return self.labels or _label_names(path, read_volumes(path, self.train_split, crop=None)[1], ())

    def open(self, shape: Shape, *, seed: int, stretch: bool) -> ClipDataSet:
        """Read both splits."""
        path = self.given_path()
        volumes, classes = read_volumes(path, self.train_split, crop=self.keep)
        labels = _label_names(path, classes, self.labels)
        counts = Counter(classes.tolist())
        for number, name in enumerate(labels):
            if not counts[number]:
                raise DataError(
                    f"class {name!r}: no volume of it in {self.train_split}_labels of {path}; is the file complete?"
                )
        others, other_classes = read_volumes(path, self.validation_split, crop=self.keep)
        _label_names(path, other_classes, labels)
        notes = []
        if volumes.shape[1] != shape.window:
            notes.append(f"volumes have {volumes.shape[1]} slices, a window takes {shape.window} of them")
        trained = {volume.tobytes() for volume in volumes}
        if duplicates := sum(volume.tobytes() in trained for volume in others):
            notes.append(
                f"{duplicates} of {len(others)} validation volumes are also training volumes; the figures are too good"
            )
        return ClipDataSet(
            labels=labels,
            training=VolumeClips(volumes, classes, split=self.train_split, size=shape.enlarged(self.train_scale)),
            validation=VolumeClips(
                others, other_classes, split=self.validation_split, size=(shape.height, shape.width)
            ),
            notes=notes,
        )

    def card_text(self) -> str:
        """Name the file and its validation split."""
        return f"volumes of `{printable(self.given_path().name)}`; `{self.validation_split}` is for validation."


class VolumeClips(Clips):
    """Grey volumes (N, D, H, W) uint8 as clips of D frames of `size` (h, w), the same grey in all three channels."""

    aux_names: Sequence[str] = ()

    def __init__(self, volumes: U8, labels: I64, *, split: str, size: tuple[int, int]) -> None:
        self._volumes, self._size = volumes, size
        self.labels = labels
        self.names = [f"{split}[{i}]" for i in range(len(labels))]
        self.groups = [""] * len(labels)

    def key(self, index: int) -> str:
        """Return the digest of the voxels."""
        return hashlib.sha256(self._volumes[index].tobytes()).hexdigest()

    def steps(self, index: int) -> int:
        """Return 1, because slices are not sampled in time."""
        return 1

    def frames(self, index: int) -> U8:
        """Return (D, h, w, 3)."""
        volume = self._volumes[index]
        if volume.shape[1:] == self._size:
            return np.broadcast_to(volume[..., None], (*volume.shape, 3))
        out = np.empty((len(volume), *self._size, 3), np.uint8)
        for plane, target in zip(volume, out, strict=True):
            render_bgr(np.repeat(plane[..., None], 3, axis=2), *self._size, "stretch", target)
        return out

    def aux_targets(self, index: int) -> F32 | None:
        """Return None: volumes have no auxiliary targets."""
        return None


def read_volumes(path: Path, split: str, *, crop: tuple[int, int, int] | None) -> tuple[U8, I64]:
    """Read ((N, D, H, W) uint8, (N,) labels) of one split. Raises `DataError` for a file of another format."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size >> 30} GiB of arrays, at most {MAX_BYTES >> 30}; is it MedMNIST's?")
        with np.load(path, allow_pickle=False) as arrays:
            names = [f"{split}_images", f"{split}_labels"]
            if absent := [name for name in names if name not in arrays]:
                raise DataError(f"{path}: no array {absent[0]} (it has {', '.join(arrays)}); give other splits")
            images, labels = (np.asarray(arrays[name]) for name in names)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); `python -m training download organmnist3d` fetches one set, "
            "and data.path=PATH gives another file"
        ) from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: not a .npz of plain arrays ({error}); download it again") from error
    if images.ndim == 5 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(f"{path}: {split}_images is {images.dtype} {images.shape}; expected uint8 (N, D, H, W)")
    labels = labels.reshape(len(labels), -1)
    if labels.shape != (len(images), 1) or not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
        raise DataError(f"{path}: {split}_labels is {labels.dtype} {labels.shape}; expected one class for each volume")
    if crop is not None:
        if any(wanted > available for wanted, available in zip(crop, images.shape[1:], strict=True)):
            raise DataError(
                f"data.keep={list(crop)}: volumes in {path} have only {list(images.shape[1:])} voxels; lower it"
            )
        images = images[:, : crop[0], : crop[1], : crop[2]]
    return images, labels[:, 0].astype(np.int64)


def _label_names(path: Path, labels: npt.NDArray[np.int64], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the names `wanted`, or the classes' numbers. Raises `DataError` where there are too few names."""
    classes = int(labels.max()) + 1 if len(labels) else 0
    if not wanted:
        return tuple(str(number) for number in range(classes))
    if classes > len(wanted):
        raise DataError(f"{path}: has class {classes - 1}, but data.labels has only {len(wanted)} names; name them all")
    return tuple(wanted)

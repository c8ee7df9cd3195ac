"""MedMNIST's volumes, one .npz with the arrays train_images, train_labels, …: a volume is a clip of slices."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.arrays import F32, I64, U8
from streamclf.sources.resize import render_bgr
from training.data.clips import Clips
from training.errors import DataError

MAX_BYTES = 16 << 30


class VolumeClips(Clips):
    """Grey volumes (N, D, H, W) uint8 as clips of D frames of the size asked for, grey in all three channels."""

    truth_names: Sequence[str] = ()

    def __init__(self, volumes: U8, labels: I64, *, split: str, size: tuple[int, int]) -> None:
        self._volumes, self._size = volumes, size
        self.labels = labels
        self.names = [f"{split}[{i}]" for i in range(len(labels))]
        self.groups = [""] * len(labels)

    def key(self, index: int) -> str:
        """Of its voxels."""
        return hashlib.sha256(self._volumes[index].tobytes()).hexdigest()

    def steps(self, index: int) -> int:
        """Slices are not sampled in time."""
        return 1

    def frames(self, index: int) -> U8:
        """(D, h, w, 3)."""
        volume = self._volumes[index]
        if volume.shape[1:] == self._size:
            return np.broadcast_to(volume[..., None], (*volume.shape, 3))
        out = np.empty((len(volume), *self._size, 3), np.uint8)
        for plane, place in zip(volume, out, strict=True):
            render_bgr(np.repeat(plane[..., None], 3, axis=2), *self._size, "stretch", place)
        return out

    def truths(self, index: int) -> F32 | None:
        """Volumes tell nothing but their label."""
        return None


def read_volumes(path: Path, split: str, *, keep: tuple[int, int, int] | None) -> tuple[U8, I64]:
    """((N, D, H, W) uint8, (N,) labels) of one split. Raises `DataError` for what is not such a file."""
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
            f"{path}: cannot be read ({error.strerror}); python -m training download organmnist3d"
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
    if keep is not None:
        if any(want > have for want, have in zip(keep, images.shape[1:], strict=True)):
            raise DataError(f"data.keep={list(keep)}: volumes in {path} have {list(images.shape[1:])} voxels")
        images = images[:, : keep[0], : keep[1], : keep[2]]
    return images, labels[:, 0].astype(np.int64)


def volume_labels(path: Path, labels: npt.NDArray[np.int64], wanted: Sequence[str]) -> tuple[str, ...]:
    """The classes' names: those wanted, or their numbers. Raises `DataError` where there are too few."""
    classes = int(labels.max()) + 1 if len(labels) else 0
    if not wanted:
        return tuple(str(number) for number in range(classes))
    if classes > len(wanted):
        raise DataError(f"{path}: has class {classes - 1}, data.labels only {len(wanted)} names; give them all")
    return tuple(wanted)

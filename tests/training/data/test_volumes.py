"""MedMNIST's volumes are read as clips of slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.labelled import write_volumes

from training.data.shape import Shape
from training.data.volumes import VolumesData
from training.errors import DataError, RecipeError

SHAPE = Shape(fps=10.0, frames_per_chunk=2, chunks=4, height=32, width=48)


def test_slices_become_frames(tmp_path: Path) -> None:
    path = write_volumes(tmp_path / "organmnist3d.npz")
    shape = Shape(fps=28.0, frames_per_chunk=4, chunks=7, height=28, width=28)
    data = VolumesData(path=path).open(shape, seed=1, stretch=False)
    assert data.labels == tuple(str(i) for i in range(11))
    assert np.bincount(data.training.labels).tolist() == [3] * 11
    with np.load(path) as arrays:
        volume = arrays["train_images"][4]
    frames = data.training.frames(4)
    assert frames.shape == (28, 28, 28, 3)
    assert all(np.array_equal(frames[..., channel], volume) for channel in range(3)), "every voxel is used"
    smaller = VolumesData(path=path, keep=(24, 24, 24)).open(
        Shape(fps=28.0, frames_per_chunk=8, chunks=3, height=24, width=24),
        seed=1,
        stretch=False,
    )
    assert np.array_equal(smaller.training.frames(4)[..., 0], volume[:24, :24, :24])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((2, 28, 28, 28), np.float32)}, "no array train_labels"),
        (
            {"train_images": np.zeros((2, 28, 28, 28), np.float32), "train_labels": np.zeros((2, 1), np.uint8)},
            "train_images is float32",
        ),
        (
            {"train_images": np.zeros((2, 8, 8, 8), np.uint8), "train_labels": np.array([None, None])},
            "not a .npz of plain arrays",
        ),
    ],
)
def test_arrays_of_another_format_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(DataError, match=message):
        VolumesData(path=tmp_path / "v.npz").open(SHAPE, seed=1, stretch=False)


def test_missing_path_is_an_error_that_says_how_to_give_it() -> None:
    with pytest.raises(RecipeError, match=r"data\.path: missing.*on the command line: data\.path=PATH"):
        VolumesData().open(SHAPE, seed=1, stretch=False)

"""The data of the gestures' head: batches of windows from clips, rendered clips and films, each encoded once."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from shutil import copy
from typing import Any

import av
import numpy as np
import pytest
import torch
from support.labelled import draw_clip, write_film, write_list
from torch import nn

from training.builtin.gestures.films import FPS, STYLES, write_films
from training.builtin.gestures.stream_data import GestureStreamsData
from training.data.augment import AugmentRecipe
from training.data.shape import Shape
from training.data.windows import WindowsRecipe
from training.errors import DataError, RecipeError
from training.recipe import parse_recipe

SHAPE = Shape(fps=8.0, frames_per_chunk=2, chunks=8, height=48, width=64)


class Brightness(nn.Module):
    """An encoder with one point, which stays in the middle, and the brightness of a chunk; it counts the chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 1, 1)
        self.chunks = 0

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        self.chunks += len(frames)
        bright = frames.float().mean(dim=(1, 2, 3, 4))[:, None]
        return torch.cat([torch.zeros(len(frames), 3), bright], dim=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a list of clips of two shapes and of other motion."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for label, drawn in (("left", "left"), ("right", "right"), ("other", "still")):
        for number, split in enumerate(("train", "train", "val")):
            frames = draw_clip(drawn, number, frames=20)
            path = write_film(folder / label / f"{label}_{number}.mp4", frames)
            rows.append((str(path.relative_to(folder)), label, split, f"{label}{number}"))
    return write_list(folder / "clips.csv", rows)


def section(clips: Path, cache: Path, **options: Any) -> GestureStreamsData:
    given = {"path": clips, "cache": cache, "steps": 2, "workers": 0, "find_duplicates": False}
    rendered = {
        "clips": 6,
        "validation_clips": 4,
        "frames": 8,
        "cache": cache,
        "labels": ["left", "other", "right"],
        "workers": 0,
    }
    return GestureStreamsData.model_validate(
        {"shapes": given, "rendered": rendered, "films": [given], "views": 1, "streams": 12, "stream_s": 20, **options}
    )


def test_batches_of_windows_are_encoded_once(clips: Path, tmp_path: Path) -> None:
    encoder = Brightness()
    options: dict[str, Any] = {"windows": WindowsRecipe(fit="stretch"), "augment": AugmentRecipe(), "seed": 1}
    data = section(clips, tmp_path).open(SHAPE, seed=1, stretch=True)
    assert data.labels == ("left", "other", "right")
    batch = next(iter(data.encoded_batches(encoder, batch=256, **options)))
    assert batch["features"].shape == (256, 8, 4)
    assert 0.3 < batch["target"][:, 1].mean() < 0.5, "other: 0.3 of the windows, and its third of the whole clips"
    assert batch["target"].sum() == 256
    encoded, again = encoder.chunks, data.encoded_batches(encoder, batch=256, **options)
    assert encoder.chunks == encoded, "the second run reads the cache"
    torch.testing.assert_close(next(iter(again))["features"], batch["features"])


def test_only_a_head_can_be_trained(clips: Path, tmp_path: Path) -> None:
    tree = {
        "name": "small",
        "fps": 8,
        "model": {"kind": "keypoint", "height": 48, "width": 64, "frames_per_chunk": 2, "chunks": 8},
        "data": section(clips, tmp_path).model_dump(mode="json"),
        "optimiser": {"learning_rate": 1e-3, "warmup_steps": 1, "steps": 4, "batch": 4, "frozen_steps": 4},
        "validate_every": 4,
    }
    assert parse_recipe(tree, where="recipe").frozen
    with pytest.raises(RecipeError, match=r"gesture_streams trains a head alone; set optimiser.frozen_steps=4"):
        parse_recipe({**tree, "optimiser": {**tree["optimiser"], "frozen_steps": 0}}, where="recipe")
    with pytest.raises(RecipeError, match=r"data\.stream_s=1\.0: a window has 2 s"):
        parse_recipe({**tree, "data": {**tree["data"], "stream_s": 1.0}}, where="recipe")


def test_a_list_without_other_is_refused(clips: Path, tmp_path: Path) -> None:
    rows = [line.split(",") for line in clips.read_text().splitlines()[1:] if "other" not in line]
    listed = write_list(clips.parent / "shapes.csv", rows)
    with pytest.raises(DataError, match="no clip of the class 'other'"):
        section(listed, tmp_path).open(SHAPE, seed=1, stretch=True)


def test_films_of_held_out_shapes_have_the_times_of_the_shapes(clips: Path, tmp_path: Path) -> None:
    listed = write_films(clips, tmp_path / "films", split="val")
    with listed.open(newline="") as file:
        films = list(csv.DictReader(file))
    assert len(films) == 2 * len(STYLES)
    for film in films:
        assert film["path"].startswith(film["label"])
        assert float(film["start_s"]) == pytest.approx(10, abs=0.04)
        assert float(film["end_s"]) - float(film["start_s"]) == pytest.approx(2, abs=0.1)
        with av.open(str(listed.parent / film["path"])) as opened:
            seconds = opened.streams.video[0].frames / FPS
        assert seconds == pytest.approx(17, abs=0.2), "ten seconds before the shape, five after it"


def test_clips_of_one_name_in_several_folders_become_films_of_their_own(clips: Path, tmp_path: Path) -> None:
    rows = [line.split(",") for line in clips.read_text().splitlines()[1:]]
    shapes = [row for row in rows if row[2] == "val" and row[1] != "other"]
    for row in shapes:
        folder = tmp_path / row[1]
        folder.mkdir()
        copy(clips.parent / row[0], folder / "1.mp4")
    listed = write_list(tmp_path / "clips.csv", [[f"{row[1]}/1.mp4", *row[1:]] for row in shapes])
    films = write_films(listed, tmp_path / "films", split="val").read_text().splitlines()[1:]
    assert len({film.split(",")[0] for film in films}) == len(films) > len(shapes)
    with pytest.raises(DataError, match=r"cannot be written \(File exists\)"):
        write_films(listed, listed, split="val")
    name = films[0].split(",")[0]
    (tmp_path / "films" / name).unlink()
    (tmp_path / "films" / name).mkdir()
    with pytest.raises(DataError, match=rf"{name}: cannot be written \(Is a directory\); give another folder"):
        write_films(listed, tmp_path / "films", split="val")


def test_films_of_a_split_without_shapes_are_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip of a shape in the split 'test'"):
        write_films(clips, tmp_path / "films", split="test")


def test_a_window_ends_with_its_label(clips: Path, tmp_path: Path) -> None:
    """Windows with the label of a shape hold that shape; with this encoder, only the shapes' places differ."""
    data = section(clips, tmp_path).open(SHAPE, seed=1, stretch=True)
    batches = data.encoded_batches(
        Brightness(), windows=WindowsRecipe(fit="stretch"), augment=AugmentRecipe(), seed=1, batch=64
    )
    first, second = (batch["target"].numpy() for batch in islice(batches, 2))
    assert not np.array_equal(first, second), "each step draws other windows"

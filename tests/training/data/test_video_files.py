"""Sets of video files are split as their list says, and problems with clips are reported in notes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.clips import write_audio
from support.labelled import CLASSES, draw_clip, write_film, write_list, write_set

from training.data.shape import Shape
from training.data.video_files import ClipsData
from training.errors import DataError, RecipeError

SHAPE = Shape(fps=10.0, frames_per_chunk=2, chunks=4, height=32, width=48)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a set of three classes: six training clips and four validation clips of each."""
    folder = tmp_path_factory.mktemp("films")
    write_set(folder, clips=6, validation=4)
    return folder


def clips_data(films: Path, tmp_path: Path, **keys: Any) -> ClipsData:
    return ClipsData(path=films / "clips.csv", cache=tmp_path / "cache", workers=1, **keys)


def test_set_is_split_as_its_list_says(films: Path, tmp_path: Path) -> None:
    data = clips_data(films, tmp_path, train_scale=1.25, steps=2).open(SHAPE, seed=1, stretch=False)
    assert data.labels == CLASSES
    assert np.bincount(data.training.labels).tolist() == [6, 6, 6]
    assert np.bincount(data.validation.labels).tolist() == [4, 4, 4]
    assert data.training.frames(0).shape == (24, 40, 60, 3)
    assert data.validation.frames(0).shape == (12, 32, 48, 3)


def test_unreadable_clips_are_left_out_with_a_note(films: Path, tmp_path: Path) -> None:
    rows = [tuple(line.split(",")) for line in (films / "clips.csv").read_text().splitlines()[1:]]
    (films / "bad.mp4").write_bytes(b"not a film" * 100)
    for name, *_ in rows:
        (films / "copies" / name).parent.mkdir(parents=True, exist_ok=True)
        (films / "copies" / name).hardlink_to(films / name)
    copies = [(f"copies/{name}", *others) for name, *others in rows]
    path = write_list(films / "with_bad.csv", [*rows, *copies, ("bad.mp4", "left", "train", "x")])
    data = ClipsData(path=path, cache=tmp_path, workers=1, find_duplicates=False).open(SHAPE, seed=1, stretch=False)
    assert len(data.training.labels) == 36
    (note,) = [note for note in data.notes if "cannot be read" in note]
    assert note.startswith("training: 1 of 37 clips cannot be read and are left out")
    assert "bad.mp4" in note


def test_more_than_five_percent_of_unreadable_clips_are_an_error(films: Path, tmp_path: Path) -> None:
    write_audio(films / "sound.mp4")
    rows = [tuple(line.split(",")) for line in (films / "clips.csv").read_text().splitlines()[1:]]
    path = write_list(
        films / "more_bad.csv", [*rows, ("sound.mp4", "left", "train", "x"), ("gone.mp4", "left", "train", "y")]
    )
    with pytest.raises(
        DataError, match=r"2 of 20 clips cannot be read, at most 5% may: .*sound.mp4.*gone.mp4: no such file"
    ):
        ClipsData(path=path, cache=tmp_path, workers=1).open(SHAPE, seed=1, stretch=False)


def test_short_clips_are_counted_in_a_note(films: Path, tmp_path: Path) -> None:
    long = Shape(fps=10.0, frames_per_chunk=4, chunks=5, height=32, width=48)
    data = clips_data(films, tmp_path).open(long, seed=1, stretch=False)
    assert any("18 of 18 clips are shorter than a window (shortest 12 of 20 frames)" in note for note in data.notes)


def test_near_duplicates_between_the_splits_are_named(tmp_path: Path) -> None:
    frames = draw_clip("left", 5, frames=14)
    rows = []
    for name, pictures, split in (
        ("original_a.mp4", frames[:12], "train"),
        ("copy_a.mp4", np.clip(frames[1:13].astype(int) + 9, 0, 255).astype(np.uint8), "val"),
        ("other_b.mp4", draw_clip("right", 77), "train"),
        ("another_b.mp4", draw_clip("right", 78), "val"),
    ):
        write_film(tmp_path / name, pictures)
        rows.append((name, name[-5], split, name))
    path = write_list(tmp_path / "clips.csv", rows)
    data = ClipsData(path=path, cache=tmp_path / "cache", workers=1).open(SHAPE, seed=1, stretch=False)
    (note,) = [note for note in data.notes if "near-duplicates" in note]
    assert "1 of 2 validation clips" in note
    assert "copy_a.mp4 and original_a.mp4" in note


def test_missing_path_is_an_error_that_says_how_to_give_it() -> None:
    with pytest.raises(RecipeError, match=r"data\.path: missing.*on the command line: data\.path=PATH"):
        ClipsData().open(SHAPE, seed=1, stretch=False)


def test_clips_with_names_that_are_not_utf8_do_not_end_training(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            source = films / label / f"{label}_{number % 10}.mp4"
            (folder / label / f"{number}.mp4").write_bytes(source.read_bytes())
    name = os.fsencode(folder / "left") + b"/caf\xe9.mp4"
    Path(os.fsdecode(name)).write_bytes((films / "left/left_0.mp4").read_bytes())
    data = ClipsData(path=folder, cache=tmp_path / "cache", workers=1)
    opened = data.open(SHAPE, seed=1, stretch=False)
    text = [*opened.notes, *opened.training.names, *opened.validation.names]
    assert "".join(text).encode(), "names and notes can be written as UTF-8"
    assert any(r"caf\xe9.mp4" in line for line in text), "the clip is used, or a note names it"
    assert len(opened.training.labels) + len(opened.validation.labels) >= 24

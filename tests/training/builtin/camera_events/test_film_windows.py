"""Windows of real film, and the list of a folder's films."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.labelled import write_film

from engines.bundle import ModelSpec, load_bundle
from training.builtin.camera_events.benchmark import RealFilm, cases, real_photos
from training.builtin.camera_events.data import CameraEventsData
from training.builtin.camera_events.film_windows import FilmWindows, listed_films, training_films
from training.data.shape import Shape
from training.errors import DataError

SHAPE = Shape(fps=10, frames_per_chunk=2, chunks=8, height=32, width=48)
LINES = {
    "b.mp4,train,later,\n": "could not convert.*write start_s and end_s in seconds",
    "b.mp4,train,3,2\n": "start_s 3, end_s 2",
    "b.mp4,training,,\n": "split 'training'; write train, tuning or held-out",
    ",train,,\n": "no path",
    "b.mp4,train,2,3,4\n": "5 fields, but the first line names 4 columns",
}
"""Faulty lines of a list, and the errors."""


def film_folder(folder: Path, lines: str, *, seconds: int = 4) -> Path:
    """Write a film whose grey level is five times the number of the frame, and a list of films with `lines`."""
    grey = np.arange(0, 50 * seconds, 5, dtype=np.uint8)
    write_film(folder / "a.mp4", np.broadcast_to(grey[:, None, None, None], (len(grey), 64, 96, 3)).copy())
    (folder / "films.csv").write_text("path,split,start_s,end_s\n" + lines)
    return folder


def test_windows_lie_within_the_times_of_the_list(tmp_path: Path) -> None:
    folder = film_folder(tmp_path, "a.mp4,train,1,3\na.mp4,held-out,0,4\n")
    windows = FilmWindows.decoded([folder], SHAPE, tmp_path / "cache", workers=0)
    drawn = [windows.draw(np.random.default_rng(seed)) for seed in range(30)]
    assert {window.shape for window in drawn} == {(16, 32, 48, 3)}
    levels = np.array([[frame.mean() / 5 for frame in window] for window in drawn])
    assert levels[:, 0].min() == pytest.approx(10, abs=0.6)
    assert levels[:, 0].max() == pytest.approx(14, abs=0.6)
    assert levels[:, -1].max() == pytest.approx(29, abs=0.6)


def test_a_photograph_is_held_with_a_cameras_noise(tmp_path: Path) -> None:
    photo = np.random.default_rng(1).integers(0, 255, (32, 48, 3)).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), photo[..., ::-1])
    (tmp_path / "films.csv").write_text("path\na.png\n")
    windows = FilmWindows.decoded([tmp_path], SHAPE, tmp_path / "cache", workers=0)
    drawn = np.stack([windows.draw(np.random.default_rng(seed)) for seed in range(20)]).astype(float)
    assert drawn.shape == (20, 16, 32, 48, 3)
    assert np.abs(drawn.mean(axis=(0, 1)) - photo).mean() < 0.2
    noise = drawn.std(axis=1).mean(axis=(1, 2, 3))
    assert noise.min() < 0.8
    assert 1.5 < noise.max() < 2.6


def test_each_folder_is_drawn_as_often_as_another(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    film_folder(few, "a.mp4,train,,\n")
    for level in range(9):
        assert cv2.imwrite(str(many / f"{level}.png"), np.full((32, 48, 3), 251 + level % 2, np.uint8))
    (many / "films.csv").write_text("path\n" + "".join(f"{level}.png\n" for level in range(9)))
    windows = FilmWindows.decoded([few, many], SHAPE, tmp_path / "cache", workers=0)
    rng = np.random.default_rng(3)
    photos = sum(windows.draw(rng).mean() > 240 for _ in range(200))
    assert 75 <= photos <= 125


@pytest.mark.parametrize(("line", "reason"), LINES.items())
def test_a_faulty_line_of_the_list_is_named(tmp_path: Path, line: str, reason: str) -> None:
    folder = film_folder(tmp_path, "a.mp4,train,,\n" + line)
    with pytest.raises(DataError, match=f"films.csv(:|, line )3: .*{reason}"):
        listed_films(folder)


def test_a_folder_without_films_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"films\.csv: no such file; .python -m training download"):
        training_films(tmp_path)
    with pytest.raises(DataError, match="no film has the split 'train'"):
        training_films(film_folder(tmp_path, "a.mp4,tuning,,\n"))
    with pytest.raises(DataError, match="lists no film"):
        training_films(film_folder(tmp_path, ""))
    short = film_folder(tmp_path, "a.mp4,train,1,2\n")
    with pytest.raises(DataError, match=r"1 s from start_s to end_s, and a window has 1\.6 s; remove its line"):
        FilmWindows.decoded([short], SHAPE, tmp_path / "cache", workers=0)


def test_a_recipe_gives_both_the_film_and_its_share(tmp_path: Path) -> None:
    rest = {
        "kind": "camera_events",
        "cache": tmp_path,
        "clips": 14,
        "validation_clips": 14,
        "frames": 20,
        "normal_share": 0.5,
        "normal_windows": 0.3,
        "workers": 0,
    }
    with pytest.raises(ValueError, match="give both, or neither"):
        CameraEventsData.model_validate({**rest, "film": tmp_path})
    with pytest.raises(ValueError, match="give both, or neither"):
        CameraEventsData.model_validate({**rest, "film_windows": 0.5})
    folder = film_folder(tmp_path, "a.mp4,train,,\n")
    given = {**rest, "film": folder, "film_windows": 1.0, "fresh_windows": 1.0}
    batches = CameraEventsData.model_validate(given)
    opened = batches.open(SHAPE, seed=1, stretch=False)
    batch = opened.training_batches(SHAPE, windows=None, augment=None, seed=1, batch=6).sample_batch(  # type: ignore[arg-type]
        np.random.default_rng(1), 6
    )
    # Every frame of this film has one grey level, and none of the rendered scenes has.
    flat = [float(window.astype(float).std(axis=(2, 3)).mean()) for window in batch["frames"].numpy()]
    assert min(flat) < 3
    assert f"(files: 1 of `{folder.name}`)" in batches.card_text()


def test_the_benchmark_uses_the_listed_time_alone(tmp_path: Path, spec: ModelSpec) -> None:
    film_folder(tmp_path, "a.mp4,tuning,1,3\n")
    film = RealFilm(path=tmp_path / "a.mp4", source="fixed-cameras", half="tuning", start_s=1.0, end_s=3.0)
    starts = [case.start_s for case in cases([film], spec, kinds=("normal",))]
    assert starts == pytest.approx([1.0, 1.2, 1.4])
    assert not list(cases([film], spec, kinds=("noise",))), "these films are for false alarms only"


def test_the_benchmark_holds_a_photograph_for_one_window(tmp_path: Path, spec: ModelSpec) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = np.random.default_rng(1).integers(0, 255, (spec.height, spec.width, 3)).astype(np.uint8)
    assert cv2.imwrite(str(folder / "a.png"), photo[..., ::-1])
    assert cv2.imwrite(str(folder / "b.png"), photo)
    (folder / "films.csv").write_text("path,split\na.png,held-out\nb.png,train\n")
    ((case,), (again,)) = (list(cases(real_photos(tmp_path), spec)) for _ in range(2))
    assert (case.film, case.source, case.half, case.label) == ("a.png", "photos", "held-out", "normal")
    assert case.frames.shape == (spec.chunks, spec.frames_per_chunk, spec.height, spec.width, 3)
    assert np.abs(case.frames.astype(float).mean(axis=(0, 1)) - photo).mean() < 1
    assert np.array_equal(case.frames, again.frames), "a second measurement gives the same figures"
    assert not real_photos(folder), "without the folder, no photograph counts"


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_bundle(Path("streamclf/bundles/camera-events")).spec

"""Films for the live measurement show one disturbance at the given time, and nothing before and after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.labelled import write_film

from engines.arrays import F64, U8
from training.builtin.camera_events import LABELS
from training.builtin.camera_events.benchmark import RealFilm, real_films
from training.builtin.camera_events.live_films import (
    AFTER_S,
    BEFORE_S,
    STATES,
    STAY_S,
    event_films,
    ordinary_films,
    read_film,
)
from training.errors import DataError


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[RealFilm]:
    """Write two still films of 3 s, one for each half, whose pixels differ from place to place, and one that moves."""
    folder = tmp_path_factory.mktemp("films")
    picture = np.kron(np.random.default_rng(1).integers(40, 200, (9, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for name in ("a.mp4", "b.mp4", "nofi019.mp4"):
        write_film(folder / name, np.repeat(picture[None], 30, axis=0))
    return [
        RealFilm(path=folder / "a.mp4", source="clips", half="held-out"),
        RealFilm(path=folder / "b.mp4", source="no_fight", half="tuning"),
        RealFilm(path=folder / "nofi019.mp4", source="no_fight", half="tuning"),
    ]


def changes(frames: U8) -> F64:
    """Return the mean difference of each frame from the one before."""
    return np.asarray(np.abs(np.diff(frames.astype(np.float64), axis=0)).mean(axis=(1, 2, 3)))


def test_each_label_has_a_film_with_one_event_at_its_time(films: list[RealFilm]) -> None:
    made = list(event_films(films, 1))
    assert [(film.source.half, film.label) for film in made] == [
        (half, label) for half in ("held-out", "tuning") for label in LABELS[1:]
    ]
    assert {film.source.path.name for film in made} == {"a.mp4", "b.mp4"}  # the camera of the third moves
    for film in made:
        times, moving = film.excerpt.times_s, changes(film.excerpt.frames)
        assert times[-1] == pytest.approx(BEFORE_S + STAY_S + AFTER_S, abs=0.15)
        assert BEFORE_S <= film.start_s < film.end_s <= BEFORE_S + STAY_S
        still = np.median(moving[times[1:] < BEFORE_S])
        active = times[1:][moving > still + 0.5]
        assert active.min() >= BEFORE_S
        assert active.max() <= BEFORE_S + STAY_S + 0.15
        # A cover comes within a quarter of a second before the time from which it counts.
        assert active.min() == pytest.approx(film.start_s, abs=0.5)
        before, during, after = (
            film.excerpt.frames[np.searchsorted(times, time_s)].astype(float)
            for time_s in (BEFORE_S - 1, (film.start_s + film.end_s) / 2, BEFORE_S + STAY_S + 1)
        )
        if film.label in STATES:
            assert np.abs(during - before).mean() > 3
            assert np.abs(after - before).mean() < 1


def test_a_short_film_goes_backwards_at_its_end(films: list[RealFilm], tmp_path: Path) -> None:
    grey = np.arange(20, 220, 10, dtype=np.uint8)
    path = write_film(tmp_path / "ramp.mp4", np.broadcast_to(grey[:, None, None, None], (20, 32, 32, 3)).copy())
    read = list(read_film(path, at_least_s=5.0))
    times = np.array([time_s for time_s, _ in read])
    light = np.array([image.mean() for _, image in read])
    assert times == pytest.approx(np.arange(len(times)) / 10)
    assert times[-1] >= 5.0
    assert np.abs(np.diff(light)).max() < 20
    assert light[19] == pytest.approx(210, abs=4)
    assert light[38] == pytest.approx(20, abs=4)
    assert light[48] == pytest.approx(120, abs=4)


def test_ordinary_films_come_in_four_variants(films: list[RealFilm]) -> None:
    made = [(film.path.name, list(frames)) for film, frames in ordinary_films(films)]
    assert [name for name, _ in made] == ["a.mp4", "b.mp4"] * 4
    shapes = [frames[0][1].shape for _, frames in made]
    assert shapes[::2] == [(72, 96, 3), (72, 96, 3), (58, 77, 3), (50, 67, 3)]
    whole, mirrored = made[0][1][0][1].astype(int), made[2][1][0][1].astype(int)
    assert np.abs(whole - mirrored[:, ::-1]).mean() < 2 < np.abs(whole - mirrored).mean()
    assert all(frames[-1][0] >= 12 for _, frames in made)


def test_a_film_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4: cannot be read as video"):
        list(read_film(tmp_path / "text.mp4"))


def test_a_list_of_films_without_a_column_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fight").mkdir()
    (tmp_path / "fight" / "clips.csv").write_text("path,kind\na.mp4,no_fight\n")
    with pytest.raises(DataError, match=r"clips\.csv: no column 'label'; it needs path, label and group"):
        real_films(tmp_path)

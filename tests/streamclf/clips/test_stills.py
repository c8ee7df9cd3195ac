"""Pictures of films: the right frame, upright, small enough, and one clear error for anything else."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.clips import read_number, write_clip

from streamclf.clips import stills
from streamclf.clips.film_info import FilmAction, FilmInfo, Pictures, Point
from streamclf.clips.folder import ClipFolder
from streamclf.clips.names import clip_name
from streamclf.clips.stills import (
    draw_picture,
    drawn_state,
    encode_picture,
    frame_at,
    make_pictures,
    picture_size,
    write_picture,
)
from streamclf.config.picture_area import PictureArea
from streamclf.errors import ClipError
from streamclf.render.overlay import OverlayState
from streamclf.render.palette import label_bgr

B_FRAMES = {"preset": "veryfast", "bf": "2", "sc_threshold": "0", "x264-params": "threads=1"}


@pytest.mark.parametrize("options", [None, B_FRAMES])
@pytest.mark.parametrize(("at_s", "number"), [(0.0, 0), (1.2, 30), (1.999, 49), (1.0, 25), (99.0, 49), (-3.0, 0)])
def test_the_frame_at_a_time_is_decoded(
    tmp_path: Path, at_s: float, number: int, options: dict[str, str] | None
) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=50, gop=25, options=options)
    assert read_number(frame_at(film, at_s)) == number


def test_decoding_begins_at_the_key_frame_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=100, gop=10)
    monkeypatch.setattr(stills, "MAX_DECODED", 12)
    assert read_number(frame_at(film, 3.0)) == 75


def test_a_picture_is_upright_and_small(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=3, width=2560, height=640, rotation=90)
    assert frame_at(film, 0.0).shape == (1280, 320, 3)
    film = write_clip(tmp_path / "wide.mp4", frames=3, width=160, height=120, pixel_aspect=Fraction(2))
    assert frame_at(film, 0.0).shape == (120, 320, 3)
    assert picture_size(1080, 1920) == (720, 1280)
    assert picture_size(1, 100_000) == (1, 1280)


@pytest.mark.parametrize("content", [b"", b"not a film", b"\0\0\0\x18ftypmp42" + bytes(100)])
def test_a_file_that_is_no_film_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipError, match="no picture can be decoded"):
        frame_at(path, 1.0)
    with pytest.raises(ClipError, match="no picture can be decoded"):
        frame_at(tmp_path, 1.0)


def test_the_beginning_of_a_broken_film_still_gives_a_picture(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=50)
    data = bytearray(film.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = os.urandom(2000)
    film.write_bytes(data)
    assert frame_at(film, 1.8).shape == (180, 320, 3)


def test_a_picture_is_limited_in_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    for limit in (300_000, 60_000):
        jpeg = encode_picture(noise, limit)
        assert len(jpeg) <= limit
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None
    with pytest.raises(ClipError, match="more than 1000 bytes"):
        encode_picture(noise, 1000)


@pytest.mark.parametrize(
    "label", ["fight", "\u05e9\u05dc\u05d5\u05dd \U0001f600", "x" * 256, "<b>\n\x1b[31m", "\ud800"]
)
def test_any_label_can_be_drawn(label: str) -> None:
    plain = np.full((360, 640, 3), 90, np.uint8)
    jpeg = draw_picture(plain, OverlayState(stream=label, top=((label, 0.93),), actions=(label,)))
    drawn = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (360, 640, 3)
    assert np.abs(drawn.astype(int) - 90).max() > 100


def film_info(film_label: str = "fight", *points: Point) -> FilmInfo:
    began = datetime(2026, 11, 29, 12, 0, 0, tzinfo=timezone.utc)
    name = clip_name("door", began, film_label)
    action = FilmAction(label=film_label, started_s=100.5, start=7, peak=0.9)
    return FilmInfo(
        name=name, began=began, start_s=100.0, end_s=102.0, actions=(action,), epoch="9f" * 16, points=points
    )


def test_the_pictures_show_the_most_probable_moment(tmp_path: Path) -> None:
    info = film_info("fight", Point(100.6, "fight", 0.8), Point(101.2, "fight", 0.9), Point(101.6, "fight", 0.7))
    film = tmp_path / info.name.film
    film.parent.mkdir(parents=True)
    write_clip(film, frames=50, width=640, height=360)
    assert make_pictures(film, info) == Pictures(info.name.still, info.name.drawn)
    plain = cv2.imread(str(tmp_path / info.name.still))
    drawn = cv2.imread(str(tmp_path / info.name.drawn))
    assert plain is not None
    assert drawn is not None
    assert read_number(plain) == 30
    assert np.abs(plain.astype(int) - drawn)[180:].mean() > 5
    assert len(list(film.parent.iterdir())) == 3
    clip = ClipFolder(tmp_path).find(info.name.film)
    assert (clip.has_film, clip.has_still, clip.has_drawn) == (True, True, True)


def test_without_a_known_moment_the_start_of_the_action_counts(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=50)
    info = film_info("fight", Point(300.0, "fight", 0.99), Point(101.0, "other", 0.99))
    make_pictures(film, info)
    plain = cv2.imread(str(tmp_path / f"{info.name.stem}.jpg"))
    assert plain is not None
    assert read_number(plain) == 12


def test_a_film_without_a_drawing_keeps_its_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> bytes:
        raise ClipError("no room")

    monkeypatch.setattr(stills, "draw_picture", fail)
    film = write_clip(tmp_path / "film.mp4", frames=50)
    info = film_info()
    assert make_pictures(film, info) == Pictures(info.name.still, None)


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.jpg", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["a.jpg"]

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ClipError, match="No space left on device; the picture is lost"):
        write_picture(tmp_path / "b.jpg", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["a.jpg"]
    with pytest.raises(ClipError, match="No such file"):
        write_picture(tmp_path / "none" / "b.jpg", b"new")


def test_a_picture_never_overwrites_the_target_of_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"old")
    (tmp_path / ".a.jpg.part").symlink_to(victim)
    (tmp_path / "a.jpg").symlink_to(victim)
    write_picture(tmp_path / "a.jpg", b"new")
    assert victim.read_bytes() == b"old"
    assert (tmp_path / "a.jpg").read_bytes() == b"new"
    assert not (tmp_path / "a.jpg").is_symlink()


def test_stills_are_rotated_mirrored_and_masked_as_the_stream_is(tmp_path: Path) -> None:
    info = film_info("fight", Point(101.2, "fight", 0.9))
    film = tmp_path / info.name.film
    film.parent.mkdir(parents=True)
    write_clip(film, frames=50, width=640, height=360)
    make_pictures(film, info)
    plain = cv2.imread(str(tmp_path / info.name.still))
    assert plain is not None
    make_pictures(film, info, PictureArea(rotate=90, flip="vertical", mask=[[0, 0, 1, 0.25]]))
    for path in (info.name.still, info.name.drawn):
        got = cv2.imread(str(tmp_path / path))
        assert got is not None
        assert got.shape == (640, 360, 3)
    got = cv2.imread(str(tmp_path / info.name.still))
    assert got is not None
    assert got[:158].max() < 8, "the mask"
    expected = np.rot90(plain, -1)[::-1]
    assert np.abs(got[170:].astype(int) - expected[170:]).mean() < 4
    make_pictures(film, replace(info, encoded=True), PictureArea(rotate=90))
    unchanged = cv2.imread(str(tmp_path / info.name.still))
    assert unchanged is not None
    assert (unchanged == plain).all(), "the service had rotated the pictures before it encoded the film"


def test_a_still_shows_the_rectangle_of_its_region(tmp_path: Path) -> None:
    info = film_info("fight", Point(101.2, "fight", 0.9, "gate"))
    info = replace(info, actions=(replace(info.actions[0], region="gate"),))
    film = tmp_path / info.name.film
    film.parent.mkdir(parents=True)
    write_clip(film, frames=50, width=640, height=360)

    def edge(areas: dict[str, tuple[float, float, float, float]]) -> float:
        """Return how far the left edge of the rectangle is from the colour of the label."""
        make_pictures(film, info, areas=lambda: areas)
        drawn = cv2.imread(str(tmp_path / info.name.drawn))
        assert drawn is not None
        return float(np.abs(drawn[120:160, 160].astype(int) - label_bgr("fight")).mean())

    assert edge({"gate": (0.25, 0.1, 0.75, 0.6)}) < 25
    assert edge({"yard": (0.25, 0.1, 0.75, 0.6)}) > 40, "another region"


def test_a_still_names_the_views_of_all_actions_that_run() -> None:
    info = film_info("fight", Point(101.0, "fight", 0.8, "gate"), Point(101.1, "fight", 0.7, "gate", "hands"))
    first = replace(info.actions[0], region="gate")
    info = replace(info, actions=(first, replace(first, model_name="hands", started_s=100.6)))
    state = drawn_state(info, 101.2, 0.8, {"gate": (0.0, 0.0, 0.5, 1.0)})
    assert [(view.name, view.present, view.actions, view.area) for view in state.views] == [
        ("gate", [("fight", 0.8)], ["fight"], (0.0, 0.0, 0.5, 1.0)),
        ("gate · hands", [("fight", 0.7)], ["fight"], (0.0, 0.0, 0.5, 1.0)),
    ]
    assert drawn_state(film_info("fight"), 101.0, 0.8, {}).views == ()

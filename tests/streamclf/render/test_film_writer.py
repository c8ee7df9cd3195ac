"""A film keeps the times of its frames, and an unfinished or impossible film leaves no file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from support.full_disk import files_of_at_most

from streamclf.errors import SourceError, UsageError
from streamclf.render import film_writer
from streamclf.render.film_writer import FilmWriter, GifWriter, fit


def frame(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 128, np.uint8)


def test_an_image_is_fitted_with_its_aspect_ratio_and_dark_borders() -> None:
    fitted = fit(frame(100, 100), 50, 200)
    assert fitted.shape == (50, 200, 3)
    assert (fitted[:, 75:125] == 128).all()
    assert (fitted[:, :75] == 20).all()
    original = frame(50, 200)
    assert fit(original, 50, 200) is original


def test_a_film_keeps_times_and_pads_odd_sizes(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path) as film:
        for time_s in (0.0, 0.5, 0.5, 2.0):
            film.write(frame(271, 333), time_s)
        assert film.frames == 3
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == [0.0, 0.5, 2.0]
    assert (frames[0].height, frames[0].width) == (272, 334)


def test_a_film_without_frames_leaves_no_file(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4"):
        pass
    assert not (tmp_path / "film.mp4").exists()
    with pytest.raises(UsageError, match=r"\.mp4"):
        FilmWriter(tmp_path / "film.txt")
    with pytest.raises(SourceError, match="writable"):
        FilmWriter(tmp_path / "missing" / "film.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
@pytest.mark.parametrize("missing", [None, 1])
def test_a_film_that_does_not_fit_is_an_error(tmp_path: Path, suffix: str, missing: int | None) -> None:
    def write(path: Path) -> None:
        with GifWriter(path) if suffix == ".gif" else FilmWriter(path) as film:
            for number in range(70):  # more than the encoder holds back, so that a write fails before the end
                film.write(frame(60, 80 + number % 2), number / 25)

    write(whole := tmp_path / f"whole{suffix}")
    size = 1 if missing is None else whole.stat().st_size - missing
    with files_of_at_most(size), pytest.raises(SourceError, match=r"File too large; check that its disk is not full"):
        write(tmp_path / f"cut{suffix}")


def test_a_gif_repeats_and_keeps_times(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    with GifWriter(path) as gif:
        for time_s in (0.0, 0.5, 2.0):
            gif.write(frame(60, 80), time_s)
        assert gif.frames == 3
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [each.time for each in frames] == pytest.approx([0.0, 0.5, 2.0])
    assert b"NETSCAPE2.0" in path.read_bytes()  # the extension that makes a GIF repeat


def test_a_gif_that_is_too_long_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_writer, "MAX_GIF_FRAMES", 2)

    def write_three_frames() -> None:
        with GifWriter(tmp_path / "film.gif") as gif:
            for number in range(3):
                gif.write(frame(60, 80), number / 10)

    with pytest.raises(SourceError, match=r"more than 2 frames; write an \.mp4"):
        write_three_frames()
    assert not (tmp_path / "film.gif").exists()

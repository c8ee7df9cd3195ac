"""The rendered film: it decodes, moves, and survives being saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamclf.bench.cameras.film import EncodedFilm, FilmSpec, load_film, save_film
from streamclf.errors import UsageError


def test_a_film_decodes_to_its_frames_and_survives_saving(film: EncodedFilm, tmp_path: Path) -> None:
    save_film(film, tmp_path / "film")
    assert load_film(tmp_path / "film") == film
    decoder: Any = av.CodecContext.create("h264", "r")
    frames = [
        frame for unit in film.units for frame in decoder.decode(av.Packet(b"".join(b"\0\0\0\1" + nal for nal in unit)))
    ]
    frames += decoder.decode(None)
    assert len(frames) == len(film.units) == 100
    assert {(frame.width, frame.height) for frame in frames} == {(320, 180)}
    first, second = (frame.to_ndarray(format="rgb24") for frame in frames[:2])
    assert np.abs(first.astype(int) - second).mean() > 0.5, "decoding identical frames would cost nothing"


@pytest.mark.parametrize(
    ("spec", "message"),
    [((32, 32, 25), "--size 32x32"), ((321, 180, 25), "even"), ((320, 180, 0.5), "--fps 0.5: must be 1 to 240")],
)
def test_impossible_sizes_and_frame_rates_are_refused(spec: tuple[int, int, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FilmSpec(width=spec[0], height=spec[1], fps=spec[2])

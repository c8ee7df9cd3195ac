"""Fixtures of the bench's tests: a small film and a small bundle."""

from __future__ import annotations

import pytest
from support.bundles import make_brightness_bundle

from engines.bundle import Bundle
from streamclf.bench.cameras.film import EncodedFilm, FilmSpec, make_film


@pytest.fixture(scope="module")
def film() -> EncodedFilm:
    """Four seconds of 320x180 at 25 frames/s."""
    return make_film(FilmSpec(width=320, height=180, fps=25))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that tells bright from dark frames."""
    return make_brightness_bundle(tmp_path_factory.mktemp("bundles") / "brightness")

"""Occlusion finds the part of the picture that decides: for a model that reads one corner, that corner."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from support.bundles import SHARPNESS, make_brightness_bundle

from engines.bundle import Bundle
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.classifier.explanation import choose_windows
from streamclf.classifier.film_events import FilmEvent
from streamclf.classifier.occlusion import MIN_SIDE, Occlusion, check_size, grid, parts_of
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.errors import UsageError
from streamclf.sources.resize import Box

SIZE, CORNER = 32, 8
WHOLE = Box(0, 0, SIZE, SIZE)
BRIGHT = 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("corner") / "bundle", size=SIZE, corner=CORNER)


@pytest.fixture(scope="module", params=[3, 16])
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Engine]:
    """An engine that encodes less than a window at once, and one that encodes four windows."""
    engine = open_engine(
        bundle, max_batch=request.param, bank_slots=offline_bank_slots(bundle.spec, request.param), precision="fp32"
    )
    yield engine
    engine.close()


def window(light: int = 140) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    frames = np.full((4, 2, SIZE, SIZE, 3), 40, np.uint8)
    frames[:, :, :CORNER, :CORNER] = light
    return frames


def test_only_the_corner_that_the_model_reads_is_hot(engine: Engine) -> None:
    drops = Occlusion(engine).drops(window(), BRIGHT, WHOLE)
    assert drops.shape == (8, 8)
    assert (drops[:2, :2] > 0.05).all(), "each of the four parts of the corner supports the label"
    drops[:2, :2] = 0
    assert np.abs(drops).max() < 1e-5


def test_the_drop_is_that_of_the_probability_with_one_part_hidden(engine: Engine) -> None:
    drops = Occlusion(engine).drops(window(), BRIGHT, WHOLE)

    def bright(mean: float) -> float:
        return float(1 / (1 + np.exp(-2 * SHARPNESS * (mean - 128))))

    hidden = round((140 * CORNER**2 + 40 * (SIZE**2 - CORNER**2)) / SIZE**2)
    expected = bright(140) - bright((3 * 140 + hidden) / 4)
    assert np.allclose(drops[:2, :2], expected, atol=1e-3)


def test_heat_is_relative_but_small_drops_stay_faint(engine: Engine) -> None:
    heat = Occlusion(engine).explain(window(), BRIGHT, WHOLE)
    assert heat.maps.shape == (1, SIZE, SIZE)
    assert heat.largest is not None
    assert heat.largest > 0.1
    assert heat.maps.max() == pytest.approx(1, abs=1e-5)
    assert heat.maps[0, 2 * CORNER :].max() == heat.maps[0, :, 2 * CORNER :].max() == 0
    faint = Occlusion(engine).explain(window(light=250), BRIGHT, WHOLE)  # so sure that no part alone changes it
    assert faint.largest is not None
    assert faint.largest < 0.05
    assert faint.maps.max() == pytest.approx(10 * faint.largest, rel=0.01)


def test_letterbox_bars_are_not_hidden(engine: Engine) -> None:
    frames = window()
    frames[:, :, :CORNER] = 0  # the bars
    frames[:, :, -CORNER:] = 0
    area = Box(CORNER, 0, SIZE - 2 * CORNER, SIZE)
    heat = Occlusion(engine).explain(frames, 0, area)
    assert heat.largest == pytest.approx(0, abs=1e-5), "the corner that the model reads is a bar"
    assert not heat.maps.any()


def test_parts_are_nearly_square_and_a_tiny_picture_is_refused(bundle: Bundle) -> None:
    assert grid(144, 192) == (7, 9)
    assert grid(224, 224) == (8, 8)
    assert grid(8, 192) == (2, 39)
    assert grid(12, 12) == (3, 3)
    tiny = bundle.spec.model_copy(update={"height": MIN_SIDE - 1, "width": 300})
    with pytest.raises(UsageError, match=r"300x11 pixels, at least 12x12"):
        check_size(tiny)
    check_size(bundle.spec)
    assert parts_of(bundle.spec) == 64


def event(peak: float, window: int) -> FilmEvent:
    return FilmEvent(label=0, start_s=0, end_s=1, mean=peak, peak=peak, peak_window=window, windows=1)


def test_peaks_are_explained_first_and_then_windows_at_equal_distances() -> None:
    events = [event(0.5, 3), event(0.9, 50), event(0.7, 80)]
    assert choose_windows(events, 100, 2) == [50, 80]
    assert choose_windows(events, 100, 3) == [3, 50, 80]
    assert choose_windows(events, 100, 8) == [0, 3, 14, 28, 42, 50, 57, 80]
    assert choose_windows([event(0.9, 0)], 1, 12) == [0]

"""Files are classified window by window; a long picture costs nothing, and a short clip fills a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_clip

from engines.arrays import F32, I32, U8
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.classifier import offline
from streamclf.classifier.offline import classify_file
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.errors import SourceError


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    bundle = make_brightness_bundle(tmp_path / "brightness")
    slots = offline_bank_slots(bundle.spec, 4)
    opened = open_engine(bundle, backend="onnxruntime", precision="fp32", max_batch=4, bank_slots=slots)
    yield opened
    opened.close()


class CountingEngine:
    """Count the chunks that are encoded and the windows that are classified."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.spec, self.max_batch = engine.spec, engine.max_batch
        self.encoded = self.classified = 0

    def encode(self, frames: U8, slots: I32) -> None:
        self.encoded += len(frames)
        self._engine.encode(frames, slots)

    def classify(self, windows: I32) -> F32:
        self.classified += len(windows)
        return self._engine.classify(windows)


def test_a_picture_of_an_hour_is_encoded_once(engine: Engine, tmp_path: Path) -> None:
    """A time lapse has all windows of its time, and each is what it would be if every frame were new."""
    long = write_clip(tmp_path / "long.mp4", times_ms=[0, 40, 80, 3_600_000, 3_600_040, 3_600_080])
    counting = CountingEngine(engine)
    windows = classify_file(counting, long).windows  # type: ignore[arg-type]
    assert len(windows) == 17_998
    assert counting.encoded < 10
    assert counting.classified < 20
    starts = [window.start_s for window in windows]
    assert starts == pytest.approx([0.2 * i for i in range(len(windows))])
    short = classify_file(engine, write_clip(tmp_path / "short.mp4", times_ms=[0, 40, 80, 6000, 6040, 6080])).windows
    for window, expected in zip(windows[:10], short[:10], strict=True):
        assert np.array_equal(window.probabilities, expected.probabilities)
    for window, expected in zip(windows[-5:], short[-5:], strict=True):
        assert np.array_equal(window.probabilities, expected.probabilities)


@pytest.mark.parametrize(("frames", "end_s"), [(1, 0.1), (6, 0.24), (17, 0.68)])
def test_a_short_clip_ends_where_its_film_ends(engine: Engine, tmp_path: Path, frames: int, end_s: float) -> None:
    """The interval of the last sample (0.1 s here, 2.5 s for some models) is no part of the clip's duration."""
    result = classify_file(engine, write_clip(tmp_path / "short.mp4", frames=frames))
    assert result.short_clip == "hold"
    assert [(window.start_s, window.end_s) for window in result.windows] == [(0.0, pytest.approx(end_s))]


def test_a_film_of_too_many_windows_is_refused(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MAX_WINDOWS", 10)
    with pytest.raises(SourceError, match="more than 10 windows; cut the film, or give a larger --hop"):
        classify_file(engine, write_clip(tmp_path / "a.mp4", frames=100))

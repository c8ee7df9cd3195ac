"""The live measurement of camera-events plays all films, and keeps the halves apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.labelled import write_film

from engines.opening import open_engine
from training.builtin.camera_events.benchmark import RealFilm
from training.evaluation.camera_events_live import camera_events_text, measure_camera_events
from training.evaluation.live import live_bank_slots


def test_events_and_false_starts_of_both_halves(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "bundle", labels=("normal", "covered"))
    films = []
    for name, half, grey in (("dark.mp4", "held-out", 30), ("bright.mp4", "tuning", 230)):
        write_film(tmp_path / name, np.full((30, 48, 64, 3), grey, np.uint8))
        films.append(RealFilm(path=tmp_path / name, source="clips", half=half))
    engine = open_engine(bundle, precision="fp32", bank_slots=live_bank_slots(bundle.spec, 16))
    result = measure_camera_events(engine, films, each=1)
    engine.close()
    assert [result[half]["events"]["events"] for half in ("held-out", "tuning", "all")] == [6, 6, 12]
    assert result["held-out"]["ordinary"]["false_starts"]["count"] == 0
    # Each of the four variants of the bright film is `covered` from its beginning, for at least 12 s.
    bright = result["tuning"]["ordinary"]["false_starts"]
    assert bright["count"] == 4
    assert bright["hours"] == pytest.approx(4 * 12 / 3600, rel=0.15)
    assert result["all"]["distinct_hours"] == pytest.approx(2 * 3 / 3600, abs=1e-4)
    text = camera_events_text(result)
    assert "held-out: 6 events in 6 films" in text
    assert ": 4 covered" in text

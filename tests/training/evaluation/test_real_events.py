"""Film in which something really happens to a camera is measured stretch by stretch; other time is unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.labelled import write_film

from engines.opening import open_engine
from training.errors import DataError
from training.evaluation.live import live_bank_slots
from training.evaluation.real_events import FilmPart, measure_real_events, read_real_films, real_events_text

HEADER = "path,label,start_s,end_s,arrives_s,region\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film of 10 s: its left half is dark for 4 s, then bright; its right half is always bright."""
    frames = np.full((100, 48, 64, 3), 230, np.uint8)
    frames[:40, :, :32] = 20
    write_film(tmp_path / "film.mp4", frames)
    return tmp_path


def test_windows_and_actions_of_each_stretch(folder: Path) -> None:
    rows = "film.mp4,normal,0,3.9,,0 0 0.5 1\nfilm.mp4,covered,4,9.9,3.8,0 0 0.5 1\n"
    (folder / "films.csv").write_text(HEADER + rows)
    bundle = make_brightness_bundle(folder / "bundle", labels=("normal", "covered"))
    engine = open_engine(bundle, precision="fp32", bank_slots=live_bank_slots(bundle.spec, 16))
    result = measure_real_events(engine, read_real_films(folder))
    engine.close()
    windows = result["windows"]
    assert windows["normal"]["right"] == windows["normal"]["windows"] > 0
    assert windows["covered"]["right"] == windows["covered"]["windows"] > 0
    assert windows["covered"]["lying"]["windows"] > windows["covered"]["coming"]["windows"] > 0
    assert windows["noise"]["windows"] == 0
    assert (result["events"]["events"], result["events"]["right"]) == (1, 1)
    assert result["scene_lost"] == {"covered": {"events": 1, "known": 0, "started": 0, "started_of_known": 0}}
    assert result["false_starts"]["count"] == 0
    assert result["false_starts"]["hours"] == pytest.approx(3.9 / 3600, abs=1e-4)
    text = real_events_text(result)
    assert "film.mp4: covered from 4 to 9.9 s" in text


def test_a_region_is_the_camera_s_part_of_the_picture(folder: Path) -> None:
    (folder / "films.csv").write_text(HEADER + "film.mp4,covered,0,9.9,,0.5 0 1 1\n")
    bundle = make_brightness_bundle(folder / "bundle", labels=("normal", "covered"))
    engine = open_engine(bundle, precision="fp32", bank_slots=live_bank_slots(bundle.spec, 16))
    found = measure_real_events(engine, read_real_films(folder))["windows"]["covered"]
    engine.close()
    assert found["right"] == found["windows"] > 0


@pytest.mark.parametrize(
    ("label", "start_s", "end_s", "counts"),
    [
        ("normal", 2.0, 3.6, True),
        ("normal", 1.9, 3.5, False),
        ("covered", 1.2, 2.8, False),
        ("covered", 1.4, 3.0, True),
        ("moved", 1.2, 2.8, False),
        ("moved", 1.0, 9.0, True),
    ],
)
def test_a_window_counts_if_it_shows_the_state_for_long_or_the_whole_event(
    label: str, start_s: float, end_s: float, *, counts: bool
) -> None:
    assert FilmPart(label=label, start_s=2, end_s=4, arrives_s=2).counts(start_s, end_s) is counts


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (HEADER + "film.mp4,drak,0,1,,\n", "line 2: label 'drak'; write one of normal, "),
        (HEADER + "film.mp4,covered,2,1,,\n", "line 2: arrives_s 2, start_s 2, end_s 1; write 0 or more"),
        (HEADER + "film.mp4,covered,0,x,,\n", "line 2: could not convert"),
        (HEADER + "film.mp4,covered,0,1,,0 0 2 1\n", "line 2: "),
        (HEADER, "lists no film"),
        ("path,label\nfilm.mp4,covered\n", "no column 'start_s'"),
    ],
)
def test_a_wrong_list_is_named_with_its_line(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "films.csv").write_text(text)
    with pytest.raises(DataError, match=fault):
        read_real_films(tmp_path)


def test_a_missing_list_is_named_with_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training download real-events"):
        read_real_films(tmp_path)

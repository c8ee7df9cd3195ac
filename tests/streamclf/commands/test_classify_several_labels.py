"""`classify` handles models whose labels are independent: none, one or several are present in a window."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_flat

import streamclf
from streamclf.cli import _main

THRESHOLDS = {"dark": 0.3, "bright": 0.4}
GREYS = {"night": 20, "dusk": 135, "day": 240}
"""The grey level of each film. At dusk both labels are present: p(dark) is about 0.41, p(bright) about 0.59."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "bundle"
    return str(make_brightness_bundle(folder, activation="sigmoid", thresholds=THRESHOLDS).path)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, grey in GREYS.items():
        write_flat(folder / f"{name}.mov", (grey,) * 3, width=32, height=32, frames=12)
    return folder


def test_a_window_lists_the_labels_that_are_present(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = make_brightness_bundle(tmp_path / "b", activation="sigmoid", thresholds={"dark": 0.9, "bright": 0.9})
    assert _main(["classify", str(films), "--model", model, "--json"]) == 0
    found = {Path(line["file"]).stem: line["windows"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name: windows[0]["labels"] for name, windows in found.items()} == {
        "day": ["bright"], "dusk": ["bright", "dark"], "night": ["dark"],
    }  # fmt: skip
    assert sum(probability for _, probability in found["dusk"][0]["top"]) == pytest.approx(1, abs=1e-4)
    windows = list(streamclf.classify(films / "dusk.mov", model=model))
    assert {window.present for window in windows} == {("bright", "dark")}
    assert _main(["classify", str(films / "dusk.mov"), "--model", str(absent.path)]) == 0
    assert "no label is present" in capsys.readouterr().out


def test_table_and_report_take_several_true_labels_of_a_film(
    films: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list gives labels in one cell, in two rows, and none for a film."""
    listed, table, report = (tmp_path / name for name in ("labels.csv", "events.csv", "report.html"))
    outputs = ["--csv", str(table), "--report", str(report), "--labels", str(listed), "--model", model]
    for rows, right in (("dusk.mov,dark; bright", 2), ("dusk.mov,bright\nFOLDER/dusk.mov,dark", 2), ("dusk.mov,", 1)):
        text = f"path,label\nFOLDER/{rows}\nFOLDER/day.mov,bright\n".replace("FOLDER", str(films))
        listed.write_text(text)
        assert _main(["classify", str(films), *outputs]) == 0
        found = list(csv.DictReader(io.StringIO(table.read_text())))
        assert [(Path(row["file"]).stem, row["label"]) for row in found] == [
            ("day", "bright"), ("dusk", "bright"), ("dusk", "dark"), ("night", "dark"),
        ]  # fmt: skip
        given = {Path(row["file"]).stem: set(filter(None, row["true_label"].split(";"))) for row in found}
        assert given == {"day": {"bright"}, "dusk": {"dark", "bright"} if right == 2 else set(), "night": set()}
        assert f"{right} of 2" in report.read_text()
    listed.write_text(f"path,label\n{films}/dusk.mov,dark;cat\n{films}/day.mov,bright\n")
    assert _main(["classify", str(films), *outputs]) == 0
    page = report.read_text()
    assert "1 of 1" in page
    assert "2 films have no true label of the model, and are not counted: cat (1)" in page
    capsys.readouterr()

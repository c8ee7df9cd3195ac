"""Regions of a running service: each has its own events, with the numbers of `streamclf classify` for that region."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.bundles import make_brightness_bundle
from support.clips import write_clip
from support.service import DEADLINE_S, Service

REGIONS = {"gate": [0.1, 0.1, 0.6, 0.5], "street": [0.2, 0.5, 1.0, 1.0]}
MASK = [0.0, 0.0, 0.3, 0.15]


def events_of(journal: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(journal)
    try:
        return [json.loads(body) for (body,) in connection.execute("SELECT body FROM events ORDER BY offset")]
    finally:
        connection.close()


def classified(folder: Path, region: list[float]) -> list[Any]:
    options = ["--rotate", "90", "--flip", "vertical", "--mask", ",".join(map(str, MASK))]
    options += ["--region", ",".join(map(str, region)), "--model", "brightness", "--json"]
    command = [sys.executable, "-m", "streamclf", "classify", "film.mp4", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    return [window["top"] for window in json.loads(done.stdout)["windows"]]


def test_each_region_has_the_predictions_that_classify_gives_for_it(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    write_clip(tmp_path / "film.mp4", frames=60)
    stream = {
        "url": "film.mp4", "pace": "fast", "decode": "exact",  # as `classify` decodes unless an option changes it
        "rotate": 90, "flip": "vertical", "mask": [MASK],
        "regions": {**REGIONS, "thin": [0, 0, 0.05, 1]},
    }  # fmt: skip
    publish = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*", "journal": "journal.db"}
    path = tmp_path / "service.yaml"
    path.write_text(json.dumps({"model": "brightness", "streams": {"yard": stream}, "publish": publish}))
    with Service("run", str(path), cwd=tmp_path) as service:
        assert service.wait() == 0, service.lines
    events = events_of(tmp_path / "journal.db")
    predictions = [event for event in events if event["type"] == "prediction"]
    assert {event["region"] for event in predictions} == {"gate", "street"}
    for name, region in REGIONS.items():
        tops = [event["top"] for event in predictions if event["region"] == name]
        assert len(tops) > 5
        assert tops == classified(tmp_path, region)
    last = [event for event in events if event["type"] == "status"][-1]
    assert last["finished"]
    assert last["note"].startswith("thin: region [0, 0, 0.05, 1] is 8x320 pixels of a picture of 180x320: at least 16x")
    assert [view["area"] for view in last["views"]] == [*REGIONS.values(), [0, 0, 0.05, 1]]

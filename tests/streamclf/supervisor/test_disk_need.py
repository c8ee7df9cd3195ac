"""`streamclf check` says how much disk the journal needs, and warns if the disk is too small."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.clips import write_clip

from streamclf.builtin_models import find_bundle
from streamclf.cli import _main
from streamclf.config.service import parse_config
from streamclf.config.views import UNNAMED
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.disk_need import OTHER_BYTES_PER_S, PREDICTION_BYTES, describe_disk, journal_bytes_per_day

BUNDLES = {UNNAMED: find_bundle("camera-events")}


def config_of(tmp_path: Path, hop: int = 1, **publish: Any) -> CheckedConfig:
    streams = {f"cam{number}": {"camera": number, "hop": hop} for number in range(8)}
    config = parse_config({"streams": streams, "publish": publish}, base=tmp_path, origin="test")
    return CheckedConfig(config, BUNDLES)


def free_bytes(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=size / 4096, f_frsize=4096))


def test_the_need_follows_streams_rate_and_hop(tmp_path: Path) -> None:
    each = 86400 * (5 * PREDICTION_BYTES + OTHER_BYTES_PER_S)  # camera-events: 5 chunks a second
    assert journal_bytes_per_day(config_of(tmp_path)) == pytest.approx(8 * each)
    each = 86400 * (1.25 * PREDICTION_BYTES + OTHER_BYTES_PER_S)
    assert journal_bytes_per_day(config_of(tmp_path, hop=4)) == pytest.approx(8 * each)


@pytest.mark.parametrize(
    ("publish", "free", "expected", "is_warned"),
    [
        ({"keep": "7d"}, 100e9, "keep=7d needs 1", False),
        ({"keep": "7d"}, 10e9, "keep=7d needs 1", True),
        ({"keep": "7d", "keep_size": "5GB"}, 10e9, "keep_size limits it to 5.0 GB, about 2", False),
        ({"keep": "7d", "keep_size": "5GB"}, 1e9, "keep_size limits it to 5.0 GB", True),
        ({"keep": "1h", "keep_size": "5GB"}, 1e9, "keep=1h needs ", False),
    ],
)
def test_the_line_names_need_and_free_space(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    publish: dict[str, str],
    free: float,
    expected: str,
    is_warned: bool,
) -> None:
    free_bytes(monkeypatch, free)
    line = describe_disk(config_of(tmp_path, **publish))
    assert line.startswith("journal: about 2.")
    assert "GB a day for 8 stream(s); " + expected in line
    assert f"; free: {free / 1e9:.1f} GB" in line
    assert ("WARNING: the disk is too small; set publish.keep_size" in line) == is_warned


def test_the_present_journal_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_bytes(monkeypatch, 4e9)
    with (tmp_path / "streamclf.db").open("wb") as file:
        file.truncate(3 * 10**9)  # sparse
    assert "free: 7.0 GB" in describe_disk(config_of(tmp_path, keep_size="5GB"))


def test_check_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "film.mp4", frames=5)
    (tmp_path / "service.yaml").write_text("streams: {film: {url: film.mp4, loop: true}}")
    assert _main(["check", str(tmp_path / "service.yaml")]) == 0
    ok, disk = capsys.readouterr().out.splitlines()
    assert f": ok: 1 stream(s), {BUNDLES[UNNAMED].spec.id}," in ok
    assert disk.startswith("journal: about 0.3 GB a day for 1 stream(s); ")
    assert "keep=7d needs 2.0 GB" in disk


def test_a_line_says_what_clips_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"streams": {"cam": {"camera": 0}}, "clips": {"before_s": 5, "after_s": 5, "keep_size": "1GB"}}
    without = CheckedConfig(parse_config(config, base=tmp_path, origin="test"), BUNDLES)
    assert "clips: WARNING: no stream has actions" in describe_disk(without)
    config["actions"] = {BUNDLES[UNNAMED].spec.labels[1]: {}}
    parsed = CheckedConfig(parse_config(config, base=tmp_path, origin="test"), BUNDLES)
    free_bytes(monkeypatch, 5e9)
    line = describe_disk(parsed).split("\n")[1]
    assert line == (
        "clips: an action of 10 s takes about 10.0 MB (at 4 Mbit/s); keep_size=1.0 GB holds 100; "
        "memory: up to 16.0 MB for 1 stream(s); free: 5.0 GB"
    )
    free_bytes(monkeypatch, 0.5e9)
    assert "older clips are removed" in describe_disk(parsed)
    assert "clips" not in describe_disk(config_of(tmp_path))


def test_a_line_says_what_examples_cost(tmp_path: Path) -> None:
    config = {"streams": {"a": {"camera": 0}, "b": {"camera": 1}}, "examples": {"last_size": "50MB"}}
    parsed = CheckedConfig(parse_config(config, base=tmp_path, origin="test"), BUNDLES)
    assert describe_disk(parsed).split("\n")[1] == (
        "examples: the last 60 s of 2 stream(s) take up to 0.1 GB of memory (last_size); keep_size=10.0 GB"
    )

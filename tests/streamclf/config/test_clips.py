"""Check the section `clips` of the configuration: its defaults, its limits and its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.service import ServiceConfig, load_config
from streamclf.errors import ConfigError


def load(folder: Path, clips: str) -> ServiceConfig:
    path = folder / "service.yaml"
    path.write_text(f"streams: {{desk: {{camera: 0}}}}\n{clips}\n")
    return load_config(path)


def test_clips_are_off_without_the_key_and_on_with_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "").clips is None
    clips = load(tmp_path, "clips:").clips
    assert clips is not None
    assert clips.folder == tmp_path / "clips"
    assert (clips.before_s, clips.after_s, clips.longest_s) == (5, 5, 60)
    assert (clips.keep, clips.keep_size, clips.before_size) == (7 * 86400, 20 * 10**9, 16 * 10**6)


@pytest.mark.parametrize(
    ("clips", "named"),
    [
        ("clips: {folders: x}", "did you mean folder"),
        ("clips: {before_s: 61}", "before_s"),
        ("clips: {before_s: 20, after_s: 20, longest_s: 40}", "at least 41"),
        ("clips: {keep: 5}", "keep"),
        ("clips: 5", "clips"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, clips: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(tmp_path, clips)

"""docs/sources.md is up to date: its example is accepted, and its defaults match the code."""

from __future__ import annotations

import re
from pathlib import Path

from support.repository import ROOT

from streamclf.config.service import load_config
from streamclf.config.source_settings import FROZEN_S
from streamclf.config.stream import StreamConfig

TEXT = (ROOT / "docs" / "sources.md").read_text()


def test_the_documented_example_is_a_valid_configuration(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", TEXT, re.S)
    assert found
    (tmp_path / "service.yaml").write_text(found[1])
    config = load_config(tmp_path / "service.yaml", {"DOOR_USER": "ann", "DOOR_PASSWORD": "p@ss"})
    assert set(config.streams) == {"desk", "door", "vault", "lobby", "tower", "film", "shots", "screen"}
    assert config.streams["vault"].tls_ca == str(tmp_path / "vault.pem")
    assert config.streams["screen"].settings.frozen_after_s == 0
    assert config.streams["door"].settings.frozen_after_s == FROZEN_S


def test_every_key_of_a_source_is_documented_with_its_default() -> None:
    fields = StreamConfig.model_fields
    elsewhere = {"actions", "unknown_below"}
    assert not [key for key in fields.keys() - elsewhere if f"`{key}`" not in TEXT and f"{key}:" not in TEXT]
    assert f"| {fields['open_timeout_s'].default:g}, {fields['read_timeout_s'].default:g} |" in TEXT
    assert f"| {FROZEN_S:g}, files and `push` 0 |" in TEXT

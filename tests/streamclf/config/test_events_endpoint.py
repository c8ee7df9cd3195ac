"""A configuration stands for its endpoint in the commands that subscribe."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.events_endpoint import find_endpoint
from streamclf.errors import ConfigError


def test_a_configuration_gives_its_endpoint_even_without_its_variables(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text("streams: {a: {url: 'rtsp://${NOT_SET}@x/1'}}\npublish: {events: 'tcp://127.0.0.1:7'}\n")
    assert find_endpoint(str(path)) == "tcp://127.0.0.1:7"
    path.write_text("streams: {a: {camera: 0}}\n")
    assert find_endpoint(str(path)) == "tcp://127.0.0.1:5555"
    path.write_text("publish: {events: 'tcp://0.0.0.0:7'}\n")
    assert find_endpoint(str(path)) == "tcp://127.0.0.1:7"


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:7", "ipc:///run/x.yaml", "alice.key"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert find_endpoint(text) == text


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{events: 'tcp://127.0.0.1:*'}", "the port is chosen at each start"),
        ("{keys: a, allow: b}", "admits only programs with keys"),
        ("{events: 7}", "publish: cannot be used"),
        ("[", "streamclf check"),
    ],
)
def test_a_configuration_without_a_usable_endpoint_is_an_error(tmp_path: Path, section: str, message: str) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(f"publish: {section}\n")
    with pytest.raises(ConfigError, match=message):
        find_endpoint(str(path))

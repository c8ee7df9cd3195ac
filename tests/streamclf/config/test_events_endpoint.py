"""A configuration stands for its endpoint in the commands that subscribe."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.events_endpoint import find_endpoint
from streamclf.errors import ConfigError, UsageError


def test_a_configuration_gives_its_endpoint_even_without_its_variables(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text("streams: {a: {url: 'rtsp://${NOT_SET}@x/1'}}\npublish: {events: 'tcp://127.0.0.1:7'}\n")
    assert find_endpoint(str(path)) == "tcp://127.0.0.1:7"
    path.write_text("streams: {a: {camera: 0}}\n")
    assert find_endpoint(str(path)) == "tcp://127.0.0.1:5555"
    path.write_text("publish: {events: 'tcp://0.0.0.0:7'}\n")
    assert find_endpoint(str(path)) == "tcp://127.0.0.1:7"


def test_addresses_and_key_files_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "alice.key").touch()
    for text in ("tcp://127.0.0.1:7", "ipc:///run/x.yaml", str(tmp_path / "alice.key")):
        assert find_endpoint(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("localhost:5555", "endpoint 'localhost:5555': no such file; did you mean tcp://localhost:5555"),
        ("cameras", "endpoint 'cameras': no such file; give an address like .*, the service's configuration"),
    ],
)
def test_a_text_that_is_no_address_and_no_file_is_an_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_endpoint(text)


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

"""Defaults apply to each stream that does not set the key itself; errors name the section that holds the mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.service import ServiceConfig, load_config
from streamclf.errors import ConfigError


def load(tmp_path: Path, text: str) -> ServiceConfig:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    return load_config(path, {})


def test_a_stream_overrides_the_defaults_and_actions_merge_by_label_and_key(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        defaults: {read_timeout_s: 3, hop: 2, tls_ca: ca.pem, actions: {covered: {on: 0.9, min_s: 1}, moved: {on: 0.7}}}
        streams:
          plain: {url: "rtsps://10.0.0.5/"}
          own: {url: "rtsps://10.0.0.6/", hop: 1, tls_ca: null, actions: {covered: {on: 0.95}}}
        """,
    )
    plain, own = config.streams["plain"], config.streams["own"]
    assert (plain.read_timeout_s, plain.hop, plain.tls_ca) == (3, 2, str(tmp_path / "ca.pem"))
    assert (own.read_timeout_s, own.hop, own.tls_ca) == (3, 1, None)
    covered = config.actions_of("own").labels["covered"]
    assert (covered.on, covered.min_s) == (0.95, 1)
    assert config.actions_of("own").labels["moved"].on == 0.7
    assert config.actions_of("plain").labels["covered"].on == 0.9


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ("{read_timeout: 3}", r"^\S+ defaults\.read_timeout: unknown key; known here: push_secret, transport"),
        ("{read_timeout_s: 0}", r"^\S+ defaults\.read_timeout_s=0: must be greater than 0$"),
        ("{url: a.mp4}", r"defaults: url belongs to one stream; give it there"),
        ("{actions: {covered: {onn: 1}}}", r"defaults\.actions\.covered\.onn: unknown key; known here: on, off"),
        ("[1]", r"defaults: must be a section of keys"),
        ("{loop: true}", r"streams\.a: pace: fast and loop: true are for files and images"),
    ],
)
def test_a_mistake_in_the_defaults_is_reported_once_and_in_its_place(
    tmp_path: Path, defaults: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, f"defaults: {defaults}\nstreams: {{a: {{camera: 0}}, b: {{camera: 1}}}}")

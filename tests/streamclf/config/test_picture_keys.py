"""The keys of outlets that send pictures: their limits, and what the service fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamclf.config.outlet_options import MqttConfig, WebhookConfig
from streamclf.config.outlets import OUTLETS
from streamclf.config.picture_keys import PictureKeys
from streamclf.config.service import load_config
from streamclf.errors import ConfigError
from streamclf.supervisor.outlet_checks import check_outlets

TOKEN = "a-token-of-the-page-0123456789"


@pytest.mark.parametrize("link", ["http://host:8080", "https://page.example/", "http://[::1]:8080"])
def test_a_link_is_the_address_of_a_page(link: str) -> None:
    assert PictureKeys(link=link).link == link.rstrip("/")


@pytest.mark.parametrize(
    "link",
    ["host:8080", "ftp://host", "http://", "http://user:pw@host", "http://host/?a=b", "http://host/path", "http://a b"],
)
def test_another_link_is_refused_without_being_shown(link: str) -> None:
    with pytest.raises(ValidationError) as error:
        PictureKeys(link=link)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [{"picture_bytes": -1}, {"picture_bytes": 10**9}, {"link_valid": "soon"}, {"link_token": "short"},
     {"link_token": TOKEN, "link_token_file": "token"}],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PictureKeys(**wrong)


def write_config(folder: Path, outlets: str, clips: str = "clips: {folder: films}") -> Path:
    path = folder / "service.yaml"
    path.write_text(f"streams: {{door: {{camera: 0}}}}\n{clips}\noutlets:\n{outlets}")
    return path


def test_the_service_fills_in_its_folder_and_the_token_of_its_page(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        f"  web: {{token: {TOKEN}}}\n"
        "  mqtt: {broker: 'mqtt://localhost', link: 'http://host:8080'}\n"
        "  webhook:\n"
        "  - {name: a, url: 'http://localhost/'}\n"
        "  - {name: b, url: 'http://localhost/', clips: other, link: 'http://host', link_token_file: own}\n",
    )
    outlets = load_config(path).outlets
    mqtt, a, b = outlets.all[0], outlets.all[1], outlets.all[2]
    assert isinstance(mqtt, MqttConfig)
    assert isinstance(a, WebhookConfig)
    assert isinstance(b, WebhookConfig)
    assert (mqtt.clips, mqtt.link_token, mqtt.link_token_file) == (tmp_path / "films", TOKEN, None)
    assert (a.clips, a.link_token) == (tmp_path / "films", None)
    assert (b.clips, b.link_token, b.link_token_file) == (tmp_path / "other", None, tmp_path / "own")
    assert OUTLETS["mqtt"].model_validate(mqtt.model_dump(mode="json")) == mqtt  # as the job of its process


def test_without_clips_no_pictures_are_sent(tmp_path: Path) -> None:
    path = write_config(tmp_path, "  mqtt: {broker: 'mqtt://localhost'}\n", clips="")
    mqtt = load_config(path).outlets.all[0]
    assert isinstance(mqtt, MqttConfig)
    assert not mqtt.sends_pictures


def test_links_without_a_token_are_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write_config(tmp_path, "  webhook: {url: 'http://localhost/', link: 'http://host'}\n  web:\n")
    with pytest.raises(ConfigError, match=r"outlets.webhook.link=http://host: links need the token of the page"):
        check_outlets(load_config(path).outlets, ["door"], tmp_path / "journal.db")
    path = write_config(tmp_path, "  webhook: {url: 'http://localhost/', link: 'http://host', link_token_file: none}\n")
    with pytest.raises(ConfigError, match=r"outlets.webhook.link_token_file="):
        check_outlets(load_config(path).outlets, ["door"], tmp_path / "journal.db")

"""`streamclf check` finds what an outlet would fail on: streams, files, secrets, libraries and shared receivers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from streamclf.config.outlets import OutletsConfig
from streamclf.errors import ConfigError
from streamclf.supervisor.outlet_checks import check_outlets


def check(tmp_path: Path, **outlets: Any) -> None:
    config = OutletsConfig.model_validate(outlets).with_absolute_paths(tmp_path)
    check_outlets(config, ["door"], tmp_path / "streamclf.db")


def test_outlets_that_can_work_pass(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef")
    (tmp_path / "token").chmod(0o600)
    mqtt = [{"name": "a", "broker": "mqtt://h"}, {"name": "b", "broker": "mqtt://h", "prefix": "other"}]
    metrics = {"host": "0.0.0.0", "token_file": "token"}
    check(tmp_path, log={"file": "events.db", "streams": "door"}, mqtt=mqtt, metrics=metrics)


@pytest.mark.parametrize(
    ("outlets", "message"),
    [
        ({"log": {"file": "no/events.db"}}, r"outlets\.log\.file=.*no does not exist; create it first"),
        ({"log": {"file": "streamclf.db"}}, r"outlets\.log: the journal has the same file; give another file"),
        (
            {"log": [{"name": "a", "file": "x.db"}, {"name": "b", "file": "./x.db"}]},
            r"outlets\.log\[b\]: outlets\.log\[a\] has the same file; give another file",
        ),
        (
            {"mqtt": [{"name": "a", "broker": "mqtt://h"}, {"name": "b", "broker": "mqtt://h:1883"}]},
            r"outlets\.mqtt\[b\]: .* give another prefix",
        ),
        (
            {"metrics": {"port": 8080}, "web": {"port": 8080}},
            r"outlets\.web: outlets\.metrics has the same address; give another port",
        ),
        ({"webhook": {"url": "http://h/", "streams": ["dor"]}}, r"outlets\.webhook\.streams: no stream dor; .* door"),
        ({"webhook": {"url": "http://h/", "secret_file": "key"}}, r"outlets\.webhook\.secret_file=.*cannot be read"),
        ({"metrics": {"host": "0.0.0.0"}}, r"outlets\.metrics\.host=0\.0\.0\.0: anybody in the network"),
    ],
)
def test_an_outlet_that_cannot_work_is_an_error_with_key_and_remedy(
    tmp_path: Path, outlets: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(tmp_path, **outlets)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"outlets\.mqtt: needs paho-mqtt; .*pip install 'paho-mqtt"):
        check(tmp_path, mqtt={"broker": "mqtt://h"})

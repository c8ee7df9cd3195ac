"""A configuration file that changes while its service runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.publish import PublishConfig
from streamclf.config.service import ServiceConfig, parse_config
from streamclf.errors import ConfigError
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.config_watch import ConfigFile, check_reload


def test_a_changed_file_is_reported_once_after_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("streams: {a: {camera: 0}}")
    file = ConfigFile(path)
    assert not file.changed()
    path.write_text("streams: {a: {camera: 0}, b: {camera: 1}}")
    assert not file.changed()  # noticed for the first time
    path.write_text("streams: {a: {camera: 0}, b: {camera: 1}, c: {camera: 2}}")
    assert not file.changed()  # still being written
    assert file.changed()
    assert set(file.read().config.streams) == {"a", "b", "c"}
    assert not file.changed()
    path.rename(tmp_path / "away")
    assert not file.changed()
    assert not file.changed()
    (tmp_path / "new").write_text("streams: [")
    (tmp_path / "new").rename(path)
    assert not file.changed()
    assert file.changed()
    with pytest.raises(ConfigError, match="a value is missing here"):
        file.read()
    assert not file.changed()  # a mistake is reported once


def test_a_missing_file_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("streams: {a: {camera: 0}}")
    file = ConfigFile(path)
    path.rename(tmp_path / "away")
    for _ in range(3):
        assert not file.changed()
    assert not caplog.messages  # it may be replaced at this moment
    for _ in range(20):
        assert not file.changed()
    assert caplog.messages == [
        f"{path} is missing; the configuration that was read last stays, but a restart would fail"
    ]


def test_a_change_of_any_key_is_a_difference(tmp_path: Path) -> None:
    """Adding `clips` to a running service had no effect."""

    def checked(**keys: object) -> CheckedConfig:
        raw = {"model": "camera-events", "streams": {"a": {"camera": 0}}, **keys}
        config = parse_config(raw, base=tmp_path, origin="service.yaml")
        return CheckedConfig(config, {})

    changes: dict[str, object] = {
        "model": "gestures",
        "models": {"hands": "gestures"},
        "engine": {"max_batch": 3},
        "actions": {"covered": {"on": 0.8, "off": 0.5}},
        "unknown_below": 0.4,
        "timezone": "UTC",
        "clips": {"before_s": 3},
        "examples": {"uncertain": 3},
        "publish": {"keep": "1d"},
    }
    assert changes.keys() == ServiceConfig.model_fields.keys() - {"streams", "defaults", "outlets"}
    for key, value in changes.items():
        assert checked(**{key: value}).differences(checked()) == key
    assert checked(defaults={"read_timeout_s": 9}).differences(checked()) == "changed a"


@pytest.mark.parametrize(
    ("key", "value"),
    [("events", "tcp://127.0.0.1:7"), ("replay", "tcp://127.0.0.1:7"), ("journal", Path("other.db"))],
)
def test_a_key_that_subscribers_rely_on_needs_a_restart(key: str, value: object) -> None:
    running = PublishConfig()
    with pytest.raises(ConfigError, match=rf"publish\.{key}=.*: cannot change .*; restart the service"):
        check_reload(running, running.model_copy(update={key: value}))
    check_reload(running, running.model_copy(update={"keep": 3600.0, "keep_size": 10**9}))


def test_only_keys_of_the_open_engine_need_new_engines() -> None:
    def checked(**engine: object) -> CheckedConfig:
        config = ServiceConfig.model_validate({"engine": engine, "streams": {"a": {"camera": 0}}})
        return CheckedConfig(config, {})

    assert not checked(adaptive=True, max_staleness_ms=300, spare_streams=9).needs_new_engines(checked())
    assert checked(max_batch=3).needs_new_engines(checked())
    assert checked(max_wait_ms=3).needs_new_engines(checked())

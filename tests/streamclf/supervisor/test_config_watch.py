"""A configuration file that changes while its service runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from streamclf.config.service import PublishConfig, ServiceConfig
from streamclf.errors import ConfigError
from streamclf.supervisor.config_watch import CheckedConfig, ConfigFile, check_reload


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


@pytest.mark.parametrize(
    ("key", "value"),
    [("events", "tcp://127.0.0.1:7"), ("replay", "tcp://127.0.0.1:7"), ("journal", Path("other.db"))],
)
def test_a_key_that_subscribers_rely_on_needs_a_restart(key: str, value: object) -> None:
    running = PublishConfig()
    with pytest.raises(ConfigError, match=rf"publish\.{key}=.*: cannot change .*; restart the service"):
        check_reload(running, running.model_copy(update={key: value}))
    check_reload(running, running.model_copy(update={"keep": 3600.0, "keep_size": 10**9}))


def test_only_keys_of_the_open_engine_need_a_new_classifier() -> None:
    def checked(**engine: object) -> CheckedConfig:
        config = ServiceConfig.model_validate({"engine": engine, "streams": {"a": {"camera": 0}}})
        return CheckedConfig(config, cast(Any, "the same bundle"))

    assert not checked(adaptive=True, max_staleness_ms=300, spare_streams=9).needs_new_classifier(checked())
    assert checked(max_batch=3).needs_new_classifier(checked())
    assert checked(max_wait_ms=3).needs_new_classifier(checked())

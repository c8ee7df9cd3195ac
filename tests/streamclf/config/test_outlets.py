"""The outlets of a configuration: forms, defaults, errors that name the place, and no secret in any of them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from streamclf.config.outlet_options import EventType, LogConfig, MetricsConfig, WebhookConfig
from streamclf.config.outlets import OUTLETS, outlet_options
from streamclf.config.service import ServiceConfig, load_config
from streamclf.errors import ConfigError, UsageError
from streamclf.events.kinds import JOURNALLED
from streamclf.redact import redact


def load(tmp_path: Path, outlets: str, **environ: str) -> ServiceConfig:
    path = tmp_path / "service.yaml"
    path.write_text(f"streams: {{desk: {{camera: 0}}}}\noutlets:\n{outlets}")
    return load_config(path, environ)


def test_one_outlet_is_a_section_and_several_are_a_list_of_names(tmp_path: Path) -> None:
    text = """
      log: {file: logs/events.db, keep: 90d}
      webhook:
        - {name: office, url: "https://example.org/a", types: action}
        - {name: guard, url: "https://example.org/b", types: "action, status", streams: [desk], secret_file: key}
      metrics:
    """
    log, office, guard, metrics = load(tmp_path, text).outlets.all
    assert [each.full_name for each in (log, office, guard, metrics)] == [
        "log", "webhook-office", "webhook-guard", "metrics",
    ]  # fmt: skip
    assert isinstance(log, LogConfig)
    assert (log.file, log.rotation.keep_s, log.types, log.updates) == (
        tmp_path / "logs/events.db", 90 * 86400, ("action", "status", "clip"), True,
    )  # fmt: skip
    assert isinstance(guard, WebhookConfig)
    assert (guard.types, guard.streams, guard.updates) == (("action", "status"), ("desk",), False)
    assert guard.secret_file == tmp_path / "key"
    assert isinstance(metrics, MetricsConfig)
    assert metrics.port == 9108


def test_the_options_of_a_job_are_the_same_after_json(tmp_path: Path) -> None:
    text = """
      log: {file: a.jsonl, rotate: [100MB, 1d], keep: 3}
      webhook: {url: "http://h/", secret: 0123456789abcdef-, memory_limit: 300MB}
      mqtt: {broker: "mqtt://h"}
    """
    for config in load(tmp_path, text).outlets.all:
        assert OUTLETS[config.KIND].model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  wab: {}", r"outlets\.wab: unknown key; known here: log, mqtt, webhook, metrics, web"),
        ("  webhook: {ulr: 'http://h/'}", r"outlets\.webhook\.ulr: unknown key; known here: name, streams, .*url"),
        ("  log: [{file: a.db, fille: 1}]", r"outlets\.log\.0\.fille: unknown key; known here"),
        ("  log: {}", r"outlets\.log\.file: missing; add this key"),
        ("  log: {file: a.txt}", r"outlets\.log: .*ends in \.txt; give a name that ends in \.db or \.jsonl"),
        (
            "  log: {file: a.jsonl, rotate: 600KB, keep_size: 1MB}",
            r"keep_size must be at least twice the size in rotate",
        ),
        ("  log: {file: a.db, keep_size: 5}", r"log\.keep_size=5: 5: must be a number and MB, GB or TB"),
        ("  log: {file: a.db, rotate: 1d}", r"a SQLite log is one file"),
        (
            "  log: {file: a.db, types: [actions]}",
            r"outlets\.log\.types\.0: must be 'prediction', 'action', 'status' or 'clip'$",
        ),
        ("  log: {file: a.db, types: []}", r"outlets\.log\.types: give at least one, or leave it out"),
        ("  metrics: {port: 99999}", r"outlets\.metrics\.port=99999: must be less than"),
        ("  metrics: {token: short}", r"outlets\.metrics\.token: 16 to 4096 ASCII characters"),
        ("  webhook: {url: 'ftp://Hidden9@h/'}", r"outlets\.webhook\.url: the webhook's URL: no http or https"),
        ("  mqtt: {broker: 'http://u:Hidden9@h'}", r"outlets\.mqtt\.broker: the broker's URL: the scheme is not mqtt"),
        ("  mqtt: {broker: 'mqtt://h', prefix: 'a#'}", r"outlets\.mqtt\.prefix=a#: letters, digits"),
        ("  webhook: [{url: 'http://a/'}, {url: 'http://b/'}]", r"outlets: webhook: two have no name"),
        ("  webhook: {url: 'http://a/', secret: Hidden9}", r"outlets\.webhook\.secret: 16 to 4096"),
    ],
)
def test_a_mistake_names_its_place_and_shows_no_secret(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, text)
    assert "Hidden9" not in str(error.value)
    assert "[one]" not in str(error.value)


def test_secrets_come_from_the_environment_and_are_masked(tmp_path: Path) -> None:
    key = "key-of-the-webhook-4711"
    text = '  webhook: {url: "http://u:${PASSWORD}@h/", secret: "${SIGNING}"}'
    (config,) = load(tmp_path, text, PASSWORD="p@ss/4711-word", SIGNING=key).outlets.all
    assert isinstance(config, WebhookConfig)
    assert config.secret == key
    assert redact(f"it is {key}") == "it is ***"
    assert "p%40ss%2F4711-word" in config.url


def test_a_command_has_the_same_options_and_errors() -> None:
    assert outlet_options(LogConfig, file="a.db", types=None, rotate=[]) == LogConfig(file=Path("a.db"))
    with pytest.raises(UsageError, match="stalled_after: must be greater than or equal to 1"):
        outlet_options(MetricsConfig, stalled_after=0)


def test_the_types_are_those_of_the_journal() -> None:
    assert set(get_args(EventType)) == set(JOURNALLED)

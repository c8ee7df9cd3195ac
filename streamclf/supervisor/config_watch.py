"""Watch the configuration file of a running service, and read and check it after a change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from streamclf.config.file_version import file_signature, version_text
from streamclf.config.publish import PublishConfig
from streamclf.config.service import ServiceConfig, load_config
from streamclf.errors import ConfigError
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.preflight import preflight

log = logging.getLogger("service")

RESTART_KEYS = ("events", "replay", "journal", "keys", "allow", "leases", "memory_limit")
"""Keys of `publish` that only a restart can change: the hub has them from its start."""

_ABSENT_CHECKS = 5
"""Checks without a file until it is reported: some programs remove a file for a moment when they replace it."""


class ConfigFile:
    """The YAML file of a running service. Checking it for changes is cheap: one `stat` each time."""

    def __init__(self, path: Path, load: Callable[[Path], ServiceConfig] = load_config) -> None:
        self._path = path
        self._load = load
        self._seen = self._read = file_signature(path)
        self._absent = 0

    def changed(self) -> bool:
        """Return whether the file differs from the one read last, and has not changed since the previous call.

        An editor may be in the middle of writing it, and half of a list of streams is a valid list of streams. A file
        that stays absent is logged once.
        """
        before, self._seen = self._seen, file_signature(self._path)
        self._absent = self._absent + 1 if self._seen is None else 0
        if self._absent == _ABSENT_CHECKS:
            log.warning(
                "%s is missing; the configuration that was read last stays, but a restart would fail", self._path
            )
        return self._seen is not None and self._seen == before and self._seen != self._read

    def read(self) -> CheckedConfig:
        """Read and check the file. Raises `ConfigError` or `BundleError`; `changed` then waits for another change."""
        self._read = self._seen = file_signature(self._path)
        config = self._load(self._path)
        return preflight(config)

    @property
    def version(self) -> str:
        """The version that was read last."""
        return version_text(self._read)


def check_reload(running: PublishConfig, new: PublishConfig) -> None:
    """Raise `ConfigError` where `new` differs from `running` in a key that only a restart can change."""
    for key in RESTART_KEYS:
        before, after = getattr(running, key), getattr(new, key)
        if before != after:
            raise ConfigError(
                f"publish.{key}={after}: cannot change while the service runs (it is {before}); restart the service"
            )

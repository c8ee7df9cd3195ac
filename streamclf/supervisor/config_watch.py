"""A configuration that changes while its service runs: noticed, read, judged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.bundle import Bundle
from streamclf.config.service import PublishConfig, ServiceConfig, load_config
from streamclf.errors import ConfigError
from streamclf.supervisor.preflight import preflight

log = logging.getLogger("service")

FIXED = ("events", "replay", "journal", "keys", "allow")
"""Keys of `publish` that subscribers and the journal's one writer rely on for the service's whole life."""


@dataclass(frozen=True, slots=True)
class CheckedConfig:
    """A configuration that can be served, with its model."""

    config: ServiceConfig
    bundle: Bundle

    def differences(self, old: CheckedConfig) -> str:
        """What is new in it, in a few words; empty if nothing is."""
        streams, before = self.config.streams, old.config.streams
        added, removed = sorted(streams.keys() - before.keys()), sorted(before.keys() - streams.keys())
        changed = sorted(name for name in streams.keys() & before.keys() if streams[name] != before[name])
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("added", added), ("removed", removed), ("changed", changed))
            if names
        ]
        keys = ("model", "engine", "actions", "unknown_below", "timezone", "publish")
        parts += [key for key in keys if getattr(self.config, key) != getattr(old.config, key)]
        if self.bundle != old.bundle and "model" not in parts:
            parts.append("the bundle's files")
        return "; ".join(parts)


class ConfigFile:
    """The YAML file of a running service. Cheap to look at: one `stat` each time."""

    def __init__(self, path: Path, load: Callable[[Path], ServiceConfig] = load_config) -> None:
        self._path = path
        self._load = load
        self._seen = self._taken = _signature(path)

    def changed(self) -> bool:
        """Whether it differs from what was read last, and has been as it is for two looks.

        An editor may be in the middle of writing it, and half of a list of streams is a valid list of streams.
        """
        before, self._seen = self._seen, _signature(self._path)
        return self._seen is not None and self._seen == before and self._seen != self._taken

    def read(self) -> CheckedConfig:
        """What it says now. Raises `ConfigError` or `BundleError`; it then has to change again to be read again."""
        self._taken = self._seen = _signature(self._path)
        config = self._load(self._path)
        return CheckedConfig(config, preflight(config))


def check_reload(running: PublishConfig, wanted: PublishConfig) -> None:
    """Raise `ConfigError` where only a restart can change what was changed."""
    for key in FIXED:
        old, new = getattr(running, key), getattr(wanted, key)
        if old != new:
            raise ConfigError(
                f"publish.{key}={new}: cannot change while the service runs (it is {old}); restart the service"
            )


def _signature(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's contents; None while it is not there, as in the middle of being replaced."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size

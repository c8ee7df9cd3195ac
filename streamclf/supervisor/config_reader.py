"""Read a changed configuration in a thread, so that the supervisor's loop goes on, and keep the result for the page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from engines.errors import EngineError
from streamclf.errors import ConfigError, StreamclfError
from streamclf.events.configuration_status import MAX_REASON_CHARS, ConfigurationStatus
from streamclf.redact import redact
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.config_watch import ConfigFile, check_reload
from streamclf.supervisor.machine_limits import check_machine


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """A configuration that was read, or the reason why it cannot be used."""

    config: CheckedConfig | None = None
    error: str = ""

    def check(self, running: CheckedConfig) -> CheckedConfig:
        """Return the configuration. Raise `ConfigError` unless the running service can change to it."""
        if self.config is None:
            raise ConfigError(self.error)
        check_reload(running.config.publish, self.config.config.publish)
        check_machine(self.config, running)
        return self.config


class ConfigReader:
    """Follow one configuration file. `put` gets each result, in the reading thread."""

    def __init__(self, file: ConfigFile, put: Callable[[ReadConfig], None]) -> None:
        self._file, self._put = file, put
        self._is_reading = False
        self.status: ConfigurationStatus | None = None
        """Whether the version that was read last is applied; None before the first one."""

    def must_read(self) -> bool:
        """Return whether the file has changed and is not being read."""
        return not self._is_reading and self._file.changed()

    def start(self) -> bool:
        """Begin to read the file in a thread; return False if it is being read already."""
        if self._is_reading:
            return False
        self._is_reading = True
        threading.Thread(target=self._read, name="reload", daemon=True).start()
        return True

    def finish(self) -> None:
        """Note that the result of the reading was taken, so that the next one may start."""
        self._is_reading = False

    def record(self, *, applied: bool, reason: str | None = None) -> None:
        """Set `status` for the version that was read last."""
        self.status = ConfigurationStatus(
            version=self._file.version,
            applied=applied,
            reason=None if reason is None else redact(reason)[:MAX_REASON_CHARS],
            time=datetime.now(timezone.utc),
        )

    def _read(self) -> None:
        result = ReadConfig(error="reading it failed because of a bug; see the log")
        try:
            result = ReadConfig(config=self._file.read())
        except (StreamclfError, EngineError) as error:
            result = ReadConfig(error=str(error))
        finally:
            self._put(result)

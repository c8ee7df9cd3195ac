"""Change a running service to a new configuration, and back if it cannot serve the new one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from streamclf.config.views import MODEL_KEY
from streamclf.errors import ConfigError
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.child import Child
from streamclf.supervisor.config_reader import ConfigReader, ReadConfig
from streamclf.supervisor.processes import ProcessSet
from streamclf.supervisor.stream_plan import plan_streams

PAUSED: Final = "paused in the configuration (enabled: false)"
"""The reason in the status of a paused stream."""

log = logging.getLogger("service")


class Reconfiguration:
    """The configuration of a running service, and its changes.

    `reader` reads the file, None for a service without one. `kill_later` gets a child that was asked to stop, and
    `report` publishes why a stream is offline.
    """

    def __init__(
        self,
        current: CheckedConfig,
        processes: ProcessSet,
        reader: ConfigReader | None,
        *,
        kill_later: Callable[[Child], None],
        report: Callable[[str, str], None],
    ) -> None:
        self.current = current
        self._previous: CheckedConfig | None = None
        """The configuration to return to while a model has still to show that it can serve the present one."""
        self._missing: list[str] = []
        """The models that are reported as missing."""
        self._processes = processes
        self._reader = reader
        self._kill_later, self._report = kill_later, report

    @property
    def paused(self) -> set[str]:
        """The streams that the configuration pauses. They have no process and no ring."""
        return {name for name, stream in self.current.config.streams.items() if not stream.enabled}

    def start_reading(self) -> bool:
        """Read the file in a thread, and start parked processes again; return False if it is being read already."""
        if self._reader is None or not self._reader.start():
            return False
        processes = self._processes
        # The cause of their crashes may have been repaired. One that is stopping gets its next job when its exit comes.
        for stream in processes.streams.all:
            child = stream.child
            if not child.running and not child.stopping and stream.code is None and child.times_parked:
                processes.start(child)
        for engine in processes.classifiers.all:
            if engine.is_parked and not engine.child.stopping:
                processes.start(engine.child)
        processes.outlets.restart_parked()
        return True

    def handle_read(self, read: ReadConfig) -> None:
        """Apply a configuration that was read, or refuse it."""
        assert self._reader is not None
        self._reader.finish()
        try:
            config = read.check(self.current)
        except ConfigError as error:
            log.error("the new configuration is refused, the old one stays: %s", error)
            self.record(applied=False, reason=str(error))
        else:
            self.record(applied=True)
            self._missing = []
            self._apply(config)
            self.report_missing()

    def record(self, *, applied: bool, reason: str | None = None) -> None:
        """Publish whether the version of the file that was read last is applied."""
        if self._reader:
            self._reader.record(applied=applied, reason=reason)
            assert self._reader.status is not None
            self._processes.hub.publish_configuration(self._reader.status)

    def handle_models(self, failed: Mapping[str, str]) -> None:
        """Handle a report of a classifier about its models; `failed` has the reasons of those that cannot be opened."""
        for name, reason in failed.items():
            log.error("model %s cannot be opened: %s", name or MODEL_KEY, reason)
        # A model that the configuration before had too, with the same bundle, is no reason to refuse the present one.
        known = {} if self._previous is None else self._previous.bundles
        new = [name for name in failed if known.get(name) != self.current.bundles.get(name)]
        if new and self._previous:
            self.return_to_previous(f"model {' and '.join(name or MODEL_KEY for name in new)}")
            return
        if failed:
            log.error("the other models go on; a change of the configuration opens it again")
        if not self._processes.classifiers.is_on_trial:
            self._previous = None
        self.report_missing()

    def report_missing(self) -> None:
        """Publish which models cannot be opened while others are served, and when all of them are."""
        missing = self._processes.classifiers.missing
        if missing != self._missing:
            self._missing = missing
            reason = f"not served, because they cannot be opened: {', '.join(missing)}; the log has the reasons"
            self.record(applied=not missing, reason=reason if missing else None)

    def return_to_previous(self, part: str) -> bool:
        """Return to the configuration before, because `part` cannot serve the new one; False if there is none."""
        previous, self._previous = self._previous, None
        if previous is None:
            return False
        reason = f"{part} cannot start with it; back to the one before"
        log.error("the new configuration is refused: %s", reason)
        self.record(applied=False, reason=reason)
        self._apply(previous, on_trial=False)
        return True

    def _apply(self, new: CheckedConfig, *, on_trial: bool = True) -> None:
        old, self.current = self.current, new
        differences = new.differences(old)
        if not differences:
            log.info("configuration read again: nothing has changed")
            return
        processes = self._processes
        if on_trial and processes.classifiers.can_serve and self._previous is None:
            self._previous = old
        processes.hub.change(new)
        new_engine = new.needs_new_engines(old)
        processes.classifiers.apply(new, new_engine=new_engine, on_trial=on_trial and self._previous is not None)
        present = {stream.name for stream in processes.streams.all}
        for name in self.paused - present:  # a stream with a process is reported when that has ended
            before = old.config.streams.get(name)
            if before is None or before.enabled:
                self._report(name, PAUSED)
        plans = plan_streams(new, processes.classifiers.names)
        for child in [*processes.streams.apply(plans), *processes.outlets.apply(new.config.outlets.all)]:
            self._kill_later(child)
        processes.classifiers.finish()
        if not processes.classifiers.is_on_trial:
            self._previous = None
        log.info("new configuration applied: %s", differences)

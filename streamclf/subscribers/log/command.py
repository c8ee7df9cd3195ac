"""`streamclf log`: write the events of a service to a file, exactly once, even if either process is killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamclf.config.log_file import SQLITE_SUFFIXES
from streamclf.config.outlet_options import LogConfig
from streamclf.errors import UsageError
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat
from streamclf.net.endpoints import FLEET_SCHEME
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.log.sinks import Sink, open_sink
from streamclf.subscribers.outlet_run import EventFilter, OutletRun

_MAX_BATCH = 1000
_LINGER_S = 0.25


def deliver_to_log(config: LogConfig, run: OutletRun) -> None:
    """Write events to a file until the run ends. Raises `UsageError`, `JournalError` and `BusError`."""
    if run.address.endpoint.startswith(FLEET_SCHEME) and config.file.suffix not in SQLITE_SUFFIXES:
        raise UsageError(
            f"{config.file}: a fleet has a journal on each node, and a file of lines has room for one position; give a "
            ".db file, and export it with: streamclf query EVENTS.db --limit all -o events.csv"
        )
    sink = open_sink(config.file, config.rotation)
    try:
        after = sink.position() or START
        with run.subscribe(streams=config.streams, types=config.types, after=after) as events:
            DeliveryLoop(
                events,
                _LogOutlet(sink, config.file),
                None,
                max_batch=_MAX_BATCH,
                linger_s=_LINGER_S,
                chosen=EventFilter(config.updates, config.min_probability),
                report=run.report,
            ).run(run.stop)
    finally:
        sink.close()


class _LogOutlet:
    """Write batches to a log file, which holds the position itself."""

    name = "log"

    def __init__(self, sink: Sink, path: Path) -> None:
        self._sink = sink
        self.outcome = f"written to {path}"

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        self._sink.write(batch, position)
        return True

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Do nothing: a log holds events only."""

    def memory(self) -> dict[str, Any]:
        return {}

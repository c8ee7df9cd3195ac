"""Control the hub's process, and change its settings while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from streamclf.events.configuration_status import ConfigurationStatus
from streamclf.events.device_status import DeviceStatus
from streamclf.events.outlet_status import OutletStatus
from streamclf.runtime.jobs import HubChange, HubJob, HubReady, HubSettings, OutletAccess
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.stream_descriptions import describe_streams

HUB: Final = "hub"

log = logging.getLogger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The endpoints and the engines of a service that is ready."""

    events: str
    replay: str
    engine: str


class HubProcess:
    """The hub, with its job and its report that it is ready."""

    def __init__(
        self, link: str, table: LivenessTable, notify: Callable[[ChildEvent], None], access: OutletAccess | None
    ) -> None:
        """Prepare it; `access` holds the keys of the service's own outlets, None for a service without keys."""
        self._link, self._table, self._access = link, table, access
        self.child = Child(HUB, "streamclf.hub", notify, reports=True, pass_fds=[table.fd])
        self.row = table.claim()
        self.report: HubReady | None = None
        """Its last report that it was ready."""
        self.is_ready = False

    @property
    def watched_rows(self) -> list[tuple[str, int]]:
        """(name, row of the liveness table) of the hub, if it runs and is not stopping."""
        return [(HUB, self.row)] if self.child.running and not self.child.stopping else []

    def assign(self, current: CheckedConfig) -> None:
        """Set the hub's job for its next start."""
        publish = current.config.publish
        self.child.job = HubJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=self.row,
            memory_limit=publish.memory_limit,
            events=publish.events,
            replay=publish.replay,
            journal=publish.journal,
            keep_s=publish.keep,
            keep_bytes=publish.keep_size,
            streams=describe_streams(current),
            examples=current.config.examples is not None,
            keys=publish.keys,
            allow=publish.allow,
            leases=publish.leases,
            own_key=self._access.public if self._access else None,
        )

    def record_line(self, line: bytes) -> bool:
        """Record the hub's report that it is ready; return False for any other line."""
        if self.is_ready or not isinstance(self.child.job, HubJob):
            return False
        try:
            report = HubReady.model_validate_json(line)
        except ValidationError:
            log.debug("hub: no report: %r", line[:200])
            return False
        self.report, self.is_ready = report, True
        # After a restart, the hub must use the ports that the system chose at first, or every subscriber is lost.
        ports = {"events": report.events, "replay": report.replay}
        self.child.job = self.child.job.model_copy(update=ports)
        return True

    def mark_down(self) -> None:
        """Record that the hub has ended."""
        self.is_ready = False

    def change(self, current: CheckedConfig) -> None:
        """Apply other limits of the journal, and other descriptions of the streams, from now on."""
        publish = current.config.publish
        settings = HubSettings(
            keep_s=publish.keep,
            keep_bytes=publish.keep_size,
            streams=describe_streams(current),
            examples=current.config.examples is not None,
        )
        if isinstance(self.child.job, HubJob):
            self.child.job = self.child.job.model_copy(update=dict(settings))
        self._send(HubChange(settings=settings))  # a hub that does not run reads it in its next job

    def publish_outlets(self, statuses: Mapping[str, OutletStatus]) -> bool:
        """Have the next heartbeats show the outlets; return False if the hub is not ready."""
        return self.is_ready and self._send(HubChange(outlets=dict(statuses)))

    def publish_devices(self, statuses: Mapping[str, DeviceStatus]) -> bool:
        """Have the next heartbeats show the GPUs; return False if the hub is not ready."""
        return self.is_ready and self._send(HubChange(devices=dict(statuses)))

    def publish_configuration(self, status: ConfigurationStatus) -> None:
        """Have the next heartbeats show the result of the last reading; a hub that is not ready gets it once it is."""
        if self.is_ready:
            self._send(HubChange(configuration=status))

    def _send(self, change: HubChange) -> bool:
        if self.child.send(change):
            return True
        if self.child.running and not self.child.stopping:
            self.child.kill_because("does not read its messages")
        return False

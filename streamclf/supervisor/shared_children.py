"""Control the two processes that all streams share, the hub and the classifier, and change them while they run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import orjson

from streamclf.config.service import ServiceConfig
from streamclf.config.views import UNNAMED
from streamclf.events.configuration_status import ConfigurationStatus
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.views import MAX_LISTED_ACTIONS
from streamclf.runtime.jobs import (
    ClassifierChange,
    ClassifierJob,
    HubChange,
    HubJob,
    HubReady,
    HubSettings,
    OutletAccess,
    StreamDescription,
)
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.config_watch import CheckedConfig

HUB, CLASSIFIER = "hub", "classifier"
SHARED = frozenset({HUB, CLASSIFIER})
MAX_ACTIONS_BYTES: Final = 8 * 1024
"""Bytes of JSON of the actions of one status: 400 streams have to fit into one message to the hub."""

log = logging.getLogger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The endpoints and the engine of a service that is ready."""

    events: str
    replay: str
    engine: str


class SharedChildren:
    """The hub and the classifier, with their jobs and their reports that they are ready."""

    def __init__(
        self, link: str, table: LivenessTable, notify: Callable[[ChildEvent], None], access: OutletAccess | None
    ) -> None:
        """Prepare both; `access` holds the keys of the service's own outlets, None for a service without keys."""
        self._link, self._table, self._access = link, table, access
        self.hub = Child(HUB, "streamclf.hub", notify, reports_ready=True, pass_fds=[table.fd])
        self.classifier = Child(CLASSIFIER, "streamclf.classifier", notify, reports_ready=True, pass_fds=[table.fd])
        self._rows = {HUB: table.claim(), CLASSIFIER: table.claim()}
        self._reports: dict[str, dict[str, Any]] = {}
        """By child: its last report that it was ready."""
        self._ready: set[str] = set()
        """Children that are ready now."""

    def child(self, name: str) -> Child | None:
        """Return the child with this name."""
        return {HUB: self.hub, CLASSIFIER: self.classifier}.get(name)

    def row(self, child: Child) -> int:
        """Return the child's row of the liveness table."""
        return self._rows[child.name]

    @property
    def watched_rows(self) -> list[tuple[str, int]]:
        """(name, row of the liveness table) of the children that run and are not stopping."""
        return [
            (child.name, self.row(child))
            for child in (self.hub, self.classifier)
            if child.running and not child.stopping
        ]

    def assign(self, current: CheckedConfig) -> None:
        """Set the jobs of both for their next start."""
        publish = current.config.publish
        self.hub.job = HubJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=self._rows[HUB],
            memory_limit=publish.memory_limit,
            events=publish.events,
            replay=publish.replay,
            journal=publish.journal,
            keep_s=publish.keep,
            keep_bytes=publish.keep_size,
            streams=describe_streams(current.config),
            examples=current.config.examples is not None,
            keys=publish.keys,
            allow=publish.allow,
            own_key=self._access.public if self._access else None,
        )
        self.assign_classifier(current)

    def assign_classifier(self, current: CheckedConfig) -> None:
        """Set the classifier's job for its next start."""
        streams, engine = len(current.config.streams), current.config.engine
        self.classifier.job = ClassifierJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=self._rows[CLASSIFIER],
            memory_limit=engine.memory_limit,
            bundles={UNNAMED: current.bundle.path},
            engine=engine,
            streams=streams,
            capacity=streams + engine.spare_streams,
        )

    @property
    def capacity(self) -> int:
        """Largest number of streams that the classifier's bank can hold."""
        assert isinstance(self.classifier.job, ClassifierJob)
        return self.classifier.job.capacity

    def record_ready(self, child: Child, line: bytes) -> None:
        """Record the child's report that it is ready: its endpoints, or its engine."""
        self._reports[child.name] = orjson.loads(line)
        self._ready.add(child.name)
        if child is self.hub and child.job:
            # After a restart, the hub must use the ports that the system chose at first, or every subscriber is lost.
            child.job = child.job.model_copy(update={key: self._reports[HUB][key] for key in ("events", "replay")})

    def mark_down(self, child: Child) -> bool:
        """Record that the child is ending or has ended; return whether it was ready."""
        was_ready = child.name in self._ready
        self._ready.discard(child.name)
        return was_ready

    def is_ready(self, child: Child) -> bool:
        """Return whether the child runs and has reported that it is ready."""
        return child.name in self._ready

    def was_ever_ready(self, child: Child) -> bool:
        """Return whether the child has reported that it was ready, in this run or an earlier one."""
        return child.name in self._reports

    @property
    def hub_ready(self) -> HubReady:
        """The last report of the hub that it was ready."""
        return HubReady.model_validate(self._reports[HUB])

    @property
    def ready(self) -> Ready | None:
        """Endpoints and engine for the caller; None until both children have been ready."""
        if self._reports.keys() != SHARED:
            return None
        hub, classifier = self._reports[HUB], self._reports[CLASSIFIER]
        return Ready(events=hub["events"], replay=hub["replay"], engine=classifier["engine"])

    def send_to_classifier(self, change: ClassifierChange, fds: Sequence[int] = ()) -> bool:
        """Send `change` to the classifier; return False if it is not ready. Once ready, it gets the whole state."""
        if not self.is_ready(self.classifier):
            return False
        if self.classifier.send(change, fds):
            return True
        self.mark_down(self.classifier)
        if self.classifier.running:
            self.classifier.kill_because("does not read its messages")
        return False

    def change_hub(self, config: ServiceConfig) -> None:
        """Apply other limits of the journal, and other descriptions of the streams, from now on."""
        settings = HubSettings(
            keep_s=config.publish.keep,
            keep_bytes=config.publish.keep_size,
            streams=describe_streams(config),
            examples=config.examples is not None,
        )
        if self.hub.job:
            self.hub.job = self.hub.job.model_copy(update=dict(settings))
        self._send_to_hub(HubChange(settings=settings))  # a hub that does not run reads it in its next job

    def publish_outlets(self, statuses: Mapping[str, OutletStatus]) -> bool:
        """Have the next heartbeats show the outlets; return False if the hub is not ready."""
        return self.is_ready(self.hub) and self._send_to_hub(HubChange(outlets=dict(statuses)))

    def publish_configuration(self, status: ConfigurationStatus) -> None:
        """Have the next heartbeats show the result of the last reading; a hub that is not ready gets it once it is."""
        if self.is_ready(self.hub):
            self._send_to_hub(HubChange(configuration=status))

    def _send_to_hub(self, change: HubChange) -> bool:
        if self.hub.send(change):
            return True
        if self.hub.running and not self.hub.stopping:
            self.hub.kill_because("does not read its messages")
        return False


def describe_streams(config: ServiceConfig) -> dict[str, StreamDescription]:
    """Return the description of each stream for the hub. Actions beyond the limits of a status are left out."""
    return {
        name: StreamDescription(name=stream.name, actions=_listed_actions(config.actions_of(name).labels))
        for name, stream in config.streams.items()
    }


def _listed_actions(labels: Iterable[str]) -> tuple[str, ...]:
    sizes = accumulate(len(orjson.dumps(label)) + 1 for label in labels)
    fitting = [label for label, size in zip(labels, sizes, strict=True) if size <= MAX_ACTIONS_BYTES]
    return tuple(fitting[:MAX_LISTED_ACTIONS])

"""The two processes that all streams share: the hub, and the classifier with its changes while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from streamclf.config.service import PublishConfig
from streamclf.runtime.jobs import ClassifierChange, ClassifierJob, HubChange, HubJob
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.config_watch import CheckedConfig

HUB, CLASSIFIER = "hub", "classifier"
BOTH = frozenset({HUB, CLASSIFIER})

log = logging.getLogger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a service that is up tells whoever started it."""

    events: str
    replay: str
    engine: str


class SharedChildren:
    """Hub and classifier: their jobs, and what they said of themselves."""

    def __init__(self, link: str, table: LivenessTable, notify: Callable[[ChildEvent], None]) -> None:
        self._link, self._table = link, table
        self.hub = Child(HUB, "streamclf.hub", notify, reports_ready=True, pass_fds=[table.fd])
        self.classifier = Child(CLASSIFIER, "streamclf.classifier", notify, reports_ready=True, pass_fds=[table.fd])
        self._rows = {HUB: table.claim(), CLASSIFIER: table.claim()}
        self._said: dict[str, dict[str, str]] = {}
        self._up: set[str] = set()

    def child(self, name: str) -> Child | None:
        """The one with this name."""
        return {HUB: self.hub, CLASSIFIER: self.classifier}.get(name)

    def row(self, child: Child) -> int:
        """Its line on the table."""
        return self._rows[child.name]

    @property
    def watched_rows(self) -> list[tuple[str, int]]:
        """(name, line) of those that run and are not ending."""
        return [
            (child.name, self.row(child)) for child in (self.hub, self.classifier) if child.running and not child.ending
        ]

    def assign(self, wanted: CheckedConfig) -> None:
        """What both are to do when they start next."""
        publish = wanted.config.publish
        self.hub.job = HubJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=self._rows[HUB],
            events=publish.events,
            replay=publish.replay,
            journal=publish.journal,
            keep_s=publish.keep_s,
            keep_bytes=publish.keep_bytes,
            keys=publish.keys,
            allow=publish.allow,
        )
        self.assign_classifier(wanted)

    def assign_classifier(self, wanted: CheckedConfig) -> None:
        """What the classifier is to do when it starts next."""
        streams, engine = len(wanted.config.streams), wanted.config.engine
        self.classifier.job = ClassifierJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=self._rows[CLASSIFIER],
            bundle=wanted.bundle.path,
            engine=engine,
            streams=streams,
            capacity=streams + engine.spare_streams,
        )

    @property
    def capacity(self) -> int:
        """Streams that the classifier's bank has room for."""
        assert isinstance(self.classifier.job, ClassifierJob)
        return self.classifier.job.capacity

    def record_ready(self, child: Child, line: bytes) -> None:
        """It is up, and says where or how."""
        self._said[child.name] = orjson.loads(line)
        self._up.add(child.name)
        if child is self.hub and child.job:
            # A port that the system chose must be the same one after a restart, or every subscriber is lost.
            child.job = child.job.model_copy(update=self._said[HUB])

    def mark_down(self, child: Child) -> bool:
        """Its process is gone or going; whether it had been up."""
        was_up = child.name in self._up
        self._up.discard(child.name)
        return was_up

    def is_up(self, child: Child) -> bool:
        """Whether it runs and has said that it is ready."""
        return child.name in self._up

    def was_up(self, child: Child) -> bool:
        """Whether it was ready at some time."""
        return child.name in self._said

    @property
    def ready(self) -> Ready | None:
        """What the service tells those who started it; None before both were up."""
        if self._said.keys() != BOTH:
            return None
        hub, classifier = self._said[HUB], self._said[CLASSIFIER]
        return Ready(events=hub["events"], replay=hub["replay"], engine=classifier["engine"])

    def tell(self, change: ClassifierChange, fds: Sequence[int] = ()) -> bool:
        """Send `change` to the classifier; False where it is not up, and will be told everything once it is."""
        if not self.is_up(self.classifier):
            return False
        if self.classifier.send(change, fds):
            return True
        self.mark_down(self.classifier)
        if self.classifier.running:
            self.classifier.kill_because("takes no messages")
        return False

    def keep(self, publish: PublishConfig) -> None:
        """Another retention, from now on."""
        change = HubChange(keep_s=publish.keep_s, keep_bytes=publish.keep_bytes)
        if self.hub.job:
            self.hub.job = self.hub.job.model_copy(update=change.model_dump())
        self.hub.send(change)  # one that is not there reads it in its next job

    def needs_new_classifier(self, old: CheckedConfig, new: CheckedConfig) -> bool:
        """Whether the classifier of `old` is of no use for `new`."""
        # How large the next one's bank will be, and what the streams are told.
        spare = {"spare_streams": 0, "adaptive": False, "max_staleness_ms": None}
        engines = [each.config.engine.model_copy(update=spare) for each in (old, new)]
        return old.bundle != new.bundle or engines[0] != engines[1]

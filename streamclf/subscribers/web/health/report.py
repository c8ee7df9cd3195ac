"""Report the state of a service, for the page Health and for /api/health."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import Final

from pydantic import BaseModel

from streamclf.client.stream_views import StreamState
from streamclf.errors import ClipError
from streamclf.events.fleet_heartbeat import FleetHeartbeat, NodeCondition, fleet_fault, journals_of
from streamclf.events.kinds import State
from streamclf.events.outlet_status import OutletState
from streamclf.events.types import Heartbeat, Status
from streamclf.subscribers.web.archive import EventArchive
from streamclf.subscribers.web.health.machine import JournalUse, ProcessUse, ServiceMachine
from streamclf.subscribers.web.health.meter import StreamMeter
from streamclf.subscribers.web.history.follower import HistoryFollower
from streamclf.subscribers.web.history.records import StateChange
from streamclf.subscribers.web.service_view import LiveService

LOG_LINES: Final = 100
CHANGES: Final = 50
_DROPPED: Final = "dropped_"
_SINCE_CHANGES: Final = 200


class StreamHealth(BaseModel):
    """One stream. Numbers are those of the last minute; `dropped` counts by cause, since the processes started."""

    stream: str
    name: str
    state: State
    since: datetime | None
    reason: str | None
    note: str | None
    finished: bool
    paused: bool
    """Whether the configuration pauses it."""
    fps: float | None
    predictions_per_s: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    dropped: dict[str, int]
    codec: str | None
    width: int | None
    height: int | None
    decoding: str | None
    """Device that decodes."""
    reconnects: int | None


class OutletHealth(BaseModel):
    """One outlet of the service."""

    name: str
    state: OutletState
    since: datetime
    reason: str | None
    delivered: int
    refused: int
    lost: int


class NodeHealth(BaseModel):
    """One node of a fleet."""

    name: str
    state: NodeCondition
    since: datetime
    reason: str | None
    streams: list[str]
    """The streams that it may publish."""
    refused: int
    """Events of streams for which it had no lease, since its hub's start."""
    capacity: dict[str, float]
    version: str | None


class JournalHealth(BaseModel):
    """The journal. Its offsets are null for a fleet, and `file` is null if the service is not on this machine."""

    epoch: str | None
    oldest: int | None
    head: int | None
    not_durable: int
    """Events that were published and could not be written."""
    fault: str | None
    file: JournalUse | None


class ClipsHealth(BaseModel):
    """The folder of the clips and its disk."""

    folder: str
    disk_bytes: int | None
    free_bytes: int | None
    fault: str | None


class HealthReport(BaseModel):
    """The state of the service. Texts may come from anywhere: escape them before you show them."""

    time: datetime
    endpoint: str
    away_since: datetime | None
    problems: list[str]
    """One line for each problem; empty if there is none."""
    streams: list[StreamHealth]
    outlets: list[OutletHealth]
    nodes: list[NodeHealth] | None
    """Null outside a fleet."""
    journal: JournalHealth
    clips: ClipsHealth | None
    processes: list[ProcessUse] | None
    """Null if the service is not on this machine."""
    changes: list[StateChange]
    """The latest changes of the streams' states, newest first."""
    log: list[str] | None
    """The last lines of the service's log, oldest first.

    Null if the service is not on this machine, or if the page shows only some of its streams.
    """


class HealthReporter:
    """Make reports. Any thread may call it."""

    def __init__(
        self, service: LiveService, archive: EventArchive, follower: HistoryFollower, meter: StreamMeter
    ) -> None:
        self._service, self._archive, self._follower, self._meter = service, archive, follower, meter
        self._machine = ServiceMachine(service.endpoint)
        self._since: tuple[int, dict[str, datetime]] = (0, {})

    def report(self) -> HealthReport:
        """Return the present state of the service."""
        service = self._service
        heartbeat = service.heartbeat
        since = self._state_times()
        streams = [self._stream(name, since.get(name), heartbeat) for name in service.names()]
        outlets = [] if heartbeat is None else [_outlet(name, heartbeat) for name in sorted(heartbeat.outlets)]
        journals = [] if heartbeat is None else list(journals_of(heartbeat))
        single = journals[0] if len(journals) == 1 else None
        journal = JournalHealth(
            epoch=single.epoch if single else None,
            oldest=single.oldest if single else None,
            head=single.head if single else None,
            not_durable=heartbeat.not_durable if heartbeat else 0,
            fault=service.journal_fault,
            file=self._machine.journal(),
        )
        clips = self._clips()
        return HealthReport(
            time=datetime.now(timezone.utc),
            endpoint=service.endpoint,
            away_since=service.away_since,
            problems=self._problems(heartbeat, streams, outlets, journal, clips),
            streams=streams,
            outlets=outlets,
            nodes=_nodes(heartbeat),
            journal=journal,
            clips=clips,
            processes=self._processes(),
            changes=[each for each in self._archive.history.state_changes(CHANGES) if self._is_shown(each.stream)],
            log=self._machine.log_lines(LOG_LINES) if self._archive.history.streams is None else None,
        )

    def _is_shown(self, stream: str) -> bool:
        streams = self._archive.history.streams
        return streams is None or stream in streams

    def _processes(self) -> list[ProcessUse] | None:
        found = self._machine.processes()
        if found is None:
            return None
        return [each for each in found if each.name != "capture" or self._is_shown(each.subject or "")]

    def _stream(self, name: str, since: datetime | None, heartbeat: Heartbeat | None) -> StreamHealth:
        view: StreamState = self._service.read(name, lambda view: view) or StreamState()
        status = view.status
        counters = status.counters if status else {}
        dropped = {
            key.removeprefix(_DROPPED): int(number) for key, number in counters.items() if key.startswith(_DROPPED)
        }
        dropped |= _classifier_drops(view)
        dropped["link"] = heartbeat.dropped.get(name, 0) if heartbeat else 0
        dropped["lost_packets"] = int(counters.get("lost", 0))
        rates = self._meter.rates(name)
        note = status.note if status else None
        fault = fleet_fault(heartbeat, name)
        width, height = (counters.get(key) for key in ("width", "height"))
        return StreamHealth(
            stream=name,
            name=(status.name if status else None) or name,
            state=view.state if fault is None else "offline",
            since=since,
            reason=view.reason if fault is None else fault,
            note=note,
            finished=status.finished if status else False,
            paused=status.paused if status else False,
            fps=_rounded(rates.fps, 1),
            predictions_per_s=round(rates.predictions_per_s, 2),
            latency_p50_ms=_rounded(rates.latency_p50_ms, 1),
            latency_p99_ms=_rounded(rates.latency_p99_ms, 1),
            dropped={cause: number for cause, number in dropped.items() if number},
            codec=status.codec if status else None,
            width=None if width is None else int(width),
            height=None if height is None else int(height),
            decoding=_decoding(status),
            reconnects=int(counters["reconnects"]) if "reconnects" in counters else None,
        )

    def _state_times(self) -> dict[str, datetime]:
        """Return when each stream entered its present state, as far as the history has it."""
        version, found = self._since
        if version == self._archive.history.version:
            return found
        version = self._archive.history.version
        found = {}
        for name in self._service.names():
            changes = self._archive.history.state_changes(_SINCE_CHANGES, name)
            for change in changes:
                if change.state != changes[0].state:
                    break
                found[name] = change.time
        self._since = (version, found)
        return found

    def _clips(self) -> ClipsHealth | None:
        folder = self._archive.folder
        if folder is None:
            return None
        try:
            total, free = folder.disk_bytes()
        except ClipError as error:
            return ClipsHealth(folder=str(folder.root.absolute()), disk_bytes=None, free_bytes=None, fault=str(error))
        return ClipsHealth(folder=str(folder.root.absolute()), disk_bytes=total, free_bytes=free, fault=None)

    def _problems(
        self,
        heartbeat: Heartbeat | None,
        streams: list[StreamHealth],
        outlets: list[OutletHealth],
        journal: JournalHealth,
        clips: ClipsHealth | None,
    ) -> list[str]:
        found = []
        if self._service.away_since is not None:
            found.append(f"the service at {self._service.endpoint} sends nothing; check that it runs")
        if isinstance(heartbeat, FleetHeartbeat):
            found += heartbeat.problems()
        found += [
            _problem(f"stream {each.stream}", each.state, each.reason)
            for each in streams
            if each.state not in ("live", "connecting") and not (each.finished or each.paused)
        ]
        found += [
            _problem(f"outlet {each.name}", each.state, each.reason)
            for each in outlets
            if each.state not in ("running", "starting")
        ]
        found += [
            _problem(f"GPU {number}", device.state, device.reason)
            for number, device in (heartbeat.devices.items() if heartbeat else ())
            if device.state == "lost"
        ]
        if journal.not_durable:
            found.append(f"journal: {journal.not_durable} events could not be written since the hub's start")
        if journal.fault:
            found.append(f"journal: {journal.fault}")
        if clips is not None and clips.fault:
            found.append(f"clips: {clips.fault}")
        if self._follower.fault:
            found.append(f"the list of events is not complete: {self._follower.fault}")
        return found


def _nodes(heartbeat: Heartbeat | None) -> list[NodeHealth] | None:
    if not isinstance(heartbeat, FleetHeartbeat):
        return None
    return [
        NodeHealth(
            name=node.name,
            state=node.condition,
            since=node.since,
            reason=node.reason,
            streams=list(node.streams),
            refused=sum(node.heartbeat.refused.values()) if node.heartbeat else 0,
            capacity=dict(node.capacity),
            version=node.version,
        )
        for node in heartbeat.nodes.values()
    ]


def _classifier_drops(view: StreamState) -> dict[str, int]:
    """Add up the drops of the stream's regions. Models that share a process count the same ones, so the most counts."""
    found: dict[str, dict[str, int]] = {}
    for key, part in view.views.items():
        drops = found.setdefault(key.region or "", {})
        for cause, number in (part.prediction.dropped if part.prediction else {}).items():
            drops[cause] = max(drops.get(cause, 0), number)
    return dict(sum((Counter(drops) for drops in found.values()), Counter()))


def _problem(subject: str, state: str, reason: str | None) -> str:
    return f"{subject}: {state} ({reason})" if reason else f"{subject}: {state}"


def _outlet(name: str, heartbeat: Heartbeat) -> OutletHealth:
    status = heartbeat.outlets[name]
    return OutletHealth(
        name=name,
        state=status.state,
        since=status.since,
        reason=status.reason,
        delivered=status.delivered,
        refused=status.refused,
        lost=status.lost,
    )


def _decoding(status: Status | None) -> str | None:
    """Return the device that decodes, and whether it decodes fast. A note names a device that was configured."""
    if status is None:
        return None
    if status.note is not None and status.note.startswith("decoded by "):
        return status.note.removeprefix("decoded by ").split(" (")[0]
    device = None if status.codec is None else "CPU"
    return f"{device}, fast" if device and status.decode == "fast" else device


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

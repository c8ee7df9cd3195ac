"""Hold what the controller of a fleet knows, and store the part that must survive a restart."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone

from streamclf.events.directory import DirectoryNode
from streamclf.fleet.config import FleetConfig
from streamclf.fleet.leases import LeaseTable
from streamclf.fleet.messages import Report
from streamclf.fleet.placement import Capacity, Demand
from streamclf.fleet.rollout import Rollout
from streamclf.fleet.setup import Setup
from streamclf.fleet.store import Store

log = logging.getLogger("fleet")


@dataclass(slots=True)
class Session:
    """One run of a node, with its last report."""

    report: Report
    common: str
    """Version of the common configuration that the node should have."""
    seq: int = 0
    drops: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=600))
    """(time, drops since the start of its classifier) of its reports."""


@dataclass(slots=True)
class StreamMove:
    """A stream that leaves its node."""

    target: str | None
    """Name of the node that gets it; None for a stream that was removed from the configuration."""
    began_s: float


class FleetState:
    """The state of one fleet. Not thread-safe."""

    def __init__(self, store: Store, *, now_s: float) -> None:
        self._store = store
        self._start, self._changes = uuid.uuid4().hex[:8], 0
        self.fault = ""
        """Why the state cannot be stored."""
        self.sessions: dict[str, Session] = {}
        """The runs of nodes that have reported since this controller started."""
        self.moves: dict[str, StreamMove] = {}
        self.unplaced: list[Demand] = []
        stored = store.load("setup")
        self.setup: Setup | None = Setup.restored(stored) if stored else None
        state = store.load("state") or {}
        lease_s = self.setup.fleet.lease_s if self.setup else FleetConfig().lease_s
        leases = state.get("leases", {"last_token": 0, "lease_s": lease_s, "leases": {}})
        self.names: dict[str, str] = state.get("sessions", {})
        """The name of each session's node, also of sessions that have not reported since this controller started."""
        self.table = LeaseTable.restored(lease_s, leases, [*self.names], now_s)
        self.entries = {name: DirectoryNode.model_validate(entry) for name, entry in state.get("nodes", {}).items()}
        self.rollout = Rollout.restored(state["rollout"]) if state.get("rollout") else None
        self.fleet_id: str = state.get("fleet") or uuid.uuid4().hex

    @property
    def configured(self) -> Setup:
        """The configuration of a fleet that is up."""
        assert self.setup is not None
        return self.setup

    @property
    def revision(self) -> str:
        """The revision of the directory."""
        return f"{self._start}-{self._changes}"

    def save(self) -> bool:
        """Store the state durably; return False, and log it, if the disk does not take it."""
        self._changes += 1
        state = {
            "fleet": self.fleet_id,
            "leases": self.table.as_dict(),
            "sessions": self.names,
            "nodes": {name: entry.model_dump(mode="json") for name, entry in self.entries.items()},
            "rollout": self.rollout and self.rollout.as_dict(),
        }
        fault = ""
        try:
            self._store.save("state", state)
        except OSError as error:
            fault = f"the state of the fleet cannot be written: {error}; nothing is granted until it can"
        if fault and fault != self.fault:
            log.error("%s", fault)
        self.fault = fault
        return not fault

    def save_setup(self) -> None:
        """Store the configuration durably. Raises `OSError`."""
        self._store.save("setup", self.configured.as_dict())

    def forget_setup(self) -> None:
        """Forget the configuration. Tokens and journals stay known, for the next fleet."""
        self._store.remove("setup")
        self.setup, self.rollout, self.moves = None, None, {}
        self.save()

    def ready_sessions(self, now_s: float) -> dict[str, Session]:
        """Return the sessions that may get streams: those that have reported lately, and have the models."""
        return {
            key: each
            for key, each in self.sessions.items()
            if each.report.spec and not each.report.fetching and not self.is_silent(each, now_s)
        }

    def is_silent(self, session: Session, now_s: float) -> bool:
        """Return whether a session has not reported lately; its lease may still go on."""
        return self.table.age(session.report.session, now_s) > self.table.lease_s / 2

    def capacities(self, now_s: float) -> list[Capacity]:
        """Return the nodes that may get streams."""
        drain = self.configured.fleet.drain
        return [
            Capacity(
                node=each.report.node,
                cpus=each.report.cpus,
                gpus=each.report.gpus,
                site=each.report.site,
                drained=each.report.broken or each.report.node in drain,
            )
            for each in sorted(self.ready_sessions(now_s).values(), key=lambda each: each.report.node)
        ]

    def present(self) -> dict[str, list[Demand]]:
        """Return the demands of the streams that have a lease, by node."""
        present: dict[str, list[Demand]] = {each.report.node: [] for each in self.sessions.values()}
        for stream, lease in self.table.leases.items():
            session, demand = self.sessions.get(lease.session), self.configured.demands.get(stream)
            if session and demand:
                present[session.report.node].append(demand)
        return present


def utc_now() -> datetime:
    """Return the time of the wall, for people."""
    return datetime.now(timezone.utc)

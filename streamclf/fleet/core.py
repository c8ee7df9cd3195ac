"""Deal the streams of a fleet to its nodes: the controller's decisions, without Ray, threads or a clock.

Nodes report once a second (`report`), and get their leases and specification in return. `tick` expires leases, places
streams, moves one stream at a time, and advances a rolling update.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

from streamclf.events.directory import Directory, DirectoryNode, DirectoryStream
from streamclf.fleet.config import FleetConfig, digest
from streamclf.fleet.leases import LeaseTable
from streamclf.fleet.messages import PROTOCOL, NodeSpec, Orders, Report
from streamclf.fleet.placement import Capacity, Demand, describe_shortage, load_of, next_move, place
from streamclf.fleet.rollout import Baseline, Rollout
from streamclf.fleet.setup import Setup
from streamclf.fleet.store import Store

SETTLE_S: Final = 20.0
"""After the first configuration, longest time to wait for all nodes of the cluster before streams are placed."""
MOVE_S: Final = 60.0
"""Longest time to wait for a moved stream to be live, before the next one moves."""

log = logging.getLogger("fleet")


@dataclass(slots=True)
class _Session:
    """One run of a node, with its last report."""

    report: Report
    common: str
    """Version of the common configuration that the node should have."""
    seq: int = 0
    drops: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=600))
    """(time, drops since the start of its classifier) of its reports."""


@dataclass(slots=True)
class _Move:
    target: str | None
    """Name of the node; None for a stream that was removed from the configuration."""
    began_s: float


class FleetCore:
    """The state of one fleet. Not thread-safe."""

    def __init__(self, store: Store, *, now_s: float) -> None:
        self._store = store
        self._start, self._changes = uuid.uuid4().hex[:8], 0
        self._sessions: dict[str, _Session] = {}
        self._moves: dict[str, _Move] = {}
        self._unplaced: list[Demand] = []
        self.expected_nodes = 0
        """Nodes that the cluster has now."""
        stored = store.load("setup")
        self.setup = Setup.restored(stored) if stored else None
        state = store.load("state") or {}
        lease_s = self.setup.fleet.lease_s if self.setup else FleetConfig().lease_s
        leases = state.get("leases", {"last_token": 0, "leases": {}})
        self._table = LeaseTable.restored(lease_s, leases, now_s)
        self._entries = {name: DirectoryNode.model_validate(entry) for name, entry in state.get("nodes", {}).items()}
        self._rollout = Rollout.restored(state["rollout"]) if state.get("rollout") else None
        self._place_after_s = now_s
        self._names: dict[str, str] = state.get("sessions", {})
        """The name of each session's node, also of sessions that have not reported since this controller started."""
        for session in self._names:
            self._table.renew(session, now_s)
        self._fleet_id: str = state.get("fleet") or uuid.uuid4().hex
        self._stopping = False

    # Configuration

    def configure(self, setup: Setup, *, now_s: float) -> str:
        """Take a new configuration; return in one line what changes. Streams change at once, the rest node by node."""
        before, self.setup = self.setup, setup
        if before is None:
            self._place_after_s = now_s + SETTLE_S
            text = f"{len(setup.streams)} stream(s) are placed"
        else:
            text = setup.differences(before)
            if setup.target != before.target:
                stable = before.target
                if self._rollout:  # the rollout before did not end: its nodes differ, and the new one changes them all
                    stable = self._rollout.previous
                setup.commons[stable] = before.commons[stable]
                self._rollout = Rollout(target=setup.target, previous=stable)
            elif self._rollout:
                setup.commons[self._rollout.previous] = before.commons[self._rollout.previous]
                if self._rollout.halted:
                    self._rollout = Rollout(target=setup.target, previous=self._rollout.previous)
                    text = f"{text}; the rolling update is tried again"
        self._table.lease_s = setup.fleet.lease_s
        self._store.save("setup", setup.as_dict())
        self._save()
        self.tick(now_s=now_s)
        return text

    # Reports

    def report(self, report: Report, seq: int, *, now_s: float) -> Orders:
        """Renew the leases of a node, and return them with its orders. Reports that were overtaken get no leases."""
        setup = self.setup
        if setup is None:
            return Orders(error="no fleet is up")
        if error := self._refusal(report, now_s):
            return Orders(error=error)
        session = self._sessions.get(report.session)
        if session is None:
            session = self._join(report)
        if seq <= session.seq:
            return Orders(error="a later report has arrived")
        session.seq, session.report = seq, report
        session.drops.append((now_s, report.health.dropped))
        self._table.renew(report.session, now_s)
        if report.stopped:
            self._end_session(report.session, "it was stopped", left=True)
            return Orders(stop=True)
        if self._stopping:
            return Orders(tokens=self._table.of(report.session), lease_s=self._table.lease_s, stop=True)
        if report.broken and self._table.release(report.session, report.held.keys()):
            log.warning("node %s cannot run its service: %s", report.node, report.error)
            self._save()
            self._assign(now_s)
        dropping = {stream for stream in self._table.of(report.session) if self._is_dropping(stream, session)}
        if ended := dropping - report.held.keys():
            self._table.release(report.session, self._table.of(report.session).keys() - ended)
            self._assign(now_s)
            dropping -= ended
        self._record_node(report)
        tokens = self._table.of(report.session)
        spec = self._spec_of(session)
        return Orders(
            tokens=tokens,
            drop=tuple(sorted(dropping)),
            lease_s=self._table.lease_s,
            spec=None if spec.version == report.spec else spec,
        )

    def _refusal(self, report: Report, now_s: float) -> str | None:
        if report.protocol != PROTOCOL:
            return (
                f"the node's streamclf {report.version} has version {report.protocol} of the fleet's messages, the "
                f"controller's has {PROTOCOL}; install the same streamclf on both"
            )
        for key, other in [*self._sessions.items()]:
            if other.report.node == report.node and key != report.session:
                if other.report.boot == report.boot:  # the node holds the lock of its folder: the run before has ended
                    self._end_session(key, "it was restarted")
                elif self._table.is_alive(key, now_s):
                    return f"another machine has the name {report.node}; start Ray there with --labels node=NAME"
        return None

    def _join(self, report: Report) -> _Session:
        assert self.setup is not None
        rollout = self._rollout
        is_old = rollout and (rollout.halted or report.node not in rollout.done)
        session = _Session(report, rollout.previous if rollout and is_old else self.setup.target)
        self._sessions[report.session], self._names[report.session] = session, report.node
        log.info("node %s joins: %.2f processors, %g GPUs", report.node, report.cpus, report.gpus)
        return session

    def _record_node(self, report: Report) -> None:
        """Record a live node in the directory. Its changes are stored, but not each new event of its journal."""
        before = self._entries.get(report.node)
        place = {"events": report.events, "replay": report.replay, "epoch": report.epoch, "head": report.head}
        known: dict[str, Any] = {key: value for key, value in place.items() if value is not None}
        known |= {"capacity": {"cpu": report.cpus, "gpu": report.gpus}, "version": report.version}
        if before is not None and before.state == "live":
            entry = before.model_copy(update=known)
        else:
            old = {} if before is None else before.model_dump(include={*place})
            entry = DirectoryNode(**{**old, **known, "name": report.node, "state": "live", "since": _now()})
        self._entries[report.node] = entry
        if before is None or before.model_copy(update={"head": entry.head}) != entry:
            self._save()

    def _end_session(self, key: str, reason: str, *, left: bool = False) -> None:
        self._sessions.pop(key, None)
        streams, name = self._table.end(key), self._names.pop(key, None)
        if name in self._entries:
            log.warning("node %s: %s; it had %d stream(s)", name, reason, len(streams))
            self._entries[name] = self._entries[name].model_copy(
                update={"state": "left" if left else "lost", "since": _now(), "reason": reason[:512]}
            )
        self._save()

    # Decisions

    def tick(self, *, now_s: float) -> None:
        """Make all decisions that are due."""
        if self.setup is None:
            return
        for key in self._table.expired(now_s):
            age = self._table.age(key, now_s)
            self._end_session(key, f"no report for {age:.1f} s")
        if self._stopping:
            return
        for stream in self._table.leases.keys() - self.setup.streams.keys() - self._moves.keys():
            self._moves[stream] = _Move(None, now_s)
        self._assign(now_s)
        self._finish_moves(now_s)
        self._advance_rollout(now_s)
        if not self._moves and not (self._rollout and not self._rollout.halted):
            self._start_move(now_s)

    def _assign(self, now_s: float) -> None:
        """Grant each stream that has no lease to a node."""
        assert self.setup is not None
        waiting = self.setup.streams.keys() - self._table.leases.keys()
        if not waiting:
            self._unplaced = []
            return
        if now_s < self._place_after_s and len(self._live_sessions(now_s)) < max(1, self.expected_nodes):
            return
        self._place_after_s = min(self._place_after_s, now_s)
        by_name = {session.report.node: key for key, session in self._live_sessions(now_s).items()}
        placed: dict[str, str] = {}
        for stream in sorted(waiting):
            move = self._moves.get(stream)
            if move and move.target in by_name:
                placed[stream] = move.target
        demands = [self.setup.demands[stream] for stream in waiting - placed.keys()]
        more, self._unplaced = place(demands, self._capacities(now_s), self._present(), self.setup.fleet.placement)
        placed |= more
        for stream, node in sorted(placed.items()):
            self._table.grant(stream, by_name[node], wall_s=datetime.now(timezone.utc).timestamp())
        if placed:
            for stream in more.keys() & self._moves.keys():
                del self._moves[stream]
            log.info("%d stream(s) granted to %s", len(placed), ", ".join(sorted({*placed.values()})))
            self._save()

    def _live_sessions(self, now_s: float) -> dict[str, _Session]:
        """Return the sessions that may get streams: those that have reported lately, and have the models."""
        return {
            key: each
            for key, each in self._sessions.items()
            if each.report.spec and not each.report.fetching and not self._is_silent(each, now_s)
        }

    def _is_silent(self, session: _Session, now_s: float) -> bool:
        return self._table.age(session.report.session, now_s) > self._table.lease_s / 2

    def _capacities(self, now_s: float) -> list[Capacity]:
        assert self.setup is not None
        return [
            Capacity(
                node=each.report.node,
                cpus=each.report.cpus,
                gpus=each.report.gpus,
                site=each.report.site,
                drained=each.report.broken or each.report.node in self.setup.fleet.drain,
            )
            for _, each in sorted(self._live_sessions(now_s).items(), key=lambda item: item[1].report.node)
        ]

    def _present(self) -> dict[str, list[Demand]]:
        """Return the demands of the streams that have a lease, by node."""
        assert self.setup is not None
        present: dict[str, list[Demand]] = {each.report.node: [] for each in self._sessions.values()}
        for stream, lease in self._table.leases.items():
            session, demand = self._sessions.get(lease.session), self.setup.demands.get(stream)
            if session and demand:
                present[session.report.node].append(demand)
        return present

    def _start_move(self, now_s: float) -> None:
        assert self.setup is not None
        move = next_move(self._capacities(now_s), self._present(), self.setup.fleet.placement)
        if move:
            log.info("stream %s moves from %s to %s", move.stream, move.source, move.target)
            self._moves[move.stream] = _Move(move.target, now_s)

    def _finish_moves(self, now_s: float) -> None:
        """Forget moves that are done, or that take too long."""
        assert self.setup is not None
        for stream, move in [*self._moves.items()]:
            lease = self._table.leases.get(stream)
            session = self._sessions.get(lease.session) if lease else None
            if move.target is None:
                if lease is None or stream in self.setup.streams:
                    del self._moves[stream]
            elif now_s - move.began_s > MOVE_S:
                log.warning("stream %s was not live on %s within %g s after its move", stream, move.target, MOVE_S)
                del self._moves[stream]
            elif session and session.report.node == move.target:
                report = session.report
                if stream in report.held and stream not in report.health.not_live:
                    del self._moves[stream]

    def _advance_rollout(self, now_s: float) -> None:
        rollout, setup = self._rollout, self.setup
        if rollout is None or setup is None or rollout.halted:
            return
        by_name = {each.report.node: each for each in self._sessions.values() if not self._is_silent(each, now_s)}
        if rollout.node:
            session = by_name.get(rollout.node)
            spec = self._spec_of(session).version if session else ""
            if rollout.check(session.report if session else None, spec, setup.fleet.rollout, now_s):
                log.info("node %s serves the new configuration as well as the one before", rollout.node)
                rollout.finish_node()
                self._save()
            elif rollout.halted:
                log.error("the rolling update halts: %s", rollout.halted)
                if session:
                    session.common = rollout.previous
                self._save()
            return
        waiting = sorted(name for name, each in by_name.items() if each.common != rollout.target)
        if waiting:
            session = by_name[waiting[0]]
            session.common = rollout.target
            rollout.begin(waiting[0], self._baseline(session, now_s), now_s)
            log.info("node %s gets the new configuration", waiting[0])
        elif by_name:
            log.info("all nodes serve the new configuration")
            self._rollout = None
            setup.commons = {setup.target: setup.commons[setup.target]}
            self._store.save("setup", setup.as_dict())
            self._save()

    def _baseline(self, session: _Session, now_s: float) -> Baseline:
        assert self.setup is not None
        since_s = now_s - self.setup.fleet.rollout.observe_s
        drops = next((count for at_s, count in session.drops if at_s >= since_s), session.report.health.dropped)
        health = session.report.health
        return Baseline(health.live, health.latency_ms, max(0, health.dropped - drops))

    def _spec_of(self, session: _Session, streams: Iterable[str] | None = None) -> NodeSpec:
        assert self.setup is not None
        if streams is None:
            tokens = self._table.of(session.report.session)
            streams = tokens.keys() - {stream for stream in tokens if self._is_dropping(stream, session)}
        raw = {stream: self.setup.streams[stream] for stream in sorted(streams) if stream in self.setup.streams}
        parts = {stream: self.setup.digests[stream] for stream in raw}
        common = self.setup.commons[session.common]
        return NodeSpec(
            version=digest([session.common, parts]),
            common=common,
            streams=raw,
            folder=str(self.setup.fleet.folder),
        )

    def _is_dropping(self, stream: str, session: _Session) -> bool:
        move = self._moves.get(stream)
        return move is not None and move.target != session.report.node

    # Views

    def directory(self) -> Directory:
        """Return the directory for subscribers."""
        assert self.setup is not None
        streams = {}
        reasons = {each.stream: "no node has room for it" for each in self._unplaced}
        for stream in self.setup.streams:
            lease = self._table.leases.get(stream)
            node = self._names.get(lease.session) if lease else None
            if lease and node:
                since = datetime.fromtimestamp(lease.wall_s, timezone.utc)
                streams[stream] = DirectoryStream(node=node, lease=lease.token, since=since)
            else:
                streams[stream] = DirectoryStream(reason=reasons.get(stream, "it waits for a node"))
        return Directory(
            fleet=self._fleet_id,
            revision=self.revision,
            time=_now(),
            nodes=self.entries,
            streams=streams,
        )

    @property
    def entries(self) -> tuple[DirectoryNode, ...]:
        """The nodes in the directory, with the newest event of each journal as of its last report."""
        return tuple(self._entries.values())

    @property
    def revision(self) -> str:
        """The revision of the directory."""
        return f"{self._start}-{self._changes}"

    def status(self, *, now_s: float) -> dict[str, Any]:
        """Return the state of the fleet, for people and programs; it holds no secret."""
        if self.setup is None:
            return {"up": False}
        present, capacities = self._present(), {each.node: each for each in self._capacities(now_s)}
        sessions = {each.report.node: (key, each) for key, each in self._sessions.items()}
        nodes = {}
        for name, entry in sorted(self._entries.items()):
            node: dict[str, Any] = entry.model_dump(mode="json", exclude={"name", "capacity"})
            if name in sessions:
                key, session = sessions[name]
                report = session.report
                node |= {
                    "streams": len(present[name]),
                    "live": report.health.live,
                    "not_live": {**report.health.not_live, **report.failed},
                    "load": round(load_of(capacities[name], present[name]), 3) if name in capacities else None,
                    "cpus": report.cpus,
                    "gpus": report.gpus,
                    "site": report.site,
                    "cpus_used": report.health.cpus,
                    "latency_ms": report.health.latency_ms,
                    "refused": report.health.refused,
                    "version": report.version,
                    "configuration": session.common,
                    "error": report.error,
                    "report_age_s": round(self._table.age(key, now_s), 1),
                }
            nodes[name] = node
        unplaced = [each.stream for each in self._unplaced]
        return {
            "up": True,
            "fleet": self.setup.fleet.name,
            "directory": self.setup.fleet.directory,
            "streams": len(self.setup.streams),
            "live": sum(node.get("live", 0) for node in nodes.values()),
            "unplaced": sorted(unplaced),
            "shortage": self._shortage(now_s),
            "moving": {stream: move.target for stream, move in self._moves.items()},
            "rollout": self._rollout and {**self._rollout.as_dict(), "node": self._rollout.node},
            "nodes": nodes,
        }

    def _shortage(self, now_s: float) -> str | None:
        assert self.setup is not None
        if not self._unplaced:
            return None
        return describe_shortage(self._unplaced, self._capacities(now_s), len(self.setup.streams))

    def stop(self) -> int:
        """Order all nodes to end; return how many have not. After the last one, the fleet is forgotten."""
        self._stopping = True
        if not self._names:
            self._store.clear()
            self.setup, self._stopping = None, False
        return len(self._names)

    def _save(self) -> None:
        self._changes += 1
        self._store.save(
            "state",
            {
                "fleet": self._fleet_id,
                "leases": self._table.as_dict(),
                "sessions": self._names,
                "nodes": {name: entry.model_dump(mode="json") for name, entry in self._entries.items()},
                "rollout": self._rollout and self._rollout.as_dict(),
            },
        )


def _now() -> datetime:
    return datetime.now(timezone.utc)

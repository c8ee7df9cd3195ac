"""Deal the streams of a fleet to its nodes: the controller's decisions, without Ray, threads or a clock.

Nodes report once a second (`report`), and get their leases and specification in return. `tick` expires leases, places
streams, moves one stream at a time, and advances a rolling update.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from streamclf.errors import UsageError
from streamclf.events.directory import Directory, DirectoryNode
from streamclf.fleet.config import digest
from streamclf.fleet.messages import PROTOCOL, NodeSpec, Orders, Report
from streamclf.fleet.placement import next_move, place
from streamclf.fleet.rollout import Baseline, Rollout
from streamclf.fleet.setup import Setup
from streamclf.fleet.state import FleetState, Session, StreamMove, utc_now
from streamclf.fleet.store import Store
from streamclf.fleet.views import make_directory, make_status

SETTLE_S: Final = 20.0
"""After the first configuration, longest time to wait for all nodes of the cluster before streams are placed."""
MOVE_S: Final = 60.0
"""Longest time to wait for a moved stream to be live, before the next one moves."""

log = logging.getLogger("fleet")


class FleetCore:
    """The state of one fleet. Not thread-safe."""

    def __init__(self, store: Store, *, now_s: float) -> None:
        self.state = FleetState(store, now_s=now_s)
        self.expected_nodes = 0
        """Nodes that the cluster has now."""
        self._place_after_s = now_s
        self._stopping = False

    # Configuration

    def configure(self, setup: Setup, *, now_s: float) -> str:
        """Take a new configuration; return in one line what changes. Streams change at once, the rest node by node."""
        state = self.state
        before, state.setup = state.setup, setup
        if before is not None:
            rollout = state.rollout
            stable = rollout.previous if rollout else before.target
            in_use = {stable, *(session.common for session in state.sessions.values())} & before.commons.keys()
            setup.commons.update({version: before.commons[version] for version in in_use})
        try:
            state.save_setup()
        except OSError as error:
            state.setup = before
            raise UsageError(
                f"{setup.fleet.folder} on the head: the configuration cannot be stored: {error.strerror}; nothing has "
                "changed"
            ) from None
        if before is None:
            self._place_after_s = now_s + SETTLE_S
            text = f"{len(setup.streams)} stream(s) are placed"
        else:
            text = setup.differences(before)
            if setup.target != before.target:
                state.rollout = Rollout(target=setup.target, previous=stable)
            elif rollout and rollout.halted:
                state.rollout = Rollout(target=setup.target, previous=stable)
                text = f"{text}; the rolling update is tried again"
        state.table.lease_s = setup.fleet.lease_s
        state.save()
        self.tick(now_s=now_s)
        return text

    # Reports

    def report(self, report: Report, seq: int, *, now_s: float) -> Orders:
        """Renew the leases of a node, and return them with its orders. Reports that were overtaken get no leases."""
        if self.state.setup is None:
            return Orders(error="no fleet is up")
        if error := self._refusal(report, now_s):
            return Orders(error=error)
        session = self.state.sessions.get(report.session)
        if session is None:
            session = self._join(report)
        if seq <= session.seq:
            return Orders(error="a later report has arrived")
        session.seq, session.report = seq, report
        session.drops.append((now_s, report.health.dropped))
        self.state.table.renew(report.session, now_s)
        self.state.table.last_token = max([self.state.table.last_token, *report.held.values()])
        if report.stopped:
            self._end_session(report.session, "it was stopped", left=True)
            return Orders(stop=True)
        if self._stopping:
            return Orders(tokens=self.state.table.of(report.session), lease_s=self.state.table.lease_s, stop=True)
        if report.broken and self.state.table.release(report.session, report.held.keys()):
            log.warning("node %s cannot run its service: %s", report.node, report.error)
            self.state.save()
            self._assign(now_s)
        dropping = {stream for stream in self.state.table.of(report.session) if self._is_dropping(stream, session)}
        if ended := dropping - report.held.keys():
            self.state.table.release(report.session, self.state.table.of(report.session).keys() - ended)
            self._assign(now_s)
            dropping -= ended
        self._record_node(report)
        tokens = self.state.table.of(report.session)
        spec = self._spec_of(session)
        return Orders(
            tokens=tokens,
            drop=tuple(sorted(dropping)),
            lease_s=self.state.table.lease_s,
            spec=None if spec.version == report.spec else spec,
            soon=bool(dropping) or any(move.target == report.node for move in self.state.moves.values()),
        )

    def _refusal(self, report: Report, now_s: float) -> str | None:
        if report.protocol != PROTOCOL:
            return (
                f"the node's streamclf {report.version} has version {report.protocol} of the fleet's messages, the "
                f"controller's has {PROTOCOL}; install the same streamclf on both"
            )
        for key, other in [*self.state.sessions.items()]:
            if other.report.node == report.node and key != report.session:
                if other.report.boot == report.boot:  # the node holds the lock of its folder: the run before has ended
                    self._end_session(key, "it was restarted")
                elif self.state.table.is_alive(key, now_s):
                    return f"another machine has the name {report.node}; start Ray there with --labels node=NAME"
        return None

    def _join(self, report: Report) -> Session:
        rollout = self.state.rollout
        is_old = rollout and (rollout.halted or report.node not in rollout.done)
        session = Session(report, rollout.previous if rollout and is_old else self.state.configured.target)
        self.state.sessions[report.session], self.state.names[report.session] = session, report.node
        log.info("node %s joins: %.2f processors, %g GPUs", report.node, report.cpus, report.gpus)
        return session

    def _record_node(self, report: Report) -> None:
        """Record a live node in the directory. Its changes are stored, but not each new event of its journal."""
        before = self.state.entries.get(report.node)
        place = {"events": report.events, "replay": report.replay, "epoch": report.epoch, "head": report.head}
        known: dict[str, Any] = {key: value for key, value in place.items() if value is not None}
        known |= {"capacity": {"cpu": report.cpus, "gpu": report.gpus}, "version": report.version}
        if before is not None and before.state == "live":
            entry = before.model_copy(update=known)
        else:
            old = {} if before is None else before.model_dump(include={*place})
            entry = DirectoryNode(**{**old, **known, "name": report.node, "state": "live", "since": utc_now()})
        self.state.entries[report.node] = entry
        if before is None or before.model_copy(update={"head": entry.head}) != entry:
            self.state.save()

    def _end_session(self, key: str, reason: str, *, left: bool = False) -> None:
        self.state.sessions.pop(key, None)
        streams, name = self.state.table.end(key), self.state.names.pop(key, None)
        if name in self.state.entries:
            log.warning("node %s: %s; it had %d stream(s)", name, reason, len(streams))
            self.state.entries[name] = self.state.entries[name].model_copy(
                update={"state": "left" if left else "lost", "since": utc_now(), "reason": reason[:512]}
            )
        self.state.save()

    # Decisions

    def tick(self, *, now_s: float) -> None:
        """Make all decisions that are due."""
        if self.state.setup is None:
            return
        for key in self.state.table.expired(now_s):
            age = self.state.table.age(key, now_s)
            self._end_session(key, f"no report for {age:.1f} s")
        if self._stopping:
            return
        for stream in self.state.table.leases.keys() - self.state.configured.streams.keys() - self.state.moves.keys():
            self.state.moves[stream] = StreamMove(None, now_s)
        self._assign(now_s)
        self._finish_moves(now_s)
        self._advance_rollout(now_s)
        if not self.state.moves and not (self.state.rollout and not self.state.rollout.halted):
            self._start_move(now_s)

    def _assign(self, now_s: float) -> None:
        """Grant each stream that has no lease to a node."""
        waiting = self.state.configured.streams.keys() - self.state.table.leases.keys()
        if not waiting:
            self.state.unplaced = []
            return
        if now_s < self._place_after_s and len(self.state.ready_sessions(now_s)) < max(1, self.expected_nodes):
            return
        self._place_after_s = min(self._place_after_s, now_s)
        by_name = {session.report.node: key for key, session in self.state.ready_sessions(now_s).items()}
        placed: dict[str, str] = {}
        for stream in sorted(waiting):
            move = self.state.moves.get(stream)
            if move and move.target in by_name:
                placed[stream] = move.target
        demands = [self.state.configured.demands[stream] for stream in waiting - placed.keys()]
        more, self.state.unplaced = place(
            demands, self.state.capacities(now_s), self.state.present(), self.state.configured.fleet.placement
        )
        placed |= more
        for stream, node in sorted(placed.items()):
            self.state.table.grant(stream, by_name[node], wall_s=utc_now().timestamp())
        if placed and not self.state.save():  # a grant that a restart forgets would be given twice
            for stream in placed:
                self.state.table.revoke(stream)
        elif placed:
            for stream in more.keys() & self.state.moves.keys():
                del self.state.moves[stream]
            log.info("%d stream(s) granted to %s", len(placed), ", ".join(sorted({*placed.values()})))

    def _start_move(self, now_s: float) -> None:
        move = next_move(self.state.capacities(now_s), self.state.present(), self.state.configured.fleet.placement)
        if move:
            log.info("stream %s moves from %s to %s", move.stream, move.source, move.target)
            self.state.moves[move.stream] = StreamMove(move.target, now_s)

    def _finish_moves(self, now_s: float) -> None:
        """Forget moves that are done, or that take too long."""
        for stream, move in [*self.state.moves.items()]:
            lease = self.state.table.leases.get(stream)
            session = self.state.sessions.get(lease.session) if lease else None
            if move.target is None:
                if lease is None or stream in self.state.configured.streams:
                    del self.state.moves[stream]
            elif now_s - move.began_s > MOVE_S:
                log.warning("stream %s was not live on %s within %g s after its move", stream, move.target, MOVE_S)
                del self.state.moves[stream]
            elif session and session.report.node == move.target:
                report = session.report
                if stream in report.held and stream not in report.health.not_live:
                    del self.state.moves[stream]

    def _advance_rollout(self, now_s: float) -> None:
        rollout, setup = self.state.rollout, self.state.setup
        if rollout is None or setup is None or rollout.halted:
            return
        by_name = {
            each.report.node: each for each in self.state.sessions.values() if not self.state.is_silent(each, now_s)
        }
        if rollout.node:
            session = by_name.get(rollout.node)
            spec = self._spec_of(session).version if session else ""
            if rollout.check(session.report if session else None, spec, setup.fleet.rollout, now_s):
                log.info("node %s serves the new configuration as well as the one before", rollout.node)
                rollout.finish_node()
                self.state.save()
            elif rollout.halted:
                log.error("the rolling update halts: %s", rollout.halted)
                if session:
                    session.common = rollout.previous
                self.state.save()
            return
        waiting = sorted(name for name, each in by_name.items() if each.common != rollout.target)
        if waiting:
            session = by_name[waiting[0]]
            session.common = rollout.target
            rollout.begin(waiting[0], self._baseline(session, now_s), now_s)
            log.info("node %s gets the new configuration", waiting[0])
        elif by_name:
            log.info("all nodes serve the new configuration")
            self.state.rollout = None
            setup.commons = {setup.target: setup.commons[setup.target]}
            self.state.save_setup()
            self.state.save()

    def _baseline(self, session: Session, now_s: float) -> Baseline:
        since_s = now_s - self.state.configured.fleet.rollout.observe_s
        drops = next((count for at_s, count in session.drops if at_s >= since_s), session.report.health.dropped)
        health = session.report.health
        return Baseline(health.live, health.latency_ms, max(0, health.dropped - drops))

    def _spec_of(self, session: Session) -> NodeSpec:
        """Return what a node should serve: its streams, but for those that it should stop."""
        setup = self.state.configured
        wanted = [each for each in self.state.table.of(session.report.session) if each in setup.streams]
        raw = {each: setup.streams[each] for each in sorted(wanted) if not self._is_dropping(each, session)}
        version = digest([session.common, {stream: setup.digests[stream] for stream in raw}])
        return NodeSpec(version=version, common=setup.commons[session.common], streams=raw)

    def _is_dropping(self, stream: str, session: Session) -> bool:
        move = self.state.moves.get(stream)
        return move is not None and move.target != session.report.node

    def directory(self) -> Directory:
        """Return the directory for subscribers."""
        return make_directory(self.state)

    def status(self, *, now_s: float) -> dict[str, Any]:
        """Return the state of the fleet, for people and programs; it holds no secret."""
        return make_status(self.state, now_s=now_s)

    def stop(self) -> int:
        """Order all nodes to end; return how many have not. After the last one, the fleet is forgotten."""
        self._stopping = True
        if not self.state.names and self.state.setup:
            self.state.forget_setup()
            self._stopping = False
        return len(self.state.names)

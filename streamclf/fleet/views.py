"""Show the state of a fleet: the directory for subscribers, and the status for people and programs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from streamclf.events.directory import Directory, DirectoryStream
from streamclf.fleet.placement import describe_shortage, load_of
from streamclf.fleet.state import FleetState, utc_now


def make_directory(state: FleetState) -> Directory:
    """Return the directory for subscribers."""
    setup = state.configured
    streams = {}
    reasons = {each.stream: "no node has room for it" for each in state.unplaced}
    for stream in setup.streams:
        lease = state.table.leases.get(stream)
        node = state.names.get(lease.session) if lease else None
        if lease and node:
            since = datetime.fromtimestamp(lease.wall_s, timezone.utc)
            streams[stream] = DirectoryStream(node=node, lease=lease.token, since=since)
        else:
            streams[stream] = DirectoryStream(reason=reasons.get(stream, "it waits for a node"))
    return Directory(
        fleet=state.fleet_id,
        revision=state.revision,
        time=utc_now(),
        nodes=tuple(state.entries.values()),
        streams=streams,
    )


def make_status(state: FleetState, *, now_s: float) -> dict[str, Any]:
    """Return the state of the fleet, for people and programs; it holds no secret."""
    if state.setup is None:
        return {"up": False}
    present, capacities = state.present(), {each.node: each for each in state.capacities(now_s)}
    sessions = {each.report.node: (key, each) for key, each in state.sessions.items()}
    nodes = {}
    for name, entry in sorted(state.entries.items()):
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
                "latency_ms": report.health.latency_ms,
                "refused": report.health.refused,
                "version": report.version,
                "configuration": session.common,
                "error": report.error,
                "report_age_s": round(state.table.age(key, now_s), 1),
            }
        nodes[name] = node
    unplaced = [each.stream for each in state.unplaced]
    return {
        "up": True,
        "fleet": state.setup.fleet.name,
        "directory": state.setup.fleet.directory,
        "streams": len(state.setup.streams),
        "live": sum(node.get("live", 0) for node in nodes.values()),
        "unplaced": sorted(unplaced),
        "shortage": _shortage(state, now_s),
        "moving": {stream: move.target for stream, move in state.moves.items()},
        "rollout": state.rollout and {**state.rollout.as_dict(), "node": state.rollout.node},
        "nodes": nodes,
    }


def _shortage(state: FleetState, now_s: float) -> str | None:
    if not state.unplaced:
        return None
    return describe_shortage(state.unplaced, state.capacities(now_s), len(state.configured.streams))

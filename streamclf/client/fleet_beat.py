"""Make one heartbeat and one snapshot of those of a fleet's nodes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from streamclf.client.fleet_directory import DirectoryClient
from streamclf.client.fleet_node import FleetNode
from streamclf.client.replay import Snapshot
from streamclf.events.device_status import DeviceStatus
from streamclf.events.fleet_heartbeat import FleetHeartbeat, NodeSummary
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import Status, StreamEvent
from streamclf.events.views import UNNAMED, ViewKey, view_of


def make_heartbeat(nodes: Mapping[str, FleetNode], directory: DirectoryClient, overtaken: int) -> FleetHeartbeat:
    """Return the heartbeat of the fleet at this moment. `overtaken` counts the events that the subscriber refused."""
    assert directory.list is not None
    streams: defaultdict[str, list[str]] = defaultdict(list)
    unplaced = {}
    for name, stream in directory.list.streams.items():
        if stream.node is None:
            unplaced[name] = stream.reason or "no node has the lease now"
        else:
            streams[stream.node].append(name)
    summaries = {name: _summary(node, tuple(streams[name])) for name, node in sorted(nodes.items())}
    beats = {name: node.heartbeat for name, node in summaries.items() if node.heartbeat and node.condition == "live"}
    last: dict[str, int] = {}
    dropped: defaultdict[str, int] = defaultdict(int)
    refused: defaultdict[str, int] = defaultdict(int)
    outlets: dict[str, OutletStatus] = {}
    leases: dict[str, int] = {}
    devices: dict[str, DeviceStatus] = {}
    for name, beat in beats.items():
        last |= beat.last
        leases |= beat.leases or {}
        outlets |= {f"{name}/{outlet}": status for outlet, status in beat.outlets.items()}
        devices |= {f"{name}/{number}": status for number, status in beat.devices.items()}
        for stream_name, count in beat.dropped.items():
            dropped[stream_name] += count
        for stream_name, count in beat.refused.items():
            refused[stream_name] += count
    return FleetHeartbeat(
        epoch=hashlib.md5(directory.list.fleet.encode(), usedforsecurity=False).hexdigest(),
        time=datetime.now(timezone.utc),
        head=sum(beat.head for beat in beats.values()),
        oldest=sum(beat.oldest for beat in beats.values()),
        last=last,
        replay="",
        not_durable=sum(beat.not_durable for beat in beats.values()),
        dropped=dropped,
        # A directory without any stream is one that starts: outlets would remove all streams from other systems.
        streams=tuple(directory.list.streams) or None,
        outlets=outlets,
        leases=leases,
        devices=devices,
        refused=refused,
        nodes=summaries,
        owners={name: stream.node for name, stream in directory.list.streams.items() if stream.node is not None},
        unplaced=unplaced,
        directory_fault=directory.fault,
        overtaken=overtaken,
    )


def merge_snapshots(parts: Sequence[Snapshot]) -> Snapshot:
    """Return the newest event of each stream, type and view, oldest first. `parts` has at least one snapshot."""
    newest: dict[tuple[str, str, ViewKey], StreamEvent] = {}
    for part in parts:
        for event in part.events:
            key = event.stream, event.type, UNNAMED if isinstance(event, Status) else view_of(event)
            if key not in newest or _rank(event) > _rank(newest[key]):
                newest[key] = event
    first, *others = parts
    return replace(
        first,
        events=tuple(sorted(newest.values(), key=lambda event: event.time)),
        others=tuple((part.epoch, part.head) for part in others),
    )


def _rank(event: StreamEvent) -> tuple[int, datetime]:
    return event.lease or 0, event.time


def _summary(node: FleetNode, streams: tuple[str, ...]) -> NodeSummary:
    heartbeat, entry = node.heartbeat, node.entry
    if heartbeat is not None and entry.replay is not None:
        heartbeat = replace(heartbeat, replay=entry.replay)
    return NodeSummary(
        name=entry.name,
        condition=node.condition,
        since=node.since,
        reason=node.reason,
        streams=streams,
        capacity=entry.capacity,
        version=entry.version,
        heartbeat=heartbeat,
    )

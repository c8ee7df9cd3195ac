"""Define the heartbeat of a fleet, which a subscriber makes of those of the nodes, once a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from streamclf.events.types import Heartbeat

NodeCondition: TypeAlias = Literal["connecting", "live", "lost", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSummary:
    """One node, as a subscriber and the directory see it."""

    name: str
    condition: NodeCondition
    since: datetime
    """When the condition began, by this machine's clock."""
    reason: str | None = None
    """Why it is not live."""
    streams: tuple[str, ...] = ()
    """The streams that it may publish."""
    capacity: Mapping[str, float] = field(default_factory=dict)
    version: str | None = None
    heartbeat: Heartbeat | None = None
    """Its latest heartbeat, with a `replay` endpoint that this machine reaches; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHeartbeat(Heartbeat):
    """The sums and unions of the nodes' heartbeats. It is made by the subscriber, and never sent.

    `epoch` is the fleet, and not a journal: the journals are in `nodes`. `head` and `oldest` are sums.
    """

    nodes: Mapping[str, NodeSummary] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    """The node that may publish each stream."""
    unplaced: Mapping[str, str] = field(default_factory=dict)
    """The streams that no node may publish, with the reason."""
    overtaken: int = 0
    """Events that the subscriber refused because another node had their stream when they were received."""
    directory_fault: str | None = None
    """Why the fleet's directory cannot be read now."""

    def node_of(self, stream: str) -> NodeSummary | None:
        """Return the node that may publish `stream`; None if no node may."""
        return self.nodes.get(self.owners.get(stream, ""))

    def problems(self) -> Iterator[str]:
        """Yield a line for each problem of the fleet, without those of single streams."""
        if self.directory_fault:
            yield f"the fleet's directory: {self.directory_fault}; the last known list of nodes is used"
        for node in self.nodes.values():
            if node.condition == "lost":
                reason = f" ({node.reason})" if node.reason else ""
                yield f"node {node.name}: lost since {node.since:%Y-%m-%d %H:%M:%S} UTC{reason}"
        if self.overtaken:
            yield f"{self.overtaken} events were refused: another node had their streams already"


def fleet_fault(heartbeat: Heartbeat | None, stream: str) -> str | None:
    """Return why `stream` sends nothing, if it is on no node or on a lost one; None outside a fleet."""
    if not isinstance(heartbeat, FleetHeartbeat):
        return None
    if (reason := heartbeat.unplaced.get(stream)) is not None:
        return f"on no node: {reason}"
    node = heartbeat.node_of(stream)
    if node is None or node.condition != "lost":
        return None
    return f"node {node.name} is lost since {node.since:%Y-%m-%d %H:%M:%S} UTC"


def journals_of(heartbeat: Heartbeat, stream: str | None = None) -> Iterator[Heartbeat]:
    """Yield the heartbeat of each journal that can be read now, or that has events of `stream`: one outside a fleet."""
    if not isinstance(heartbeat, FleetHeartbeat):
        yield heartbeat
        return
    for node in heartbeat.nodes.values():
        found = node.heartbeat if node.condition == "live" else None
        if found is not None and (stream is None or stream in found.last):
            yield found


def heads_of(heartbeat: Heartbeat) -> dict[str, int]:
    """Return the newest offset of each journal, by epoch."""
    return {each.epoch: each.head for each in journals_of(heartbeat)}


def owner_of(heartbeat: Heartbeat, stream: str) -> Heartbeat | None:
    """Return the heartbeat of the node that runs `stream`; outside a fleet the service's; None if no node does."""
    if not isinstance(heartbeat, FleetHeartbeat):
        return heartbeat
    return next((each for each in journals_of(heartbeat) if stream in (each.leases or {})), None)

"""Define what a node reports to the controller once a second, and the orders that it gets in return.

The messages travel between processes of one cluster, so they hold plain values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PROTOCOL: Final = 1
"""Version of these messages. A node with another one gets no streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How well a node serves its streams."""

    live: int = 0
    """Streams whose state is live."""
    not_live: Mapping[str, str] = field(default_factory=dict)
    """The state of each other stream, with the reason."""
    latency_ms: float | None = None
    """95 % of the predictions of the last seconds took at most so long from capture to publication."""
    dropped: int = 0
    """Chunks and windows that the classifier dropped since it started."""
    refused: int = 0
    """Events that the hub refused because the node had no lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of one node."""

    session: str
    """Identifies this run of the node."""
    node: str
    """The node's name, which it keeps over restarts together with its folder."""
    boot: str
    """Identifies the folder of the node, and the machine since its last start."""
    host: str
    """Address of the machine as other machines reach it."""
    protocol: int = PROTOCOL
    version: str = ""
    """Version of streamclf."""
    cpus: float = 0.0
    """Processors and GPUs of the machine that the fleet may use."""
    gpus: float = 0.0
    site: str | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    """Tokens of the streams that the node runs, or may still publish."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Streams that this node cannot run, with the reason."""
    spec: str = ""
    """The specification that the node has received."""
    applied: str = ""
    """The specification that its service serves."""
    fetching: bool = False
    """Whether it waits for a model that it does not have yet."""
    error: str | None = None
    """Why its service does not serve what it has received."""
    broken: bool = False
    """Whether its service cannot run at all: it holds no streams then, and should get none."""
    stopped: bool = False
    """Whether its service has ended as ordered."""
    events: str | None = None
    replay: str | None = None
    epoch: str | None = None
    head: int | None = None
    health: Health = field(default_factory=Health)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """The configuration that a node should serve."""

    version: str
    common: Mapping[str, Any] = field(repr=False)
    """The configuration without streams. Models that are not built in are "sha256:HASH"."""
    streams: Mapping[str, Mapping[str, Any]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The answer to a report."""

    tokens: Mapping[str, int] = field(default_factory=dict)
    """All leases of the node, renewed."""
    drop: tuple[str, ...] = ()
    """Those of its streams that it should stop, and then no longer hold."""
    lease_s: float = 0.0
    spec: NodeSpec | None = None
    """Set if the node has another specification, or none."""
    soon: bool = False
    """Whether a stream moves from or to this node: it should report more often, so that the stream pauses shortly."""
    error: str | None = None
    """Why the node gets no streams."""
    stop: bool = False
    """Whether the node should end its service."""

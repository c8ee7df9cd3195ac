"""A simulated fleet: the real controller core, and nodes that follow the rules of `streamclf.fleet.node` in no time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from streamclf.fleet.config import FleetConfig, RolloutConfig, digest
from streamclf.fleet.core import FleetCore
from streamclf.fleet.leases import RATE_MARGIN
from streamclf.fleet.messages import Health, NodeSpec, Orders, Report
from streamclf.fleet.placement import Demand
from streamclf.fleet.setup import Setup
from streamclf.fleet.store import Store

STEP_S = 0.5


def make_setup(streams: int, *, common: dict | None = None, cpus: float = 0.1, **fleet) -> Setup:
    common = common or {"model": "camera-events"}
    names = [f"cam{n:02d}" for n in range(streams)]
    return Setup(
        FleetConfig(**{"rollout": RolloutConfig(settle_s=10, observe_s=5), **fleet}),
        {digest(common): common},
        digest(common),
        {name: {"url": f"rtsp://10.0.0.1/{name}"} for name in names},
        {name: Demand(stream=name, cpus=cpus) for name in names},
    )


@dataclass
class SimulatedNode:
    """A node with its own clock: it runs at `rate`, and says nothing about the time of the head."""

    name: str
    session: str
    rate: float = 1.0
    offset_s: float = 0.0
    cpus: float = 2.0
    boot: str = "b"
    seq: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    expires_s: float = float("-inf")
    leaving: dict[str, int] = field(default_factory=dict)
    spec: NodeSpec | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Latency by the version of the common configuration's model."""
    error: str | None = None
    is_cut_off: bool = False
    stopped: bool = False
    last_error: str | None = None

    def clock(self, now_s: float) -> float:
        return self.offset_s + self.rate * now_s

    def report(self) -> Report:
        self.seq += 1
        model = self.spec.common["model"] if self.spec else ""
        version = self.spec.version if self.spec else ""
        return Report(
            session=self.session,
            node=self.name,
            boot=self.boot,
            host="10.0.0.1",
            cpus=self.cpus,
            held=dict(self.tokens),
            spec=version,
            applied="" if self.error else version,
            error=self.error,
            stopped=self.stopped,
            health=Health(live=len(self.tokens) - len(self.leaving), latency_ms=self.latency_ms.get(model, 20.0)),
        )

    def obey(self, orders: Orders, sent_s: float) -> None:
        self.last_error = orders.error
        if orders.stop:
            self.tokens, self.stopped = {}, True
        elif not orders.error:
            self.tokens = dict(orders.tokens)
            self.expires_s = self.clock(sent_s) + orders.lease_s * (1 - RATE_MARGIN)
            self.leaving = {s: self.leaving.get(s, 0) + 1 for s in orders.drop}
            for stream in [s for s, steps in self.leaving.items() if steps > 2]:
                del self.leaving[stream], self.tokens[stream]
            self.spec = orders.spec or self.spec

    def publishes(self, now_s: float) -> set[str]:
        return {*self.tokens} if self.clock(now_s) < self.expires_s else set()


class SimulatedFleet:
    """Time, the controller and the nodes. Each step checks that no stream is published by two nodes."""

    def __init__(self, folder: Path, setup: Setup, nodes: list[SimulatedNode]) -> None:
        self.folder, self.nodes, self.now_s = folder, nodes, 1000.0
        self.core = FleetCore(Store(folder), now_s=self.now_s)
        self.core.expected_nodes = len(nodes)
        self.newest: dict[str, int] = {}
        if setup:
            self.core.configure(setup, now_s=self.now_s)

    def restart_controller(self) -> None:
        self.core = FleetCore(Store(self.folder), now_s=self.now_s)

    def node(self, name: str) -> SimulatedNode:
        return next(node for node in self.nodes if node.name == name)

    def step(self, duration_s: float = STEP_S) -> None:
        self.now_s += duration_s
        self.core.tick(now_s=self.now_s)
        for node in self.nodes:
            if not node.is_cut_off:
                node.obey(self.core.report(node.report(), node.seq, now_s=self.now_s), self.now_s)
        self.check()

    def check(self) -> None:
        owners: dict[str, str] = {}
        for node in self.nodes:
            for stream in node.publishes(self.now_s):
                assert stream not in owners, f"{stream} is published by {owners[stream]} and {node.name}"
                owners[stream] = node.name
                assert node.tokens[stream] >= self.newest.get(stream, 0), f"{stream}: an old token is published"
                self.newest[stream] = node.tokens[stream]

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP_S)):
            self.step()

    def owners(self) -> dict[str, list[str]]:
        return {node.name: sorted(node.publishes(self.now_s)) for node in self.nodes}

    def published(self) -> int:
        return sum(len(streams) for streams in self.owners().values())

"""Run the agent of each node as a Ray actor, a thin shell of `Node`; and start it, as the controller does."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from streamclf.config.placeholders import register_config_secrets
from streamclf.errors import StreamclfError
from streamclf.fleet.cluster import CONTROLLER, NAMESPACE, RayNode
from streamclf.fleet.config import FleetConfig
from streamclf.fleet.messages import Orders, Report
from streamclf.fleet.model_store import ModelStore
from streamclf.fleet.node import Identity, Node
from streamclf.redact import redact
from streamclf.runtime.logs import configure_logging

ASK_S: Final = 2.0
"""Longest time for a report to be answered; the lease goes on to run meanwhile."""
AGENT_S: Final = 15.0
"""A node's actor that has not started after this long is reported."""
_FETCH_S: Final = 30.0
_RETRY_S: Final = 5.0
"""Pause before a node that failed starts again."""

log = logging.getLogger("fleet")


class Agent:
    """The actor of one node: a thread calls `Node.step` once a second."""

    def __init__(self, identity: Identity) -> None:
        configure_logging("node")
        self._identity = identity
        self._controller: Any = None
        self._fault = ""
        self._tried = threading.Event()
        threading.Thread(target=self._run, name="node", daemon=True).start()

    def ping(self) -> str:
        """Return why the node cannot start; an empty text once it has started."""
        self._tried.wait()
        return self._fault

    def _run(self) -> None:
        node = self._start()
        next_s = time.monotonic()
        try:
            while node.step():
                next_s = max(next_s + node.pause_s, time.monotonic() + node.pause_s / 4)
                threading.Event().wait(next_s - time.monotonic())
            node.close()
        except Exception:
            log.exception("the node has failed; it starts again")
            node.close()
            threading.Event().wait(_RETRY_S)
            os._exit(1)  # Ray starts the actor again; a thread that ends would leave it without a node

    def _start(self) -> Node:
        """Claim the folder of the node; try again until that succeeds."""
        while (node := self._try_start()) is None:
            threading.Event().wait(_RETRY_S)
        return node

    def _try_start(self) -> Node | None:
        node, fault = None, ""
        try:
            node = Node(self._identity, self._ask, self._fetch)
        except (OSError, StreamclfError) as error:
            fault = str(error)
        if fault and fault != self._fault:
            log.error("the node cannot start: %s", fault)
        self._fault = fault
        self._tried.set()
        return node

    def _call(self, timeout_s: float, method: str, *arguments: Any) -> Any:
        """Call the controller. Raises `ConnectionError` if it does not answer in time."""
        try:
            if self._controller is None:
                self._controller = ray.get_actor(CONTROLLER, NAMESPACE)
            return ray.get(getattr(self._controller, method).remote(*arguments), timeout=timeout_s)
        except ray.exceptions.RayTaskError:
            raise
        except (ray.exceptions.RayError, ValueError) as error:
            self._controller = None
            raise ConnectionError(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from None

    def _ask(self, report: Report, seq: int) -> Orders:
        try:
            orders: Orders = self._call(ASK_S, "report", report, seq)
        except ray.exceptions.RayTaskError as error:  # the node serves until its leases end
            raise ConnectionError(f"the controller has failed: {_last_line(str(error))}") from None
        if orders.spec:
            register_config_secrets(orders.spec.streams)
        return orders

    def _fetch(self, models: ModelStore, model: str) -> None:
        files = self._call(_FETCH_S, "model_files", model)
        models.fetch(model, files, lambda *piece: bytes(self._call(_FETCH_S, "model_piece", *piece)))


class AgentHandle:
    """The actor of one node, as the controller sees it. It reserves the node's processors and GPUs."""

    def __init__(self, node: RayNode, fleet: FleetConfig, folder: Path) -> None:
        """Start the actor, or find the one that runs."""
        capacity = node.capacity(fleet)
        identity = Identity(
            name=node.name,
            owner=node.ray_id,
            host=node.host,
            cpus=capacity.cpus,
            gpus=capacity.gpus,
            site=node.site,
            folder=folder,
        )
        actor: Any = ray.remote(Agent)
        self.node = node
        self.actor: Any = actor.options(
            name=f"streamclf-node-{node.ray_id}",
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=round(capacity.cpus, 2),
            num_gpus=round(capacity.gpus, 2),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.ray_id, soft=False),
        ).remote(identity)
        self._needs = f"{capacity.cpus:.2f} processors" + (f" and {capacity.gpus:g} GPUs" if capacity.gpus else "")
        self._started = self.actor.ping.remote()
        self._again_s = 0.0
        self._slow_at_s = time.monotonic() + AGENT_S
        self.problem = ""
        """Why the actor does not run."""

    def check(self) -> None:
        """Find out whether the actor has started; does not wait."""
        if self._started is None:
            if not self.problem or time.monotonic() < self._again_s:
                return
            self._started = self.actor.ping.remote()
        ready, _ = ray.wait([self._started], timeout=0)
        if ready:
            started, self._started, self._again_s = self._started, None, time.monotonic() + _RETRY_S
            try:
                fault = ray.get(started)
            except ray.exceptions.RayError as error:
                fault = str(error)
            self.problem = fault and f"the program of the node cannot start: {_last_line(fault)}"
        elif not self.problem and time.monotonic() > self._slow_at_s:
            self.problem = f"waits for {self._needs}; other programs of the cluster may use them"


def _last_line(text: str) -> str:
    return redact(text.strip().rpartition("\n")[2])[:300]

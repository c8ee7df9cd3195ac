"""Run the controller as a Ray actor: a thin shell of `FleetCore`.

Ray places one actor on each node of the cluster, and restarts actors that fail. Nodes call the controller, never the
other way round, so a node that does not answer delays nobody.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, TypeVar

import ray
import zmq

from streamclf.config.placeholders import register_config_secrets
from streamclf.errors import BusError, UsageError
from streamclf.events.directory import Directory
from streamclf.fleet.agents import AgentHandle
from streamclf.fleet.cluster import CONTROLLER, HEAD_RESOURCE, NAMESPACE, RayNode, expand, ray_nodes
from streamclf.fleet.core import FleetCore
from streamclf.fleet.directory import DirectoryServer
from streamclf.fleet.messages import Orders, Report
from streamclf.fleet.model_store import Files, ModelStore, Upload
from streamclf.fleet.node import advertised
from streamclf.fleet.setup import Setup
from streamclf.fleet.store import Store
from streamclf.runtime.lease_file import lease_clock_ns
from streamclf.runtime.logs import configure_logging
from streamclf.units import NS

TICK_S: Final = 0.25
CLUSTER_S: Final = 1.0
"""Interval at which the controller lists the nodes of the cluster."""
CALLS: Final = 32
"""Calls that the controller serves at once."""

log = logging.getLogger("fleet")

T = TypeVar("T")


def now_s() -> float:
    """Return the seconds of the clock of leases."""
    return lease_clock_ns() / NS


class Controller:
    """The actor that holds the leases, on the head. Its state is in files there, so it may be killed at any time."""

    def __init__(self, folder: str) -> None:
        configure_logging("fleet")
        self._folder = Path(folder)
        self._lock = threading.RLock()
        self._core = FleetCore(Store(self._folder / "head"), now_s=now_s())
        self._models = ModelStore(self._folder / "models")
        self._upload: Upload | None = None
        self._agents: dict[str, AgentHandle] = {}
        self._context = zmq.Context(io_threads=1)
        self._directory: DirectoryServer | None = None
        self._directory_fault = ""
        self._served: tuple[str, Directory] | None = None
        self._bound: tuple[Any, ...] = ()
        self._head = next(node.host for node in ray_nodes(ray) if node.is_head)
        self._ended = threading.Event()
        if self._core.state.setup:
            register_config_secrets(self._core.state.setup.streams)
        for name, work, interval_s in (
            ("tick", self._tick, TICK_S),
            ("directory", self._follow_directory, CLUSTER_S),
            ("cluster", self._follow_cluster, CLUSTER_S),
        ):
            threading.Thread(target=self._repeat, args=(name, work, interval_s), name=name, daemon=True).start()

    # Calls of the command line

    def configure(self, setup: Setup) -> str:
        """Take a configuration; return what changes. Raises `UsageError`."""
        register_config_secrets(setup.streams)
        if str(expand(setup.fleet.folder)) != str(self._folder):
            raise UsageError(
                f"fleet.folder: it is {self._folder} while the fleet is up; run `streamclf fleet down` first"
            )
        with self._lock:
            self._core.expected_nodes = len(ray_nodes(ray))
            self._serve_directory(setup)
            text = self._core.configure(setup, now_s=now_s())
        self._start_agents()
        return text

    def status(self) -> dict[str, Any]:
        """Return the state of the fleet."""
        with self._lock:
            status = self._core.status(now_s=now_s())
        if status["up"]:
            status["directory"] = advertised(status["directory"], self._head)
            status["problems"] = [each for each in (self._directory_fault, self._core.state.fault) if each]
        return {**status, "waiting": {each.node.name: each.problem for each in self._agents.values() if each.problem}}

    def stop(self) -> int:
        """Order all nodes to end; return how many have not."""
        with self._lock:
            return self._core.stop()

    def end(self) -> None:
        """Remove the actors of the nodes, before this one is killed."""
        self._ended.set()
        for agent in self._agents.values():
            ray.kill(agent.actor)
        with self._lock:
            if self._directory:
                self._directory.close()

    # Models

    def missing_models(self, models: list[str]) -> list[str]:
        """Return the models that this controller does not have."""
        return [model for model in models if not self._models.has(model)]

    def model_files(self, model: str) -> Files:
        """Return the files of a model. Raises `OSError` for one that is not here."""
        return self._models.files(model)

    def model_piece(self, model: str, name: str, offset: int) -> bytes:
        """Return the next bytes of a model's file."""
        return self._models.read_piece(model, name, offset)

    def begin_model(self, model: str, files: Files) -> None:
        """Begin to receive a model from the machine that runs `fleet up`. Raises `ConfigError`."""
        with self._lock:
            if self._upload:
                self._upload.abandon()
            self._upload = Upload(self._models, model, files)

    def add_piece(self, name: str, offset: int, piece: bytes) -> None:
        """Store the next bytes of a model's file."""
        with self._lock:
            if self._upload is None:
                raise UsageError("the controller was restarted while it received a model; try again")
            self._upload.add(name, offset, piece)

    def finish_model(self) -> None:
        """Verify the model, and offer it to the nodes."""
        upload, self._upload = self._upload, None
        if upload is None:
            raise UsageError("the controller was restarted while it received a model; try again")
        upload.finish()

    # Calls of nodes

    def report(self, report: Report, seq: int) -> Orders:
        """Renew the leases of a node."""
        with self._lock:
            return self._core.report(report, seq, now_s=now_s())

    # Threads

    def _repeat(self, name: str, work: Callable[[], None], interval_s: float) -> None:
        failed = ""
        while not self._ended.wait(interval_s):
            error = _attempt(work)
            if error != failed and error:  # the fleet goes on, and the next round may succeed
                log.error("%s failed: %s", name, error)
            failed = error

    def _tick(self) -> None:
        with self._lock:
            self._core.tick(now_s=now_s())

    def _follow_directory(self) -> None:
        """Serve the directory again after a restart. Leases end and streams are placed also while that fails."""
        with self._lock:
            if self._core.state.setup:
                self._directory_fault = ""
                try:
                    self._serve_directory(self._core.state.setup)
                except UsageError as error:
                    self._directory_fault = str(error)

    def _follow_cluster(self) -> None:
        found = ray_nodes(ray)
        with self._lock:
            self._core.expected_nodes = len(found)
        self._start_agents(found)

    def _start_agents(self, found: list[RayNode] | None = None) -> None:
        """Start an actor on each node of the cluster that has none."""
        setup = self._core.state.setup
        if setup is None:
            return
        nodes = {node.ray_id: node for node in (ray_nodes(ray) if found is None else found)}
        for ray_id in self._agents.keys() - nodes.keys():
            del self._agents[ray_id]
        for ray_id, node in nodes.items():
            if ray_id not in self._agents:
                self._agents[ray_id] = AgentHandle(node, setup.fleet, self._folder)
            self._agents[ray_id].check()

    def _serve_directory(self, setup: Setup) -> None:
        publish = setup.commons[setup.target].get("publish") or {}
        wanted = (setup.fleet.directory, publish.get("keys"), publish.get("allow"))
        if wanted == self._bound and self._directory:
            return
        if self._directory:
            self._directory.close()
            self._directory = None
        endpoint, keys, allow = wanted
        try:
            self._directory = DirectoryServer(
                self._context,
                endpoint,
                self._provide,
                keys=Path(keys) if keys else None,
                allow=Path(allow) if allow else None,
            )
        except BusError as error:
            raise UsageError(str(error)) from None
        self._bound = wanted

    def _provide(self) -> Directory:
        with self._lock:
            revision = self._core.state.revision
            if self._served is None or self._served[0] != revision:
                self._served = (revision, self._core.directory())
            fresh = {"time": datetime.now(timezone.utc), "nodes": tuple(self._core.state.entries.values())}
            return self._served[1].model_copy(update=fresh)


def _attempt(work: Callable[[], None]) -> str:
    """Do some work; return the traceback of its error, empty for none."""
    try:
        work()
    except Exception:  # noqa: BLE001 - a bug of one decision must not end the fleet
        return traceback.format_exc()
    return ""


def start_controller(folder: str) -> Any:
    """Start the controller on the head, or return the one that runs."""
    actor: Any = ray.remote(Controller)
    return actor.options(
        name=CONTROLLER,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=CALLS,
        num_cpus=0,
        resources={HEAD_RESOURCE: 0.001},
    ).remote(folder)

"""Connect to a Ray cluster, and describe its nodes. Ray is imported here and in `actors` only."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamclf.errors import UsageError
from streamclf.fleet.config import FleetConfig, usable
from streamclf.fleet.placement import Capacity

NAMESPACE: Final = "streamclf"
CONTROLLER: Final = "streamclf-fleet"
INSTALL: Final = "pip install '.[fleet]' in a clone"
PROBE_S: Final = 5.0
"""Longest time for a cluster to answer."""
_ADDRESS: Final = re.compile(r"(\[[^\]\s]+\]|[^:/\s\[\]]+):\d{1,5}")
_SETTINGS: Final = 4
"""Type of the frame with which an HTTP/2 server begins (RFC 9113, section 6.5)."""
SITE_LABEL: Final = "site"
NAME_LABEL: Final = "node"
HEAD_RESOURCE: Final = "node:__internal_head__"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayNode:
    """A node of the cluster that is alive."""

    ray_id: str
    host: str
    name: str
    cpus: float
    gpus: float
    site: str | None
    is_head: bool

    def capacity(self, fleet: FleetConfig) -> Capacity:
        """Return the resources that the fleet takes of this node."""
        return Capacity(
            node=self.name,
            cpus=self.cpus * fleet.cpu_share,
            gpus=usable(self.gpus, fleet.gpu_share),
            site=self.site,
            drained=self.name in fleet.drain,
        )


def import_ray() -> Any:
    """Return the module `ray`. Raises `UsageError` that says how to install it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends statistics to its makers otherwise
    try:
        import ray
    except ImportError:
        raise UsageError(f"a fleet needs Ray, which is not installed: {INSTALL}") from None
    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to the cluster at `address`, None for that of this machine. Raises `UsageError` if there is none."""
    ray = import_ray()
    shown = address or "this machine"
    if ray.is_initialized():
        yield ray
        return
    try:
        found = _find_address(address)
        _probe(found)
        ray.init(
            address=found,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        if "ersion" in text:
            raise UsageError(
                f"{shown}: the cluster has another version of Ray or Python than this machine; install the same ones "
                f"on all machines ({text:.300})"
            ) from None
        raise UsageError(
            f"{shown}: no Ray cluster ({text:.200}); start one with `ray start --head` on one machine, add others with "
            "`ray start --address HOST:6379`, and give --address HOST:6379"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _find_address(address: str | None) -> str:
    """Return HOST:PORT of a cluster. Raises `ConnectionError` or `ValueError`."""
    if address is None:
        from ray._private.services import canonicalize_bootstrap_address

        return str(canonicalize_bootstrap_address("auto"))
    if not _ADDRESS.fullmatch(address):
        raise ValueError("must be HOST:PORT")
    return address


def _probe(address: str) -> None:
    """Raise `ConnectionError` or `OSError` unless an HTTP/2 server, as Ray's is, answers.

    Ray ends the whole process, without an exception, if it cannot reach its server.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        answer = connection.recv(9)
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise ConnectionError("another program answers there")


def ray_nodes(ray: Any) -> list[RayNode]:
    """Return the nodes of the cluster that are alive, the head first. Several on one machine have numbered names."""
    found: list[RayNode] = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        resources, labels = node["Resources"], node.get("Labels") or {}
        found.append(
            RayNode(
                ray_id=node["NodeID"],
                host=node["NodeManagerAddress"],
                name=labels.get(NAME_LABEL) or node["NodeManagerHostname"],
                cpus=resources.get("CPU", 0.0),
                gpus=resources.get("GPU", 0.0),
                site=labels.get(SITE_LABEL),
                is_head=HEAD_RESOURCE in resources,
            )
        )
    return sorted(found, key=lambda node: (not node.is_head, node.name, node.ray_id))


def expand(folder: Path) -> Path:
    """Return the fleet's folder on this machine."""
    return folder.expanduser().absolute()

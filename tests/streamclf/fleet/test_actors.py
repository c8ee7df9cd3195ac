"""The shells of Ray's actors, without a cluster: a fault of one part must not end the others."""

from __future__ import annotations

import socket

import pytest
from support.fleet_simulation import make_setup
from support.hub_process import wait_until

pytest.importorskip("ray", reason="Ray is not installed")

from streamclf.errors import UsageError
from streamclf.fleet import actors, agents
from streamclf.fleet.cluster import RayNode
from streamclf.fleet.core import FleetCore
from streamclf.fleet.node import Identity
from streamclf.fleet.store import Store


def test_a_node_that_cannot_claim_its_folder_says_so_and_tries_again(tmp_path, monkeypatch):
    class StartedNode:
        pause_s = 0.01

        def step(self) -> bool:
            return False

        def close(self) -> None:
            started.append(self)

    def make_node(*_):
        if not repaired:
            raise UsageError("/fleet/n0: Permission denied")
        return StartedNode()

    repaired, started = [], []
    monkeypatch.setattr(agents, "Node", make_node)
    monkeypatch.setattr(agents, "_RETRY_S", 0.05)
    agent = agents.Agent(Identity(name="n0", owner="", host="h", cpus=1, gpus=0, site=None, folder=tmp_path))
    assert agent.ping() == "/fleet/n0: Permission denied"
    repaired.append(True)
    wait_until(lambda: started, "the node starts", 10)
    assert agent.ping() == ""


def test_leases_end_while_another_program_has_the_endpoint_of_the_directory(tmp_path, monkeypatch):
    head = RayNode(ray_id="r", host="127.0.0.1", name="n0", cpus=1, gpus=0, site=None, is_head=True)
    monkeypatch.setattr(actors, "ray_nodes", lambda _: [head])
    monkeypatch.setattr(actors.Controller, "_start_agents", lambda *_: None)
    ticks = []
    monkeypatch.setattr(FleetCore, "tick", lambda _, now_s: ticks.append(now_s))
    with socket.create_server(("127.0.0.1", 0)) as other:
        setup = make_setup(1, directory=f"tcp://127.0.0.1:{other.getsockname()[1]}")
        Store(tmp_path / "head").save("setup", setup.as_dict())
        controller = actors.Controller(str(tmp_path))
        try:
            wait_until(lambda: controller.status()["problems"], "the status names the fault", 10)
            assert "Address already in use" in controller.status()["problems"][0]
            count = len(ticks)
            wait_until(lambda: len(ticks) > count, "the controller decides", 10)
            other.close()
            wait_until(lambda: not controller.status()["problems"], "the directory is served", 10)
        finally:
            controller.end()
            controller._context.term()

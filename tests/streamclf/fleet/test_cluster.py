"""Connecting to a cluster: each way in which there is none gives one line with a remedy. A fleet on two Ray nodes."""

from __future__ import annotations

import socket
import sys
import threading

import pytest
from fleet_chaos import Rig, check_periods, kill

from streamclf.errors import UsageError
from streamclf.fleet.cluster import connected, import_ray


def test_a_machine_without_ray_gets_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"which is not installed: pip install '.\[fleet\]' in a clone"):
        import_ray()


def connect(address):
    pytest.importorskip("ray", reason="Ray is not installed")
    with connected(address):
        pytest.fail("connected")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999999"])
def test_no_cluster_at_the_address(address):
    with pytest.raises(UsageError, match=f"^{address}: no Ray cluster .* `ray start --head`"):
        connect(address)


def test_another_server_at_the_address():
    """Ray would end this process without an exception."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UsageError, match="another program answers there"):
            connect(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_streams_of_a_killed_node_go_to_the_other_one(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    rig = Rig(tmp_path, nodes=2, streams=4)
    try:
        first = rig.up()
        assert "4 of 4 streams live" in first.stdout, first.stderr
        again = rig.up()
        assert "the fleet is up with this configuration already" in again.stdout
        rig.start_log()
        kill(rig, 4)
        periods, overlaps, _ = check_periods(tmp_path)
        assert periods > 4
        assert overlaps == 0
        assert rig.check_log()[1] == 0
        rig.config["streams"]["cam00"]["cpus"] = 5
        refused = rig.up()
        assert refused.returncode == 2
        assert "stream cam00 takes more than a whole node (1.70 processors)" in refused.stderr
    finally:
        rig.close()

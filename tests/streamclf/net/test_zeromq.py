"""Test binding ZeroMQ sockets: what is refused, and with which remedy."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from streamclf.errors import BusError
from streamclf.net.zeromq import bind, open_socket


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def server(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[zmq.Socket[bytes]]:
    with open_socket(context, zmq.XPUB, max_bytes=100) as socket:
        yield socket


@pytest.fixture
def second(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[zmq.Socket[bytes]]:
    with open_socket(context, zmq.XPUB, max_bytes=100) as socket:
        yield socket


def test_bind_returns_the_port_that_it_got(server: zmq.Socket[bytes]) -> None:
    endpoint = bind(server, "tcp://127.0.0.1:*", "publish.events")
    assert endpoint.startswith("tcp://127.0.0.1:")
    assert int(endpoint.rpartition(":")[2]) > 0


def test_port_in_use_names_endpoint_and_remedy(server: zmq.Socket[bytes], second: zmq.Socket[bytes]) -> None:
    endpoint = bind(server, "tcp://127.0.0.1:*", "publish.events")
    with pytest.raises(BusError, match=f"publish.events {endpoint}: .*another program uses it"):
        bind(second, endpoint, "publish.events")


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.0.2.1:5555",
        "tcp://[::]:5555",
        "tcp://eth0:5555",
        "tcp://1.2.3.4.evil:1",
    ],
)
def test_endpoint_that_the_network_can_reach_is_refused(server: zmq.Socket[bytes], endpoint: str) -> None:
    with pytest.raises(BusError, match=r"bind 127\.0\.0\.1"):
        bind(server, endpoint, "publish.events")


@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:1", "inproc://x", "tcp://127.0.0.1", "tcp://127.0.0.1:x", ""])
def test_malformed_endpoint_is_refused(server: zmq.Socket[bytes], endpoint: str) -> None:
    with pytest.raises(BusError, match=r"like tcp://127\.0\.0\.1:5555"):
        bind(server, endpoint, "publish.events")


def test_only_its_owner_may_open_an_ipc_socket_and_a_served_one_is_kept(
    server: zmq.Socket[bytes], second: zmq.Socket[bytes]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "events"
        bind(server, f"ipc://{path}", "publish.events")
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        with pytest.raises(BusError, match="another program serves it"):
            bind(second, f"ipc://{path}", "publish.events")
        with pytest.raises(BusError, match="does not exist"):
            bind(second, f"ipc://{directory}/no/such/place", "publish.events")


def test_stale_ipc_socket_is_replaced_and_a_file_is_kept(server: zmq.Socket[bytes], second: zmq.Socket[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stale = Path(directory) / "stale"
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(stale))
        bind(server, f"ipc://{stale}", "publish.events")
        file = Path(directory) / "file"
        file.write_text("precious")
        with pytest.raises(BusError, match="not a socket"):
            bind(second, f"ipc://{file}", "publish.events")
        assert file.read_text() == "precious"


def test_ipc_socket_in_a_directory_open_to_others_is_refused(server: zmq.Socket[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with pytest.raises(BusError, match=r"mode 0755.*mkdir -m 700"):
            bind(server, f"ipc://{directory}/events", "publish.events")
        for open_to_all in ("ipc://@events", "ipc://*"):
            with pytest.raises(BusError, match="any user could open"):
                bind(server, open_to_all, "publish.events")
        Path(directory).chmod(0o700)
        bind(server, f"ipc://{directory}/events", "publish.events")


def test_bind_restores_the_umask(server: zmq.Socket[bytes]) -> None:
    before = os.umask(0o022)
    try:
        bind(server, "tcp://127.0.0.1:*", "publish.events")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)

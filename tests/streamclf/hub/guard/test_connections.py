"""The guard finds each connection of the service, whatever descriptors are free."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest

from streamclf.hub.guard.connections import ConnectionTable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard reads Linux's counters")


def test_a_connection_above_a_gap_of_free_descriptors_is_found() -> None:
    """After a flood, the descriptors of the disconnected peers are free, and that of a peer that stays is higher."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        pairs = []
        for _ in range(100):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        table = ConnectionTable([port])
        assert {server.fileno() for _, server in pairs} <= {each.fd for each in table.scan()}
        *others, (_, last) = pairs
        for client, server in others:
            client.close()
            server.close()
        for _ in range(3):
            assert last.fileno() in {each.fd for each in table.scan()}

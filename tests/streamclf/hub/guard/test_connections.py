"""The guard finds each connection of the service, whatever descriptors are free."""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
from collections.abc import Iterable, Iterator

import pytest

from streamclf.hub.guard.connections import ConnectionTable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard reads Linux's counters")


class Service:
    """A listening socket and the two ends of its connections."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = self._listener.getsockname()[1]

    def accept(self, count: int) -> list[tuple[socket.socket, socket.socket]]:
        """Make connections; return the client's end and the service's end of each."""
        address = ("127.0.0.1", self.port)
        return [
            (self._stack.enter_context(socket.create_connection(address)), self._stack.enter_context(self._accept()))
            for _ in range(count)
        ]

    def _accept(self) -> socket.socket:
        return self._listener.accept()[0]


@pytest.fixture
def service() -> Iterator[Service]:
    with contextlib.ExitStack() as stack:
        yield Service(stack)


def close(pairs: Iterable[tuple[socket.socket, socket.socket]]) -> None:
    for client, server in pairs:
        client.close()
        server.close()


def test_a_connection_above_a_gap_of_free_descriptors_is_found(service: Service) -> None:
    """After a flood, the descriptors of the disconnected peers are free, and that of a peer that stays is higher."""
    pairs = service.accept(100)
    table = ConnectionTable([service.port])
    assert {server.fileno() for _, server in pairs} <= {each.fd for each in table.scan()}
    *others, (_, last) = pairs
    close(others)
    for _ in range(3):
        assert last.fileno() in {each.fd for each in table.scan()}


def test_a_connection_accepted_after_a_scan_is_found_above_the_gap_that_the_scan_caused(service: Service) -> None:
    """libzmq goes on accepting connections while the guard disconnects those of its last scan."""
    flood = service.accept(100)
    table = ConnectionTable([service.port])
    assert len(table.scan()) == 100
    ((_, late),) = service.accept(1)
    close(flood)
    assert [each.fd for each in table.scan()] == [late.fileno()]


def test_connections_are_found_when_no_descriptor_is_free(service: Service) -> None:
    servers = [server for _, server in service.accept(3)]
    table = ConnectionTable([service.port])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        spare = [stack.enter_context(socket.socket())]
        while spare[-1].fileno() < servers[-1].fileno():
            spare.append(stack.enter_context(socket.socket()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare[-1].fileno() + 1, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        assert [each.fd for each in table.scan()] == sorted(server.fileno() for server in servers)

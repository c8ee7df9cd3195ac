"""Test the flood guard: a timer of processor time wakes it where the system has one, a fixed interval elsewhere."""

from __future__ import annotations

import socket as sockets
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
from support.hostile_clients import connect_as_peer, frame

from streamclf.hub.guard import connections, flood
from streamclf.hub.guard.connections import shut_down
from streamclf.hub.guard.cpu_timer import CpuTimer
from streamclf.hub.guard.flood import FloodGuard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much a connection has sent")


@pytest.fixture
def socket() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:*")
        yield socket


def _no_timer(every_s: float) -> CpuTimer:
    raise OSError("no such timer")


@pytest.mark.parametrize("has_timer", [True, False])
def test_newest_connection_is_closed_when_descriptors_run_out(
    socket: zmq.Socket[bytes], has_timer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_and_spare = [100, 16]

    def shut_down_and_free(fd: int) -> None:
        shut_down(fd)
        free_and_spare[0] = 100

    monkeypatch.setattr(connections, "NEW_S", 1e6)  # else the older one may count as one that reads nothing
    monkeypatch.setattr(connections, "_STALLED_S", 1e6)
    monkeypatch.setattr(flood, "_descriptors", lambda: tuple(free_and_spare))
    monkeypatch.setattr(flood, "shut_down", shut_down_and_free)
    if not has_timer:
        monkeypatch.setattr(flood, "CpuTimer", _no_timer)
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with connect_as_peer(endpoint, b"SUB") as older:
        older.settimeout(0.0)
        guard = FloodGuard.for_endpoints(endpoint)
        assert guard is not None
        try:
            with connect_as_peer(endpoint, b"SUB") as newest:
                free_and_spare[0] = 15
                newest.settimeout(0.0)
                assert _closes(newest)
            assert not _is_closed(older)
            with connect_as_peer(endpoint, b"SUB"):  # new connections are accepted again
                assert not _is_closed(older)
        finally:
            guard.close()


def _closes(peer: sockets.socket) -> bool:
    """Return whether the connection is closed within 30 s; busy waiting makes the timer of processor time expire."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if _is_closed(peer):
            return True
    return False


def _is_closed(peer: sockets.socket) -> bool:
    try:
        while data := peer.recv(4096):
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_connection_that_holds_most_is_closed_when_the_memory_grows(
    socket: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [0]
    monkeypatch.setattr(flood, "resident_bytes", lambda: used[0])
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with connect_as_peer(endpoint, b"SUB") as holding, connect_as_peer(endpoint, b"SUB") as newer:
        holding.sendall(frame(b"x" * 100, flags=1) * 200)  # below every other limit
        guard = FloodGuard.for_endpoints(endpoint)
        assert guard is not None
        try:
            for peer in (holding, newer):
                peer.settimeout(0.0)
            used[0] = flood.MAX_GROWTH_BYTES + 1
            monkeypatch.setattr(flood, "GROWTH_PAUSE_S", 1000.0)
            assert _closes(holding)
            assert not _is_closed(newer)
        finally:
            guard.close()


def test_close_ends_the_thread_though_nothing_happens(socket: zmq.Socket[bytes]) -> None:
    guard = FloodGuard.for_endpoints(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    assert guard is not None
    assert [thread for thread in threading.enumerate() if thread.name == "flood-guard"]
    guard.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "flood-guard"]

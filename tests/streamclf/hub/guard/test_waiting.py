"""Test the limits of requests and answers that wait."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from streamclf.hub.guard import waiting
from streamclf.hub.guard.connections import NEW_S, Connection, inode_of
from streamclf.hub.guard.peers import Peer, Peers
from streamclf.hub.guard.waiting import MAX_REQUESTS, Waiting, WaitingAnswers, WaitingRequests


def peer_of(connection: socket.socket) -> Peer:
    inode = inode_of(connection.fileno())
    assert inode is not None
    return Peer(Connection(connection.fileno(), inode), None)


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = []
        for _ in range(3):
            client = socket.create_connection(server.getsockname())
            made.append((client, server.accept()[0]))
        yield made
        for client, accepted in made:
            client.close()
            accepted.close()


def test_peers_are_served_in_turn() -> None:
    first, second = (Peer(Connection(fd=number, inode=number), None) for number in (1, 2))
    requests = WaitingRequests()
    for peer, body in ((first, b"a"), (first, b"b"), (first, b"c"), (second, b"d")):
        assert requests.add(Waiting(peer, [], body)) is None
    served = []
    while requests:
        request = requests.pop()
        assert request is not None
        served.append(request.body)
    assert served == [b"a", b"d", b"b", b"c"]
    assert requests.pop() is None


def test_peer_with_too_many_requests_is_returned_and_the_others_stay() -> None:
    first, second = (Peer(Connection(fd=number, inode=number), None) for number in (1, 2))
    requests = WaitingRequests()
    requests.add(Waiting(second, [], b"x"))
    for _ in range(MAX_REQUESTS):
        assert requests.add(Waiting(first, [], b"x")) is None
    assert requests.add(Waiting(first, [], b"x")) is first
    request = requests.pop()
    assert request is not None
    assert request.peer is second
    assert not requests


def test_peer_with_most_bytes_is_returned_if_all_have_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_REQUEST_BYTES_IN_ALL", 100)
    first, second = (Peer(Connection(fd=number, inode=number), None) for number in (1, 2))
    requests = WaitingRequests()
    assert requests.add(Waiting(first, [], b"x" * 90)) is None
    assert requests.add(Waiting(second, [], b"x" * 20)) is first
    assert requests.add(Waiting(second, [], b"x" * 70)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much a peer has confirmed")
def test_peer_that_has_not_read_for_longest_is_disconnected(
    pairs: list[tuple[socket.socket, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 8_000_000)
    peers = Peers("test", permits=None)
    stalled, reading, newest = (peer_of(accepted) for _, accepted in pairs)
    answers = WaitingAnswers(peers)
    for peer in (stalled, reading):
        answers.add(peer, 3_500_000)
    for _, accepted in pairs:
        accepted.setblocking(False)
    end = time.monotonic() + 60
    for _ in range(2):  # the second time, the kernel's counters show who has read since the first
        pairs[1][1].send(bytes(100_000))
        while pairs[1][0].recv(65_536) and reading.connection.acknowledged < 60_000:
            assert time.monotonic() < end
            reading.connection.update()
        answers.add(newest, 500_000)
    answers.add(newest, 2_000_000)
    assert peers.disconnections == 1
    pairs[0][0].settimeout(10)
    assert pairs[0][0].recv(1) == b""
    assert inode_of(reading.connection.fd) == reading.connection.inode


def test_connections_that_do_not_read_come_first_and_old_readers_last() -> None:
    now_s = 1000.0

    def connection(inode: int, age_s: float, read: int, stalled_s: float = 0.0) -> Connection:
        return Connection(
            fd=0, inode=inode, since_s=now_s - age_s, acknowledged=read, _progress_s=now_s - stalled_s
        )  # fmt: skip

    reader = connection(1, age_s=100, read=1_000_000)
    slow_reader = connection(2, age_s=100, read=50_000)
    idle = connection(3, age_s=100, read=100)
    stalled = connection(4, age_s=100, read=1_000_000, stalled_s=2)
    new = connection(5, age_s=NEW_S / 2, read=0)
    newer = connection(6, age_s=NEW_S / 4, read=0)
    everything = [reader, new, idle, newer, slow_reader, stalled]
    order = sorted(everything, key=lambda each: each.usefulness(now_s))
    assert [each.inode for each in order] == [4, 3, 6, 5, 2, 1]


def test_the_newest_connection_is_the_one_found_last_whatever_its_inode() -> None:
    """Each processor numbers its sockets from a range of its own."""
    now_s = 1000.0
    older = Connection(fd=0, inode=9, since_s=now_s - 2, _progress_s=now_s)
    newest = Connection(fd=1, inode=3, since_s=now_s - 1, _progress_s=now_s)
    assert newest.usefulness(now_s) < older.usefulness(now_s)

"""Attack a hub: it survives, journals, and uses bounded memory, and a well-behaved subscriber misses nothing.

`STREAMCLF_HOSTILE=10 pytest tests/streamclf/hub/guard/test_hostile_clients.py` attacks ten times as long.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import socket
import sqlite3
import string
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import zmq
from support.hostile_clients import (
    announce_huge_frames,
    connect,
    connect_as_peer,
    frame,
    resident_mb,
    send_malformed_handshakes,
    send_subscriptions,
)
from support.hub_process import HubProcess, ask, prediction, status, wait_until
from support.hub_witness import GROWTH_MB, Witness
from support.processes import descriptors

from streamclf.client.subscription import subscribe
from streamclf.events.types import Heartbeat
from streamclf.hub.publisher import MAX_SUBSCRIPTIONS
from streamclf.net.curve_keys import make_keys
from streamclf.producer.link import EventProducer
from streamclf.producer.link_protocol import U64

pytestmark = [
    pytest.mark.flaky(reruns=0),  # a failure here, even one in a hundred runs, is a lost event
    pytest.mark.alone,  # floods take all the processor time that there is, and memory is measured
]

TIMES = int(os.environ.get("STREAMCLF_HOSTILE", "1"))


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub
        assert hub.alive, "the attack ended the hub"


@pytest.fixture
def keyed_hub(tmp_path: Path) -> Iterator[tuple[HubProcess, Path]]:
    (tmp_path / "allowed").mkdir()
    server, server_secret = make_keys(tmp_path, "server")
    public, secret = make_keys(tmp_path, "good", service=server)
    public.rename(tmp_path / "allowed" / "good.key")
    with HubProcess(keys=server_secret, allow=tmp_path / "allowed") as hub:
        yield hub, secret
        assert hub.alive, "the attack ended the hub"


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_hub_survives_malformed_handshakes_and_huge_frames(hub: HubProcess) -> None:
    with Witness(hub):
        for endpoint in (hub.events, hub.replay):
            send_malformed_handshakes(endpoint, 1500 * TIMES)
            announce_huge_frames(endpoint, 50 * TIMES)


def test_hub_with_keys_survives_malformed_handshakes_and_huge_frames(keyed_hub: tuple[HubProcess, Path]) -> None:
    hub, secret = keyed_hub
    with Witness(hub, secret):
        for endpoint in (hub.events, hub.replay):
            send_malformed_handshakes(endpoint, 1500 * TIMES)
            announce_huge_frames(endpoint, 50 * TIMES)
        send_subscriptions(hub.events, (b"preview/%d/" % number for number in range(20_000)), 20 * TIMES)


def test_hub_survives_300000_subscriptions(hub: HubProcess) -> None:
    chance = random.Random(1)
    letters = string.ascii_letters + string.digits + "_-"
    # Long random topics share no prefix, so they take most memory in a trie.
    topics = (f"preview/{''.join(chance.choices(letters, k=64))}/".encode() for _ in range(300_000 * TIMES))
    with Witness(hub) as witness:
        connections = send_subscriptions(hub.events, topics)
    assert connections > 1, "no client was disconnected"
    assert witness.peak_mb < GROWTH_MB


def subscriptions_to_topics(count: int) -> bytes:
    """Encode subscriptions to long random topics."""
    letters = (string.ascii_letters + string.digits + "_-").encode()
    names = (bytes(letters[byte & 63] for byte in os.urandom(64)) for _ in range(count))
    return b"".join(frame(b"\1preview/" + name + b"/") for name in names)


def test_hub_survives_subscriptions_without_a_pause(hub: HubProcess) -> None:
    """The messages are made in advance, so that they arrive faster than the hub can handle each one."""
    batches = [subscriptions_to_topics(1000) for _ in range(60 * TIMES)]
    with Witness(hub) as witness:
        waiting = iter(batches)
        batch = next(waiting, None)
        while batch is not None:
            with contextlib.suppress(OSError), connect_as_peer(hub.events, b"SUB") as peer:
                while batch is not None:
                    data, batch = batch, next(waiting, None)
                    peer.sendall(data)
    assert witness.peak_mb < GROWTH_MB


def test_hub_survives_many_connections_that_flood_at_the_same_time(hub: HubProcess) -> None:
    batch = subscriptions_to_topics(3000)
    peers: list[socket.socket] = []
    with Witness(hub) as witness:
        try:
            while len(peers) < 100:
                peers.append(connect_as_peer(hub.events, b"SUB"))
            flooding = [threading.Thread(target=_send_all, args=(peer, batch)) for peer in peers]
            for thread in flooding:
                thread.start()
            for thread in flooding:
                thread.join(60)
        finally:
            for peer in peers:
                peer.close()
    assert witness.peak_mb < GROWTH_MB


def _send_all(peer: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(data)


def test_hub_survives_impossible_topics_and_connections_just_below_the_limit(hub: HubProcess) -> None:
    odd = [b"\0" * 70, b"preview/../../etc/passwd", b"x' OR 1=1 --", b"a" * 900, bytes(range(1, 250)), b"/" * 81]
    with Witness(hub):
        for topic in odd * 20 * TIMES:
            with connect_as_peer(hub.events, b"SUB") as peer:
                peer.sendall(frame(b"\1" + topic))
                assert closes(peer), topic
        peers = [connect_as_peer(hub.events, b"SUB") for _ in range(12)]
        try:
            for number, peer in enumerate(peers):
                with_own_names = (frame(b"\1preview/%d_%d/" % (number, i)) for i in range(MAX_SUBSCRIPTIONS - 10))
                try:
                    while batch := b"".join(itertools.islice(with_own_names, 500)):
                        peer.sendall(batch)
                except ConnectionError:
                    continue
            wait_until(lambda: any(closes(peer, 0.05) for peer in peers), "the busiest to be disconnected", 90)
        finally:
            for peer in peers:
                peer.close()


def closes(peer: socket.socket, seconds: float = 10.0) -> bool:
    """Return whether the other side closes the connection in time, whatever it sends before."""
    peer.settimeout(seconds)
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_hub_survives_requests_of_10_mb_and_unread_replies(
    hub: HubProcess, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with EventProducer(hub.link, "filler") as link:
        for number in range(3000):
            link.post(prediction("old", number=number))
        wait_until(lambda: link.unacknowledged == 0, "confirmation", 90)
    request = frame(b"", flags=1) + frame(b'{"request":"replay"}')
    peers = [connect_as_peer(hub.replay, b"REQ") for _ in range(20)]
    before_mb = resident_mb(hub.pid)
    try:
        for peer in peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.sendall(request * 500)
        for _ in range(5 * TIMES):
            header, *events = ask(context, hub.replay, b'{"request":"replay","limit":10}')
            assert json.loads(header)["head"] == 3000
            assert len(events) == 10
        wait_until(
            lambda: sum(closes(peer, 0.01) for peer in peers) == len(peers), "those peers to be disconnected", 30
        )
    finally:
        for peer in peers:
            peer.close()
    with context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.connect(hub.replay)
        for _ in range(5 * TIMES):
            peer.send(b"x" * 10_000_000)
            assert not peer.poll(100)
    assert resident_mb(hub.pid) - before_mb < GROWTH_MB


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="descriptors of a running process are limited on Linux")
def test_hub_survives_slow_loris_with_few_descriptors_left(
    hub: HubProcess, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    limit = descriptors(hub.pid) + 30
    with Witness(hub):
        resource.prlimit(hub.pid, resource.RLIMIT_NOFILE, (limit, limit))
        end = time.monotonic() + 4.0 * TIMES
        while time.monotonic() < end:
            peers = []
            for endpoint in [hub.events, hub.replay] * 60:
                with contextlib.suppress(OSError):
                    peers.append(connect(endpoint))
            for _ in range(5):
                for peer in peers:
                    with contextlib.suppress(OSError):
                        peer.send(b"\xff")
                time.sleep(0.2)
            for peer in peers:
                peer.close()
    header, *events = ask(context, hub.replay, b'{"request":"replay","limit":5}')
    assert json.loads(header)["reply"] == "replay"
    assert len(events) == 5
    with subscribe(hub.events, types=["heartbeat"]) as events_again:
        assert isinstance(events_again.receive(60.0), Heartbeat)


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux the hub keeps some descriptors free")
def test_producers_connect_while_clients_use_up_the_descriptors(hub: HubProcess) -> None:
    """libzmq ends its process when a producer connects over ipc:// and no descriptor is left.

    The clients connect at a limited pace. Hundreds of connections between two checks, while the guard's thread waits
    for a processor, would be faster than the guard.
    """
    limit = descriptors(hub.pid) + 1000
    with Witness(hub):
        resource.prlimit(hub.pid, resource.RLIMIT_NOFILE, (limit, limit))
        peers: list[socket.socket] = []
        end = time.monotonic() + 5.0 * TIMES
        try:
            while time.monotonic() < end:
                for endpoint in [hub.events, hub.replay] * 20:
                    with contextlib.suppress(OSError):
                        peers.append(connect(endpoint))
                time.sleep(0.04)
                with EventProducer(hub.link, "late") as link:
                    link.post(status("late"))
                    wait_until(lambda link=link: link.unacknowledged == 0, "confirmation for a new producer")
                while len(peers) > 2000:
                    peers.pop(0).close()
        finally:
            for peer in peers:
                peer.close()


def test_names_with_sql_and_paths_are_refused_and_the_next_draft_is_journalled(
    hub: HubProcess, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    body = prediction().body
    names = ["x'); DROP TABLE events;--", "../../etc/passwd", "a/b", "", "é", "a" * 65, "a\0b"]
    drafts = [[number, "prediction", name, None, body] for number, name in enumerate(names, 1)]
    drafts.append([len(drafts) + 1, "prediction", "good", None, body])
    with context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.connect(hub.link)
        for batch in ([draft] for draft in drafts):
            after = U64.pack(batch[0][0] - 1)
            peer.send_multipart([b"drafts", b"i" * 16, b"evil", after, orjson.dumps(batch)])
            assert peer.poll(60_000)
            assert peer.recv_multipart()[0] == b"ack"
    with sqlite3.connect(f"{hub.journal.as_uri()}?mode=ro", uri=True) as db:
        assert db.execute("SELECT stream FROM events").fetchall() == [("good",)]
    db.close()
    assert sorted(path.name for path in hub.directory.iterdir() if path.suffix == ".db") == ["journal.db"]


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_peers_that_read_nothing_are_disconnected() -> None:
    """The peers subscribe to everything, read nothing and stay open; the hub frees their connections."""
    with HubProcess(timings={"streamclf.net.zeromq.DEAD_PEER_S": 2}) as hub, Witness(hub):
        before = descriptors(hub.pid)
        peers = [connect_as_peer(hub.events, b"SUB") for _ in range(40)]
        try:
            for peer in peers:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                peer.sendall(frame(b"\1"))
            wait_until(lambda: descriptors(hub.pid) >= before + len(peers), "all connected")
            wait_until(lambda: descriptors(hub.pid) <= before + 10, "all disconnected", 90)
        finally:
            for peer in peers:
                peer.close()

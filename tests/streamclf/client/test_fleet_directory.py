"""Test the subscriber with directories that are hostile, broken, of another version, or something else altogether."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import zmq
from support.hub_process import HubProcess

from streamclf.client import fleet_directory, fleet_receiver
from streamclf.client.fleet_directory import DirectoryClient
from streamclf.client.subscription import snapshot, subscribe
from streamclf.errors import BusError, UsageError
from streamclf.events.directory import MAX_DIRECTORY_BYTES, Directory, DirectoryNode
from streamclf.fleet.directory import DirectoryServer
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.curve_keys import make_keys

NOW = "2026-01-02T03:04:05Z"


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


class Answering:
    """A ROUTER that answers each request with what `reply` makes of it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], reply: Callable[[dict[str, Any]], list[bytes]]) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._reply = reply
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)
        self._socket.close(0)

    def _run(self) -> None:
        while not self._done.is_set():
            if self._socket.poll(20):
                route, body = self._socket.recv_multipart()
                self._socket.send_multipart([route, *self._reply(json.loads(body))])


def directory(request: dict[str, Any], *nodes: dict[str, Any], **more: Any) -> list[bytes]:
    body = {"v": 1, "reply": "directory", "id": request["id"], "fleet": "f", "revision": "1", "time": NOW}
    listed = [{"state": "live", "since": NOW, **node} for node in nodes]
    return [json.dumps({**body, "nodes": listed, **more}).encode()]


def fault_of(context: zmq.Context[zmq.Socket[bytes]], port: int, deadline_s: float = 60.0) -> str:
    """Return why a client cannot use the directory at a port."""
    client = DirectoryClient(context, ServiceAddress(endpoint=f"fleet://127.0.0.1:{port}"))
    try:
        end_s = time.monotonic() + deadline_s
        while client.fault is None:
            assert time.monotonic() < end_s, f"no fault; the list is {client.list}"
            client.poll()
            time.sleep(0.01)
        assert client.list is None
        return client.fault
    finally:
        client.close()


@pytest.mark.parametrize(
    "address", ["fleet://host", "fleet://", "fleet://host:0", "fleet://host:70000", "fleet://*:5550", "fleet:///etc/passwd",
                "fleet://host:5550/x", "fleet://a b:5550"]
)  # fmt: skip
def test_address_without_host_and_port_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(UsageError, match="must be like fleet://host:5550"):
        subscribe(address)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda request: [b"HTTP/1.1 200 OK"], "not JSON"),
        (lambda request: [b"[]"], "not a fleet's directory"),
        (lambda request: directory(request, v=2), "version 2"),
        (lambda request: [b"{}", *[b"x"] * 50], "51 frames"),
        (lambda request: [b'{"v":1,"reply":"error","error":"request: Input should be replay"}'], "replay endpoint"),
        (lambda request: directory(request, {"name": "../etc"}), "nodes.0.name"),
        (lambda request: directory(request, *({"name": f"n{i}"} for i in range(2000))), "nodes"),
    ],
)
def test_reply_that_is_no_directory_is_a_clear_fault(
    context: zmq.Context[zmq.Socket[bytes]], reply: Callable[[dict[str, Any]], list[bytes]], reason: str
) -> None:
    with Answering(context, reply) as server:
        assert reason in fault_of(context, server.port)


def test_reply_of_megabytes_is_not_read(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.client.fleet_directory.REPLY_S", 0.5)
    big = b" " * (MAX_DIRECTORY_BYTES + 1)
    with Answering(context, lambda request: [big]) as server:
        assert fault_of(context, server.port)


def test_no_directory_is_named_as_such(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.client.fleet_directory.REPLY_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert "no program listens there; is the fleet up" in fault_of(context, port)
    with pytest.raises(BusError, match=r"fleet://127.0.0.1:\d+: no message for 1 s; no program listens there"):
        snapshot(f"fleet://127.0.0.1:{port}", timeout_s=1.0)


def test_hostile_directory_cannot_make_the_client_open_files_or_local_sockets(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    bait = context.socket(zmq.PUB)
    path = tmp_path / "bait"
    bait.bind(f"ipc://{path}")
    good = {"name": "good", "events": "tcp://127.0.0.1:1", "replay": "tcp://127.0.0.1:2"}
    bad = [
        {"name": "ipc", "events": f"ipc://{path}", "replay": "tcp://127.0.0.1:3"},
        {"name": "ipc2", "events": "tcp://127.0.0.1:4", "replay": f"ipc://{path}"},
        {"name": "file", "events": "/etc/passwd", "replay": "tcp://127.0.0.1:5"},
        {"name": "fleet", "events": "fleet://127.0.0.1:1", "replay": "tcp://127.0.0.1:6"},
        {"name": "inproc", "events": "inproc://zeromq.zap.01", "replay": "tcp://127.0.0.1:6"},
        {"name": "all", "events": "tcp://*:7", "replay": "tcp://127.0.0.1:7"},
        {"name": "twice", "events": "tcp://127.0.0.1:1", "replay": "tcp://127.0.0.1:8"},
    ]
    with Answering(context, lambda request: directory(request, good, *bad)) as server:
        client = DirectoryClient(context, ServiceAddress(endpoint=f"fleet://127.0.0.1:{server.port}"))
        end_s = time.monotonic() + 60
        while client.list is None and time.monotonic() < end_s:
            client.poll()
            time.sleep(0.01)
        client.close()
    assert client.list is not None
    assert client.list.nodes.keys() == {"good"}
    assert client.list.refused.keys() == {node["name"] for node in bad}
    bait.close(0)


def test_node_that_claims_another_replay_endpoint_in_its_heartbeat_is_read_at_the_listed_one(tmp_path: Path) -> None:
    with HubProcess() as hub, zmq.Context() as context:
        node = {"name": "a", "events": hub.events, "replay": hub.replay}
        with (
            Answering(context, lambda request: directory(request, node)) as server,
            subscribe(f"fleet://127.0.0.1:{server.port}", replay=True) as events,
        ):
            assert events.receive(60.0) is not None
            receiver = events._receiver._nodes["a"].receiver  # type: ignore[union-attr]
            assert receiver is not None
            assert receiver._replay_endpoint == hub.replay


def test_directory_and_nodes_with_keys(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    (allowed := tmp_path / "allowed").mkdir()
    public, secret = make_keys(tmp_path, "server")
    with HubProcess(keys=secret, allow=allowed) as hub:
        now = datetime.now(timezone.utc)
        node = DirectoryNode(name="a", state="live", since=now, events=hub.events, replay=hub.replay)
        found = Directory(fleet="f" * 32, revision="1", time=now, nodes=(node,))
        server = DirectoryServer(context, "tcp://127.0.0.1:*", lambda: found, keys=secret, allow=allowed)
        try:
            address = server.endpoint.replace("tcp://", "fleet://")
            own, client = make_keys(tmp_path, "client", service=public, endpoint=address)
            shutil.copy(own, allowed)
            with subscribe(client) as events:
                assert events.receive(60.0) is not None
            with pytest.raises(BusError, match="without keys"), subscribe(address, patience_s=3.0) as events:
                events.receive(6.0)
        finally:
            server.close()


def test_directory_that_cannot_be_made_answers_with_an_error_and_goes_on(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    now = datetime.now(timezone.utc)
    calls = itertools.chain([ValueError("no")], itertools.repeat(Directory(fleet="f" * 32, revision="1", time=now)))

    def provide() -> Directory:
        result = next(calls)
        if isinstance(result, Exception):
            raise result
        return result

    server = DirectoryServer(context, "tcp://127.0.0.1:*", provide)
    client = context.socket(zmq.REQ)
    client.linger, client.rcvtimeo = 0, 60_000
    client.connect(server.endpoint)
    replies = []
    requests = [{"request": "replay"}, *({"request": "directory", "id": name} for name in "xy")]
    requests.append({"request": "directory", "known": "1"})
    for request in (b"{", *(json.dumps(each).encode() for each in requests)):
        client.send(request)
        replies.append(json.loads(client.recv()))
    assert [reply["reply"] for reply in replies] == ["error", "error", "error", "directory", "directory"]
    assert [reply.get("unchanged") for reply in replies[3:]] == [False, True]
    assert replies[3]["id"] == "y"
    client.close(0)
    server.close()


def test_directory_with_new_names_every_time_cannot_use_up_the_sockets(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_receiver, "MAX_DIRECTORY_NODES", 5)
    monkeypatch.setattr(fleet_directory, "REFRESH_S", 0.02)
    replies = itertools.count()

    def reply(request: dict[str, Any]) -> list[bytes]:
        number = next(replies)
        ports = range(1 + 8 * number % 60_000, 9 + 8 * number % 60_000, 2)
        nodes = [
            {"name": f"n{port}", "events": f"tcp://127.0.0.1:{port}", "replay": f"tcp://127.0.0.1:{port + 1}"}
            for port in ports
        ]
        return directory(request, *nodes, revision=str(number))

    with (
        Answering(context, reply) as server,
        subscribe(f"fleet://127.0.0.1:{server.port}") as events,
    ):
        known: list[int] = []
        end_s = time.monotonic() + 60
        while next(replies) < 30 and time.monotonic() < end_s:
            events.receive(0.05)
            known.append(len(events._receiver._nodes))  # type: ignore[union-attr]
        assert max(known) == 5


def test_node_that_is_left_out_is_logged_once(
    context: zmq.Context[zmq.Socket[bytes]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_directory, "REFRESH_S", 0.01)
    bad = [{"name": f"n{number}", "events": "ipc:///x", "replay": "ipc:///x"} for number in range(9)]
    replies = itertools.count()
    with Answering(context, lambda request: directory(request, *bad, revision=str(next(replies)))) as server:
        client = DirectoryClient(context, ServiceAddress(endpoint=f"fleet://127.0.0.1:{server.port}"))
        end_s = time.monotonic() + 60
        while client._revision not in ("5", "6") and time.monotonic() < end_s:
            client.poll()
            time.sleep(0.005)
        client.close()
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records].count(
        "4 more nodes are left out"
    ) == 1
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 6

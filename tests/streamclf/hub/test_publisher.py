"""Sockets: refused with a remedy where they cannot or must not be bound; previews only while somebody watches."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from support.hub_process import wait_until

from streamclf.errors import BusError
from streamclf.hub.journal import Entry
from streamclf.hub.publisher import Publisher
from streamclf.net.zeromq import bind, open_socket


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def publisher(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Publisher]:
    publisher = Publisher(context, "tcp://127.0.0.1:*", high_water=10)
    yield publisher
    publisher.close()


def test_any_free_port_is_told(publisher: Publisher) -> None:
    assert publisher.endpoint.startswith("tcp://127.0.0.1:")
    assert int(publisher.endpoint.rpartition(":")[2]) > 0


def test_a_port_in_use_names_endpoint_and_remedy(context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher) -> None:
    with pytest.raises(BusError, match=f"publish.events {publisher.endpoint}: .*another program uses it"):
        Publisher(context, publisher.endpoint)


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
def test_a_bind_that_strangers_could_reach_is_refused(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    with pytest.raises(BusError, match=r"bind 127\.0\.0\.1"):
        Publisher(context, endpoint)


@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:1", "inproc://x", "tcp://127.0.0.1", "tcp://127.0.0.1:x", ""])
def test_what_is_no_endpoint_is_refused(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    with pytest.raises(BusError, match=r"like tcp://127\.0\.0\.1:5555"):
        Publisher(context, endpoint)


def test_an_ipc_socket_is_for_its_owner_alone_and_never_taken_over(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "events"
        first = open_socket(context, zmq.XPUB, max_bytes=100)
        bind(first, f"ipc://{path}", "publish.events")
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        second = open_socket(context, zmq.XPUB, max_bytes=100)
        with pytest.raises(BusError, match="another program serves it"):
            bind(second, f"ipc://{path}", "publish.events")
        first.close(0)
        with pytest.raises(BusError, match="does not exist"):
            bind(second, f"ipc://{directory}/no/such/place", "publish.events")
        second.close(0)


def test_an_ipc_socket_left_behind_is_replaced_and_a_file_is_not(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        left = Path(directory) / "left"
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(left))
        ours = open_socket(context, zmq.XPUB, max_bytes=100)
        bind(ours, f"ipc://{left}", "publish.events")
        file = Path(directory) / "file"
        file.write_text("precious")
        other = open_socket(context, zmq.XPUB, max_bytes=100)
        with pytest.raises(BusError, match="not a socket"):
            bind(other, f"ipc://{file}", "publish.events")
        other.close(0)
        assert file.read_text() == "precious"
        ours.close(0)


def test_umask_is_as_before(publisher: Publisher) -> None:
    before = os.umask(0o022)
    os.umask(before)
    assert before != 0o177


def test_previews_are_wanted_only_while_somebody_watches(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher
) -> None:
    def watched_becomes(streams: set[str]) -> None:
        wait_until(
            lambda: bool(publisher.receive_subscriptions() or True) and publisher.watched == streams,
            f"watched {streams}",
        )

    everything = context.socket(zmq.SUB)
    everything.subscribe(b"")
    everything.connect(publisher.endpoint)
    viewer = context.socket(zmq.SUB)
    viewer.subscribe(b"preview/door/")
    viewer.connect(publisher.endpoint)
    watched_becomes({"door"})
    viewer.subscribe(b"preview/")
    watched_becomes({"door", "*"})
    viewer.close(0)
    watched_becomes(set())
    everything.close(0)


def test_a_subscriber_that_does_not_read_holds_up_nobody(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher
) -> None:
    lazy = context.socket(zmq.SUB)
    lazy.rcvhwm = 1
    lazy.subscribe(b"")
    lazy.connect(publisher.endpoint)
    good = context.socket(zmq.SUB)
    good.subscribe(b"prediction/last/")
    good.connect(publisher.endpoint)
    wait_until(
        lambda: bool(publisher.receive_subscriptions() or True) and publisher.has_new_subscriber, "a subscription"
    )
    entry = Entry(1, "door", "prediction", b"x" * 2000)

    def last_arrives() -> bool:
        publisher.publish([entry] * 100)
        publisher.send(b"prediction/last/", b"{}")
        return bool(good.poll(10))

    wait_until(last_arrives, "the message for the good subscriber")
    publisher.publish([entry] * 20_000)
    for subscriber in (lazy, good):
        subscriber.close(0)


def test_topics_match_whole_names_only(context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher) -> None:
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(b"prediction/cam1/")
    subscriber.connect(publisher.endpoint)
    wait_until(
        lambda: bool(publisher.receive_subscriptions() or True) and publisher.has_new_subscriber, "a subscription"
    )
    publisher.publish([Entry(1, "cam10", "prediction", b"wrong"), Entry(2, "cam1", "prediction", b"right")])
    assert subscriber.poll(5000)
    assert subscriber.recv_multipart() == [b"prediction/cam1/", b"right"]
    subscriber.close(0)

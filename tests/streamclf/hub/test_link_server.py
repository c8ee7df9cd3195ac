"""Test the hub's end of the link against hostile messages."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

import orjson
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from streamclf.events.drafts import Draft
from streamclf.hub.link_server import LinkServer
from streamclf.producer.link_protocol import U64

Link = tuple[LinkServer, "zmq.Socket[bytes]"]


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    """Return a link server and a raw socket that is connected to it."""
    with zmq.Context() as context, tempfile.TemporaryDirectory(prefix="link-") as directory:
        server = LinkServer(context, f"ipc://{directory}/link", lambda instance: 0)
        with context.socket(zmq.DEALER) as peer:
            peer.linger = 0
            peer.connect(server.endpoint)
            yield server, peer
        server.close()


frames = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"hello", b"drafts", b"preview", b"i" * 16, b"test", b"door", b"{}", b"[]", U64.pack(0)]),
    ),
    min_size=1,
    max_size=7,
)
hostile_drafts = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(["status", "door"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(frames, max_size=10), st.lists(hostile_drafts, max_size=4))
def test_hostile_messages_give_only_valid_drafts_and_the_next_hello_is_answered(
    link: Link, messages: list[list[bytes]], items: list[object]
) -> None:
    server, peer = link
    try:
        hostile = orjson.dumps(items)
    except orjson.JSONEncodeError:
        hostile = b"[1"
    for message in [*messages, [b"drafts", b"i" * 16, b"test", U64.pack(0), hostile]]:
        peer.send_multipart(message)
    peer.send_multipart([b"hello", b"h" * 16, b"test", b"{}"])
    end = time.monotonic() + 60
    while True:
        assert time.monotonic() < end, "the hello was not answered"
        server.socket.poll(10)
        assert all(isinstance(draft, Draft) for draft in server.receive().drafts)
        if b"h" * 16 in server.active_producers():
            break
    while peer.poll(0):
        peer.recv_multipart()

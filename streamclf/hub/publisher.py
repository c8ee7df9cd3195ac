"""Where events leave the service: sockets with limits, and the publisher.

A slow subscriber loses messages here and nothing waits for it; it can pull what it missed from
`streamclf.hub.replay_server`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import zmq

from streamclf.errors import BusError
from streamclf.events.types import topic_of
from streamclf.hub.guard.peers import Peers
from streamclf.hub.journal import Entry
from streamclf.net.names import valid_stream_name
from streamclf.net.zeromq import bind, open_socket, send_now

if TYPE_CHECKING:
    from streamclf.hub.guard.curve_gate import CurveGate

log = logging.getLogger(__name__)

SEND_HIGH_WATER: Final = 2000
"""Messages kept for one slow subscriber: a second of 400 streams."""
MAX_REQUEST_BYTES: Final = 64 * 1024
LINK_IO_THREAD: Final = 0b01
PUBLIC_IO_THREAD: Final = 0b10
"""Masks of libzmq's threads, where there are two: whatever strangers do to one, producers have the other."""
MAX_SUBSCRIPTIONS: Final = 1024
"""Topics that one connection may ask for and give up; beyond, it is disconnected."""
MAX_TOPICS: Final = 1536
"""Different topics in all: 3 kB each in libzmq. Beyond, whoever asked for most is disconnected."""
_TOPIC = re.compile(rb"[A-Za-z0-9_/-]{0,80}")
_MAX_HANDSHAKE_BYTES = 1024
"""No topic is as long, but libzmq holds the messages of a CURVE handshake to the same limit."""
_SUBSCRIPTIONS_QUEUED = 2
"""libzmq goes on taking subscriptions, out of our hands, for as long as more are there: so few are. 1 stalls CURVE."""
_SUBSCRIPTIONS_A_TURN = 200
_RECEIVE_BYTES = 16 * 1024
"""What the system takes for us from a subscriber: all that libzmq can still read of one that was disconnected."""


class Publisher:
    """The PUB side, which also hears who subscribes (XPUB): previews are made only while somebody watches.

    libzmq keeps what it is asked for in a trie without bounds, so those who ask for too much, or for what no topic of
    ours begins with, are disconnected, which makes it forget them.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *,
        high_water: int = SEND_HIGH_WATER,
        gate: CurveGate | None = None,
    ) -> None:
        self.socket = open_socket(context, zmq.XPUB, max_bytes=_MAX_HANDSHAKE_BYTES, io_thread=PUBLIC_IO_THREAD)
        self.socket.sndhwm, self.socket.rcvhwm = high_water, _SUBSCRIPTIONS_QUEUED
        self.socket.rcvbuf = _RECEIVE_BYTES
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # each newcomer is heard, and gets a heartbeat at once
        if gate:
            gate.guard(self.socket)
        try:
            self.endpoint = bind(self.socket, endpoint, "publish.events", guarded=gate is not None)
        except BusError:
            self.socket.close(0)
            raise
        self.peers = Peers("publish.events", permits=gate.permits if gate else None)
        self._topics: set[bytes] = set()
        self._previews: set[bytes] = set()
        self.watched: frozenset[str] = frozenset()
        """Streams whose preview somebody wants; `*` for all."""
        self.newcomers = False
        self.heard = 0
        """Subscriptions that came or were given up, in all."""

    def publish(self, entries: Iterable[Entry]) -> None:
        """Send journalled events to whoever listens; never blocks."""
        for entry in entries:
            self.send(topic_of(entry.type, entry.stream), entry.body)

    def send(self, topic: bytes, payload: bytes) -> None:
        """Send one message; a subscriber whose queue is full misses it."""
        send_now(self.socket, topic, payload)

    def hear(self) -> bool:
        """Take in subscriptions; True if the set of watched previews changed."""
        for _ in range(_SUBSCRIPTIONS_A_TURN):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._take(frame)
        if len(self._topics) > MAX_TOPICS:
            # Those of peers that were cut are given up one by one: what the others asked for must be too much, too.
            self.peers.cut_busiest(MAX_TOPICS, f"more than {MAX_TOPICS} different topics in all, and it asked for most")
        watched = frozenset(_watched_stream(topic) for topic in self._previews)
        changed = watched != self.watched
        self.watched = watched
        return changed

    def _take(self, frame: zmq.Frame) -> None:
        kind, topic = frame.bytes[:1], frame.bytes[1:]
        self.heard += 1
        peer = self.peers.sender(frame)
        if kind == b"\1":
            self.newcomers = True
            self._topics.add(topic)
            # Somebody who subscribes to everything is a logger more likely than a viewer: that turns no camera on.
            if topic.startswith(b"preview/"):
                self._previews.add(topic)
        elif kind == b"\0":
            self._topics.discard(topic)
            self._previews.discard(topic)
        if peer is None:
            return  # it left, or was disconnected: libzmq gives up its topics, which is heard next
        if kind not in (b"\0", b"\1") or not _TOPIC.fullmatch(topic):
            self.peers.cut(peer, "it asked for what is no topic")
        elif peer.messages > MAX_SUBSCRIPTIONS:
            self.peers.cut(peer, f"more than {MAX_SUBSCRIPTIONS} subscriptions")

    def close(self) -> None:
        """Stop listening and drop what slow subscribers have not taken."""
        self.socket.close(0)


def _watched_stream(topic: bytes) -> str:
    name = topic[len(b"preview/") : -1].decode("ascii", "replace")
    return name if topic.endswith(b"/") and valid_stream_name(name) else "*"

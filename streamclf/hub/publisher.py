"""Publish events to subscribers, and find out which previews they want.

A slow subscriber loses messages here, and the hub never waits for it. The subscriber can request what it missed from
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
"""Messages queued for one slow subscriber: one second of 400 streams."""
MAX_REQUEST_BYTES: Final = 64 * 1024
LINK_IO_THREAD: Final = 0b01
PUBLIC_IO_THREAD: Final = 0b10
"""Masks of libzmq's two I/O threads: hostile clients can slow one down, and producers have the other."""
MAX_SUBSCRIPTIONS: Final = 1024
"""Subscriptions and cancellations that one connection may send before it is disconnected."""
MAX_TOPICS: Final = 1536
"""Different topics of all connections, 3 kB each in libzmq. With more, the busiest connections are disconnected."""
_TOPIC = re.compile(rb"[A-Za-z0-9_/-]{0,80}")
_MAX_HANDSHAKE_BYTES = 1024
"""No topic is that long, but libzmq applies the same limit to the messages of a CURVE handshake."""
_RECEIVE_HIGH_WATER = 2
"""libzmq reads subscriptions by itself for as long as more arrive, up to this many. 1 stalls CURVE."""
_MAX_SUBSCRIPTIONS_PER_CALL = 200
_RECEIVE_BUFFER_BYTES = 16 * 1024
"""The system's receive buffer: libzmq can still read at most this much from a peer that was disconnected."""


class Publisher:
    """Send events over an XPUB socket, which also receives subscriptions: previews are made only while wanted.

    libzmq keeps the topics of subscriptions in a trie without limits. So the publisher disconnects a peer that
    subscribes to too many topics, or to a topic that no event can have; libzmq then forgets the peer's topics.
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
        self.socket.sndhwm, self.socket.rcvhwm = high_water, _RECEIVE_HIGH_WATER
        self.socket.rcvbuf = _RECEIVE_BUFFER_BYTES
        # Pass on every subscription, also to a topic that is known: each new subscriber gets a heartbeat at once.
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        if gate:
            gate.protect(self.socket)
        try:
            self.endpoint = bind(self.socket, endpoint, "publish.events", guarded=gate is not None)
        except BusError:
            self.socket.close(0)
            raise
        self.peers = Peers("publish.events", permits=gate.permits if gate else None)
        self._topics: set[bytes] = set()
        self._previews: set[bytes] = set()
        self.watched: frozenset[str] = frozenset()
        """The streams whose preview somebody subscribes to; `*` means all."""
        self.has_new_subscriber = False
        """Whether a subscription has arrived; the caller resets it."""
        self.subscription_messages = 0
        """The number of subscriptions and cancellations so far."""

    def publish(self, entries: Iterable[Entry]) -> None:
        """Send journalled events to their subscribers; never blocks."""
        for entry in entries:
            self.send(topic_of(entry.type, entry.stream), entry.body)

    def send(self, topic: bytes, payload: bytes) -> None:
        """Send one message; a subscriber whose queue is full misses it."""
        send_now(self.socket, topic, payload)

    def receive_subscriptions(self) -> bool:
        """Handle the subscriptions that have arrived; return whether the set of watched previews changed."""
        for _ in range(_MAX_SUBSCRIPTIONS_PER_CALL):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._handle(frame)
        if len(self._topics) > MAX_TOPICS:
            # libzmq cancels the topics of a disconnected peer one by one. So the limit applies to the messages of the
            # peers that are still connected, and not to the topics left.
            self.peers.disconnect_busiest(
                MAX_TOPICS, f"more than {MAX_TOPICS} different topics in all, and it sent the most subscriptions"
            )
        watched = frozenset(_preview_stream(topic) for topic in self._previews)
        changed = watched != self.watched
        self.watched = watched
        return changed

    def close(self) -> None:
        """Stop listening, and drop the messages that slow subscribers have not read."""
        self.socket.close(0)

    def _handle(self, frame: zmq.Frame) -> None:
        kind, topic = frame.bytes[:1], frame.bytes[1:]
        self.subscription_messages += 1
        peer = self.peers.sender(frame)
        if kind == b"\1":
            self.has_new_subscriber = True
            self._topics.add(topic)
            # A subscription to everything comes from a log rather than from a viewer, so it requests no previews.
            if topic.startswith(b"preview/"):
                self._previews.add(topic)
        elif kind == b"\0":
            self._topics.discard(topic)
            self._previews.discard(topic)
        if peer is None:
            return  # the peer is gone; libzmq cancels its topics, and those messages come next
        if kind not in (b"\0", b"\1") or not _TOPIC.fullmatch(topic):
            self.peers.disconnect(peer, "it subscribed to an impossible topic")
        elif peer.messages > MAX_SUBSCRIPTIONS:
            self.peers.disconnect(peer, f"more than {MAX_SUBSCRIPTIONS} subscriptions")


def _preview_stream(topic: bytes) -> str:
    name = topic[len(b"preview/") : -1].decode("ascii", "replace")
    return name if topic.endswith(b"/") and valid_stream_name(name) else "*"

"""Publish events to subscribers, and find out which previews they want.

A slow subscriber loses messages here, and the hub never waits for it. The subscriber can request what it missed from
`streamclf.hub.replay_server`.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Final

import zmq

from streamclf.errors import BusError
from streamclf.events.types import topic_of
from streamclf.hub.guard.peers import Peers
from streamclf.hub.journal import Entry
from streamclf.hub.previews import PreviewPacer
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
"""Different topics of all connections that belong to no known stream, 3 kB each in libzmq."""
MAX_SUBSCRIPTIONS_IN_ALL: Final = 64 * MAX_SUBSCRIPTIONS
"""The same for all connections together, also to equal topics."""
SEND_BUFFER_BYTES: Final = 128 * 1024
"""The system's send buffer for one client: without this limit it grows to megabytes while the client does not read."""
MAX_REGIONS: Final = 4096
"""Regions of all streams whose topics count as known, the first ones that have had events."""
_TOPIC = re.compile(rb"(?:[A-Za-z0-9_-]{0,64}/){0,2}[A-Za-z0-9_-]{0,64}/?")
"""The beginning of a topic: a kind of message, a stream and a region, each with a slash at its end."""
_KINDS: Final = (b"prediction/", b"action/", b"status/", b"clip/", b"preview/", b"heartbeat/")
_KINDS_IN_REGIONS: Final = (b"prediction", b"action", b"clip")
_MAX_HANDSHAKE_BYTES = 1024
"""No topic is that long, but libzmq applies the same limit to the messages of a CURVE handshake."""
_RECEIVE_HIGH_WATER = 2
"""libzmq reads subscriptions by itself for as long as more arrive, up to this many. 1 stalls CURVE."""
_MAX_SUBSCRIPTIONS_PER_CALL = 200
RECEIVE_BUFFER_BYTES: Final = 16 * 1024
"""The system's receive buffer: libzmq can still read at most this much from a peer that was disconnected."""


class Publisher:
    """Send events over an XPUB socket, which also receives subscriptions: previews are made only while wanted.

    libzmq keeps the topics of subscriptions in a trie without limits. So the publisher disconnects a peer that
    subscribes to too many topics, or to a topic that no event can have; libzmq then forgets the peer's topics. Many
    peers together can have too many topics too: topics of streams without events then count, and a peer that reads its
    events stays.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *,
        high_water: int = SEND_HIGH_WATER,
        gate: CurveGate | None = None,
        streams: Container[str] = (),
    ) -> None:
        """Bind `endpoint`; `streams` are the known streams, and may grow: their topics do not count as unknown."""
        self.socket = open_socket(context, zmq.XPUB, max_bytes=_MAX_HANDSHAKE_BYTES, io_thread=PUBLIC_IO_THREAD)
        self.socket.sndhwm, self.socket.rcvhwm = high_water, _RECEIVE_HIGH_WATER
        self.socket.sndbuf, self.socket.rcvbuf = SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES
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
        self._streams = streams
        self._regions: set[str] = set()
        """Each region that has had events since the start, as `STREAM/REGION`."""
        self._unknown_topics: set[bytes] = set()
        self._limit_at = MAX_SUBSCRIPTIONS
        self._previews: set[bytes] = set()
        self._pacer = PreviewPacer(self.peers)
        self.watched: frozenset[str] = frozenset()
        """The streams whose preview somebody subscribes to; `*` means all."""
        self.has_new_subscriber = False
        """Whether a subscription has arrived; the caller resets it."""
        self.subscription_messages = 0
        """The number of subscriptions and cancellations so far."""

    def publish(self, entries: Iterable[Entry]) -> None:
        """Send journalled events to their subscribers; never blocks."""
        for entry in entries:
            region = entry.view.region
            if region is not None and len(self._regions) < MAX_REGIONS:
                self._regions.add(f"{entry.stream}/{region}")
            self.send(topic_of(entry.type, entry.stream, region), entry.body)

    def send(self, topic: bytes, payload: bytes) -> None:
        """Send one message; a subscriber whose queue is full misses it."""
        send_now(self.socket, topic, payload)

    def send_preview(self, stream: str, jpeg: bytes) -> None:
        """Send a picture, unless every viewer of it is still busy with an earlier one."""
        if self._pacer.allows(stream, len(jpeg)):
            self.send(topic_of("preview", stream), jpeg)

    def receive_subscriptions(self) -> bool:
        """Handle the subscriptions that have arrived; return whether the set of watched previews changed."""
        for _ in range(_MAX_SUBSCRIPTIONS_PER_CALL):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._handle(frame)
        if len(self._unknown_topics) > MAX_TOPICS or self.subscription_messages >= self._limit_at:
            self._limit_topics()
            self._limit_at = self.subscription_messages + MAX_SUBSCRIPTIONS
        watched = frozenset(stream for topic in self._previews if (stream := _preview_stream(topic)))
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
            # A subscription to everything comes from a log rather than from a viewer, so it requests no previews.
            if topic.startswith(b"preview/"):
                self._previews.add(topic)
        elif kind == b"\0":
            self._unknown_topics.discard(topic)
            self._previews.discard(topic)
        if peer is None:
            return  # the peer is gone; libzmq cancels its topics, and those messages come next
        if kind not in (b"\0", b"\1") or not _TOPIC.fullmatch(topic):
            self.peers.disconnect(peer, "it subscribed to an impossible topic")
        elif peer.messages > MAX_SUBSCRIPTIONS:
            self.peers.disconnect(peer, f"more than {MAX_SUBSCRIPTIONS} subscriptions")
        elif kind == b"\0":
            self._pacer.cancel(peer, topic)
        else:
            self._pacer.subscribe(peer, topic)
            if not self._is_known(topic):
                peer.unknown_topics.add(topic)
                self._unknown_topics.add(topic)

    def _is_known(self, topic: bytes) -> bool:
        """Return whether a topic is a kind of message, or one of a known stream or region."""
        kind, _, name = topic.partition(b"/")
        if not name:
            return any(each.startswith(topic) for each in _KINDS)
        if kind + b"/" not in _KINDS or not name.endswith(b"/"):
            return False
        known = name[:-1].decode("ascii")
        return known in self._streams or (kind in _KINDS_IN_REGIONS and known in self._regions)

    def _limit_topics(self) -> None:
        """Disconnect the least useful peers if all have too many subscriptions, or too many unknown topics.

        libzmq cancels the topics of a disconnected peer one by one. So the limit applies to the topics of the peers
        that are still connected, and not to the topics left in libzmq.
        """
        peers = self.peers.connected()
        users = Counter(topic for peer in peers for topic in peer.unknown_topics)
        excess = sum(peer.messages for peer in peers) - MAX_SUBSCRIPTIONS_IN_ALL
        for peer in self.peers.least_useful() if len(users) > MAX_TOPICS or excess > 0 else ():
            if excess > 0:
                why = f"more than {MAX_SUBSCRIPTIONS_IN_ALL} subscriptions in all"
            elif len(users) > MAX_TOPICS * 3 // 4 and peer.unknown_topics:
                why = f"more than {MAX_TOPICS} different topics of unknown streams in all"
            else:
                continue
            excess -= peer.messages
            for topic in peer.unknown_topics:
                users[topic] -= 1
                if not users[topic]:
                    del users[topic]
            self.peers.disconnect(peer, why)
        self._unknown_topics = set(users)


def _preview_stream(topic: bytes) -> str:
    """Return the stream of a topic of previews, `*` for a topic that begins several, "" for one that no preview has."""
    name = topic[len(b"preview/") :].decode("ascii", "replace")
    stream, _, more = name.partition("/")
    if more:
        return ""
    return stream if name.endswith("/") and valid_stream_name(stream) else "*"

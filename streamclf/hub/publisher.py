"""Where events leave the service: sockets with limits, and the publisher.

A slow subscriber loses messages here and nothing waits for it; what it missed it pulls from `streamclf.hub.replay_server`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket as sockets
import stat
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zmq

from streamclf.errors import BusError
from streamclf.events.types import topic_of
from streamclf.hub.guard.peers import Peers
from streamclf.hub.journal import Entry
from streamclf.multipart import send_now
from streamclf.names import valid_stream_name
from streamclf.sockets import open_socket

if TYPE_CHECKING:
    from streamclf.hub.guard.curve_gate import Gatekeeper

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
_TCP = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5}|\*)")
_REMEDY = {
    errno.EADDRINUSE: "another program uses it; stop that one, or give another port (or * for any free one)",
    errno.EACCES: "not permitted; give a port above 1023",
    errno.EPERM: "not permitted; give a port above 1023",
    errno.EADDRNOTAVAIL: "no such address on this machine; give 127.0.0.1",
    errno.ENODEV: "no such address on this machine; give 127.0.0.1",
    errno.ENOENT: "its directory does not exist; create it first",
    errno.ENAMETOOLONG: "too long for a socket; give a path under 100 bytes",
}


def bind(socket: zmq.Socket[bytes], endpoint: str, role: str, *, guarded: bool = False) -> str:
    """Bind and return the endpoint as really bound (`tcp://127.0.0.1:*` gets its port). Raises `BusError`.

    `guarded`: a gate asks each client for its key, so the endpoint may be open to the network.
    """
    if endpoint.startswith("ipc://"):
        _refuse_shared_directory(endpoint, role)
    elif not is_loopback(endpoint, role) and not guarded:
        raise BusError(
            f"{role} {endpoint}: anybody in the network could read it; set publish.keys and publish.allow (made by "
            "`streamclf keys`), or bind 127.0.0.1 and reach it through a tunnel"
        )
    socket.backlog = 64
    socket.ipv6 = "[" in endpoint
    before = os.umask(0o177)  # an ipc socket is for its owner alone
    try:
        _refuse_served(endpoint, role)
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        remedy = _REMEDY.get(
            error.errno or 0, "give an endpoint like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events"
        )
        raise BusError(f"{role} {endpoint}: {error.strerror}; {remedy}") from error
    finally:
        os.umask(before)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def is_loopback(endpoint: str, role: str) -> bool:
    """Whether only programs on this machine can reach a tcp:// endpoint. Raises `BusError` if it is none."""
    match = _TCP.fullmatch(endpoint)
    if not match:
        raise BusError(f"{role} {endpoint!r}: like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
    return _is_loopback(match["host"].strip("[]"))


def _refuse_shared_directory(endpoint: str, role: str) -> None:
    path = Path(endpoint.removeprefix("ipc://"))
    if str(path)[:1] in ("@", "*"):
        raise BusError(f"{role} {endpoint}: a name that any user could open; give a path in a directory of your own")
    try:
        status = path.parent.stat()
    except OSError:
        return  # bind says what is wrong with it
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
        raise BusError(
            f"{role} {endpoint}: other users may enter {path.parent} (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"give a path in a directory of your own: mkdir -m 700"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # an interface's name, * or a host name: whatever it means, it is not known to be loopback


def _refuse_served(endpoint: str, role: str) -> None:
    """ZeroMQ would take over the socket file of a running service without a word."""
    path = Path(endpoint.removeprefix("ipc://"))
    if not endpoint.startswith("ipc://") or not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise BusError(f"{role} {endpoint}: a file that is not a socket is there; give another path")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return  # left behind by a process that is gone
    raise BusError(f"{role} {endpoint}: another program serves it; stop that one, or give another path")


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
        gate: Gatekeeper | None = None,
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

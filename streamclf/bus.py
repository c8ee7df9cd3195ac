"""Where events leave the service: sockets with limits, and the publisher.

A slow subscriber loses messages here and nothing waits for it; what it missed it pulls from `streamclf.replay`.
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
from typing import Final

import zmq

from streamclf.errors import BusError
from streamclf.events import topic_of
from streamclf.journal import Entry
from streamclf.names import valid_stream_name

log = logging.getLogger(__name__)

SEND_HIGH_WATER: Final = 2000
"""Messages kept for one slow subscriber: a second of 400 streams."""
MAX_REQUEST_BYTES: Final = 64 * 1024
_MAX_WATCHED_TOPICS = 4096
_SUBSCRIPTIONS_A_TURN = 1000
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


def open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, *, max_bytes: int) -> zmq.Socket[bytes]:
    """A socket with the limits that every one of ours has, before bind or connect."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.maxmsgsize = max_bytes
    socket.handshake_ivl = 3000
    socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 6000
    socket.tcp_keepalive = 1
    return socket


def bind(socket: zmq.Socket[bytes], endpoint: str, role: str) -> str:
    """Bind and return the endpoint as really bound (`tcp://127.0.0.1:*` gets its port). Raises `BusError`."""
    _refuse_strangers(endpoint, role)
    socket.backlog = 64
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


def _refuse_strangers(endpoint: str, role: str) -> None:
    if endpoint.startswith("ipc://"):
        return
    match = _TCP.fullmatch(endpoint)
    if not match:
        raise BusError(f"{role} {endpoint!r}: like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
    if not _is_loopback(match["host"].strip("[]")):
        raise BusError(
            f"{role} {endpoint}: anybody in the network could read it; bind 127.0.0.1 and reach it through a tunnel"
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
    """The PUB side, which also hears who subscribes (XPUB): previews are made only while somebody watches."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, *, high_water: int = SEND_HIGH_WATER
    ) -> None:
        self.socket = open_socket(context, zmq.XPUB, max_bytes=4096)
        self.socket.sndhwm = high_water
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # each newcomer is heard, and gets a heartbeat at once
        try:
            self.endpoint = bind(self.socket, endpoint, "publish.events")
        except BusError:
            self.socket.close(0)
            raise
        self._topics: set[bytes] = set()
        self.watched: frozenset[str] = frozenset()
        """Streams whose preview somebody wants; `*` for all."""
        self.newcomers = False

    def publish(self, entries: Iterable[Entry]) -> None:
        """Send journalled events to whoever listens; never blocks."""
        for entry in entries:
            self.send(topic_of(entry.type, entry.stream), entry.body)

    def send(self, topic: bytes, payload: bytes) -> None:
        """Send one message; a subscriber whose queue is full misses it."""
        self.socket.send_multipart([topic, payload], zmq.NOBLOCK)

    def hear(self) -> bool:
        """Take in subscriptions; True if the set of watched previews changed."""
        for _ in range(_SUBSCRIPTIONS_A_TURN):
            try:
                message = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._subscription(message[:1], message[1:])
        watched = frozenset(_watched_stream(topic) for topic in self._topics)
        changed = watched != self.watched
        self.watched = watched
        return changed

    def _subscription(self, kind: bytes, topic: bytes) -> None:
        self.newcomers = self.newcomers or kind == b"\1"
        # Somebody who subscribes to everything is a logger more likely than a viewer: it does not turn the cameras on.
        if not topic.startswith(b"preview/"):
            return
        if kind == b"\1" and len(self._topics) < _MAX_WATCHED_TOPICS:
            self._topics.add(topic)
        elif kind == b"\0":
            self._topics.discard(topic)

    def close(self) -> None:
        """Stop listening and drop what slow subscribers have not taken."""
        self.socket.close(0)


def _watched_stream(topic: bytes) -> str:
    name = topic[len(b"preview/") : -1].decode("ascii", "replace")
    return name if topic.endswith(b"/") and valid_stream_name(name) else "*"

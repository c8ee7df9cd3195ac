"""Track the connections of a public socket: identify peers, count their messages, disconnect single ones.

ZeroMQ has no call that disconnects one peer. It does report the descriptor that a message came over (ZMQ_SRCFD). When
that connection is shut down, libzmq handles it as if the peer had disconnected, and frees the peer's memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import zmq

from streamclf.hub.guard.connections import Connection, inode_of, shut_down

log = logging.getLogger(__name__)

FRAME_BYTES: Final = 42
"""Bytes that ZMTP adds to a frame, at most: a header (RFC 23), and with CURVE a name, a nonce and authentication."""


@dataclass(slots=True)
class Peer:
    """One connection that has sent a message."""

    connection: Connection
    user: str | None
    messages: int = 0
    bytes_read: int = 0
    """Bytes of its messages, at least as many as it has sent for them."""
    unknown_topics: set[bytes] = field(default_factory=set)
    """Topics of streams without events that the peer has subscribed to."""


class Peers:
    """Count the messages of each peer of one socket; used by the thread that reads the socket."""

    def __init__(self, role: str, *, permits: Callable[[str | None], bool] | None, max_peers: int = 1024) -> None:
        """Start without peers.

        `role` names the socket in the log. `permits` returns whether the peer with a key may be connected; None means
        that every peer may. `max_peers` bounds how many are remembered.
        """
        self._role, self._permits, self._max_peers = role, permits, max_peers
        self._peers: dict[int, Peer] = {}
        self._disconnected_inodes: dict[int, None] = {}
        """The disconnected peers. Messages that they sent before may still arrive, and are ignored."""
        self.disconnections = 0
        """The number of connections that were shut down."""

    def sender(self, frame: zmq.Frame, size: int | None = None) -> Peer | None:
        """Return the peer that sent a message, given one of its frames, and count the message and its `size` in bytes.

        Return None if the peer is gone, or if its key is no longer allowed and it was disconnected for that.
        """
        fd = _property(frame, zmq.SRCFD)
        inode = inode_of(fd) if isinstance(fd, int) else None
        if not isinstance(fd, int) or inode is None or inode in self._disconnected_inodes:
            return None
        peer = self._peers.get(inode)
        if peer is None:
            if len(self._peers) >= self._max_peers:
                self._forget_gone()
            user = _property(frame, "User-Id")
            peer = self._peers[inode] = Peer(Connection(fd, inode), user if isinstance(user, str) else None)
        peer.messages += 1
        peer.bytes_read += FRAME_BYTES + len(frame) if size is None else size
        if self._permits and not self._permits(peer.user):
            self.disconnect(peer, "its key is not in the directory publish.allow")
            return None
        return peer

    def bytes_read_of(self, inode: int) -> int:
        """Return how many bytes of a connection's messages were read; any thread may ask."""
        peer = self._peers.get(inode)
        return peer.bytes_read if peer else 0

    def is_connected(self, peer: Peer) -> bool:
        """Return whether a peer is connected, and not about to be disconnected."""
        inode = peer.connection.inode
        return self._peers.get(inode) is peer and inode_of(peer.connection.fd) == inode

    def connected(self) -> list[Peer]:
        """Return the peers that are connected."""
        self._forget_gone()
        return list(self._peers.values())

    def least_useful(self) -> list[Peer]:
        """Return the connected peers; those to disconnect first come first (`Connection.usefulness`)."""
        peers, now_s = self.connected(), time.monotonic()
        for peer in peers:
            peer.connection.update()
        return sorted(peers, key=lambda peer: peer.connection.usefulness(now_s))

    def disconnect_revoked(self) -> None:
        """Disconnect the peers whose keys have been removed from the allow-list."""
        if self._permits:
            for peer in [peer for peer in self._peers.values() if not self._permits(peer.user)]:
                self.disconnect(peer, "its key was removed from the directory publish.allow")

    def disconnect(self, peer: Peer, why: str) -> None:
        """Disconnect a peer; a proper client reconnects by itself and catches up."""
        fd, inode = peer.connection.fd, peer.connection.inode
        self._peers.pop(inode, None)
        if inode_of(fd) != inode:
            return
        self._disconnected_inodes[inode] = None
        if len(self._disconnected_inodes) > self._max_peers:
            del self._disconnected_inodes[next(iter(self._disconnected_inodes))]
        self.disconnections += 1
        if self.disconnections <= 10 or self.disconnections % 1000 == 0:
            log.warning("%s: disconnected a peer (%d so far): %s", self._role, self.disconnections, why)
        shut_down(fd)

    def _forget_gone(self) -> None:
        self._peers = {inode: peer for inode, peer in self._peers.items() if inode_of(peer.connection.fd) == inode}


def _property(frame: zmq.Frame, name: int | str) -> int | str | bytes | None:
    try:
        return frame.get(name)
    except zmq.ZMQError:
        return None

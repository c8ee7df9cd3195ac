"""Track the connections of a public socket: identify peers, count their messages, disconnect single ones.

ZeroMQ has no call that disconnects one peer. It does report the descriptor that a message came over (ZMQ_SRCFD). When
that connection is shut down, libzmq handles it as if the peer had disconnected, and frees the peer's memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

log = logging.getLogger(__name__)

_LINGER_NONE = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that does not wait until the data is sent."""


@dataclass(slots=True)
class Peer:
    """One connection; the inode distinguishes it from a later connection with the same descriptor."""

    fd: int
    inode: int
    user: str | None
    messages: int = 0


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

    def sender(self, frame: zmq.Frame) -> Peer | None:
        """Return the peer that sent a message, and count the message.

        Return None if the peer is gone, or if its key is no longer allowed and it was disconnected for that.
        """
        fd = _property(frame, zmq.SRCFD)
        inode = _inode(fd) if isinstance(fd, int) else None
        if not isinstance(fd, int) or inode is None or inode in self._disconnected_inodes:
            return None
        peer = self._peers.get(inode)
        if peer is None:
            if len(self._peers) >= self._max_peers:
                self._forget_gone()
            user = _property(frame, "User-Id")
            peer = self._peers[inode] = Peer(fd, inode, user if isinstance(user, str) else None)
        peer.messages += 1
        if self._permits and not self._permits(peer.user):
            self.disconnect(peer, "its key is not on the allow-list")
            return None
        return peer

    def disconnect_revoked(self) -> None:
        """Disconnect the peers whose keys have been removed from the allow-list."""
        if self._permits:
            for peer in [peer for peer in self._peers.values() if not self._permits(peer.user)]:
                self.disconnect(peer, "its key was removed from the allow-list")

    def disconnect_busiest(self, max_messages: int, why: str) -> None:
        """If the connected peers have sent more than `max_messages` together, disconnect the busiest of them.

        This goes on until the rest have sent half of the limit: just below it, the next call would disconnect again.
        """
        self._forget_gone()
        total = sum(peer.messages for peer in self._peers.values())
        if total > max_messages:
            for peer in sorted(self._peers.values(), key=lambda peer: -peer.messages):
                if total <= max_messages // 2:
                    break
                total -= peer.messages
                self.disconnect(peer, why)

    def disconnect(self, peer: Peer, why: str) -> None:
        """Disconnect a peer; a proper client reconnects by itself and catches up."""
        self._peers.pop(peer.inode, None)
        if _inode(peer.fd) != peer.inode:
            return
        self._disconnected_inodes[peer.inode] = None
        if len(self._disconnected_inodes) > self._max_peers:
            del self._disconnected_inodes[next(iter(self._disconnected_inodes))]
        self.disconnections += 1
        if self.disconnections <= 10 or self.disconnections % 1000 == 0:
            log.warning("%s: disconnected a peer (%d so far): %s", self._role, self.disconnections, why)
        shut_down(peer.fd)

    def _forget_gone(self) -> None:
        self._peers = {inode: peer for inode, peer in self._peers.items() if _inode(peer.fd) == inode}


@contextlib.contextmanager
def borrow_socket(fd: int) -> Iterator[sockets.socket]:
    """Wrap libzmq's descriptor `fd` in a Python socket for a moment. Raises `OSError` if it is not a socket."""
    # Do not duplicate the descriptor: there may be none left when this is needed most.
    connection = sockets.socket(fileno=fd)
    try:
        yield connection
    finally:
        connection.detach()


def shut_down(fd: int) -> None:
    """Shut down libzmq's connection `fd`, and discard the data that its peer has not read yet."""
    with contextlib.suppress(OSError), borrow_socket(fd) as connection:
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _LINGER_NONE)
        connection.shutdown(sockets.SHUT_RDWR)


def _property(frame: zmq.Frame, name: int | str) -> int | str | bytes | None:
    try:
        return frame.get(name)
    except zmq.ZMQError:
        return None


def _inode(fd: int) -> int | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None

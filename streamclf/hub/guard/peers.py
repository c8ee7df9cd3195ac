"""The connections behind a public socket: told apart, counted, and cut where one asks too much or may no longer.

ZeroMQ has no call that disconnects one peer. It does say which descriptor a message came over (ZMQ_SRCFD): shutting
that connection down looks to libzmq as if the peer had left, which frees all that it held for it.
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

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that waits for nothing to be sent."""


@dataclass(slots=True)
class Peer:
    """One connection; the inode tells it from a later one with the same descriptor."""

    fd: int
    inode: int
    user: str | None
    messages: int = 0


class Peers:
    """Who sent something over one socket. Used by the thread that reads the socket."""

    def __init__(self, role: str, *, permits: Callable[[str | None], bool] | None, most: int = 1024) -> None:
        self._role, self._permits, self._most = role, permits, most
        self._peers: dict[int, Peer] = {}
        self._cut_off: dict[int, None] = {}
        """Inodes: what these had sent before is still to come, and is not worth a look."""
        self.cuts = 0
        """Connections that were shut down."""

    def sender(self, frame: zmq.Frame) -> Peer | None:
        """The connection that a message came over; None if it is gone, or was cut because it may no longer be here."""
        fd = _property(frame, zmq.SRCFD)
        inode = _inode(fd) if isinstance(fd, int) else None
        if not isinstance(fd, int) or inode is None or inode in self._cut_off:
            return None
        peer = self._peers.get(inode)
        if peer is None:
            if len(self._peers) >= self._most:
                self._forget_gone()
            user = _property(frame, "User-Id")
            peer = self._peers[inode] = Peer(fd, inode, user if isinstance(user, str) else None)
        peer.messages += 1
        if self._permits and not self._permits(peer.user):
            self.cut(peer, "its key is not on the allow-list")
            return None
        return peer

    def cut_revoked(self) -> None:
        """Disconnect those whose keys have been taken off the list."""
        if self._permits:
            for peer in [peer for peer in self._peers.values() if not self._permits(peer.user)]:
                self.cut(peer, "its key was taken off the allow-list")

    def cut_busiest(self, most: int, why: str) -> None:
        """If those who are still there have sent more than `most` together, disconnect who has sent most, and so on
        until it is half as much: to stop right below the limit would mean to be back in a moment."""
        self._forget_gone()
        left = sum(peer.messages for peer in self._peers.values())
        if left > most:
            for peer in sorted(self._peers.values(), key=lambda peer: -peer.messages):
                if left <= most // 2:
                    break
                left -= peer.messages
                self.cut(peer, why)

    def cut(self, peer: Peer, why: str) -> None:
        """Disconnect a peer; a good one comes back by itself and catches up."""
        self._peers.pop(peer.inode, None)
        if _inode(peer.fd) != peer.inode:
            return
        self._cut_off[peer.inode] = None
        if len(self._cut_off) > self._most:
            del self._cut_off[next(iter(self._cut_off))]
        self.cuts += 1
        if self.cuts <= 10 or self.cuts % 1000 == 0:
            log.warning("%s: disconnected a peer (%d so far): %s", self._role, self.cuts, why)
        hang_up(peer.fd)

    def _forget_gone(self) -> None:
        self._peers = {inode: peer for inode, peer in self._peers.items() if _inode(peer.fd) == inode}


@contextlib.contextmanager
def borrowed(fd: int) -> Iterator[sockets.socket]:
    """libzmq's connection `fd` as a socket, for looking at it. Raises `OSError` if it is none."""
    # No copy of the descriptor: there may be none left when this is needed most.
    connection = sockets.socket(fileno=fd)
    try:
        yield connection
    finally:
        connection.detach()


def hang_up(fd: int) -> None:
    """Disconnect what is at the other end of libzmq's connection `fd`; what it has not taken yet is thrown away."""
    with contextlib.suppress(OSError), borrowed(fd) as connection:
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _AT_ONCE)
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

"""Limit the requests and the answers that wait, for all peers of a socket together; used by the socket's thread.

libzmq limits the messages that wait for one peer, by their number. Hundreds of peers that ask and never read would
still make the hub keep hundreds of megabytes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from streamclf.hub.guard.connections import inode_of, read_counters
from streamclf.hub.guard.peers import Peer, Peers

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of answers that wait for all peers."""
MAX_REQUESTS: Final = 64
"""Requests of one peer that wait to be answered."""
MAX_REQUEST_BYTES_IN_ALL: Final = 4 * 1024 * 1024
_MAX_PEERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request that waits for its answer."""

    peer: Peer
    route: list[bytes]
    body: bytes


@dataclass(slots=True)
class _Requests:
    peer: Peer
    waiting: deque[Waiting] = field(default_factory=deque)
    size: int = 0


class WaitingRequests:
    """A queue of requests that serves the peers in turn."""

    def __init__(self) -> None:
        self._by_peer: dict[int, _Requests] = {}
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._by_peer)

    def add(self, request: Waiting) -> Peer | None:
        """Add a request; return the peer to disconnect, without its requests, if too many wait."""
        inode = request.peer.connection.inode
        requests = self._by_peer.setdefault(inode, _Requests(request.peer))
        requests.waiting.append(request)
        requests.size += len(request.body)
        self._size += len(request.body)
        if len(requests.waiting) <= MAX_REQUESTS:
            if self._size <= MAX_REQUEST_BYTES_IN_ALL:
                return None
            requests = max(self._by_peer.values(), key=lambda each: each.size)
        self._size -= requests.size
        del self._by_peer[requests.peer.connection.inode]
        return requests.peer

    def pop(self) -> Waiting | None:
        """Return the next request, or None."""
        if not self._by_peer:
            return None
        inode, requests = next(iter(self._by_peer.items()))
        del self._by_peer[inode]
        request = requests.waiting.popleft()
        requests.size -= len(request.body)
        self._size -= len(request.body)
        if requests.waiting:
            self._by_peer[inode] = requests  # at the end
        return request


@dataclass(slots=True)
class _Answers:
    peer: Peer
    sent: int
    """Bytes given to libzmq for this peer, minus the bytes that its machine has confirmed."""
    confirmed: int
    """The connection's counter of confirmed bytes, when `sent` was last reduced."""
    progress_s: float = field(default_factory=time.monotonic)
    """When the last answer was sent, or the peer was last seen to confirm bytes."""

    def update(self) -> None:
        counters = read_counters(self.peer.connection.fd)
        if counters is None or inode_of(self.peer.connection.fd) != self.peer.connection.inode:
            self.sent = 0
            return
        progress = counters[0] - self.confirmed
        if progress:
            self.confirmed, self.progress_s = counters[0], time.monotonic()
            self.sent = max(0, self.sent - progress)


class WaitingAnswers:
    """Count the answers that wait; beyond the limit, disconnect the peers that have not read for longest."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._answers: dict[int, _Answers] = {}
        self._total = 0
        """At most this many bytes wait; the exact number is read from the kernel only when this exceeds the limit."""

    def add(self, peer: Peer, size: int) -> None:
        """Count an answer to `peer` that is sent next, and disconnect other peers if too much waits."""
        inode = peer.connection.inode
        answers = self._answers.get(inode)
        if answers is None:
            counters = read_counters(peer.connection.fd)
            answers = self._answers[inode] = _Answers(peer, 0, counters[0] if counters else 0)
        if self._total + size > MAX_WAITING_BYTES or len(self._answers) > _MAX_PEERS:
            self._make_room(size)
        answers.sent += size
        answers.progress_s = time.monotonic()
        self._total += size
        self._answers[inode] = answers

    def _make_room(self, size: int) -> None:
        for each in self._answers.values():
            each.update()
        self._answers = {inode: each for inode, each in self._answers.items() if each.sent}
        self._total = sum(each.sent for each in self._answers.values())
        for each in sorted(self._answers.values(), key=lambda each: (each.progress_s, -each.peer.connection.inode)):
            if self._total + size <= MAX_WAITING_BYTES:
                break
            self._total -= each.sent
            del self._answers[each.peer.connection.inode]
            self._peers.disconnect(each.peer, "too many answers wait in all, and it has not read for longest")

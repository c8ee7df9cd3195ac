"""Decide which previews to send, so that a slow viewer gets few and new pictures instead of many and old ones.

libzmq queues messages for each subscriber, and counts them without regard to their size. It cannot replace a waiting
picture by a newer one, and it cannot send a picture to some subscribers only. So a picture is sent if at least one
viewer that wants it is ready for it. While one viewer is ready and another one is not, pictures collect for the slow
viewer; beyond a limit it is disconnected. If no viewer is ready, the picture is left out.
"""

from __future__ import annotations

import time
from typing import Final

from streamclf.hub.guard.connections import queued_bytes, read_counters
from streamclf.hub.guard.peers import Peer, Peers

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
"""Pictures that may wait for one viewer while another one is faster."""
MAX_WAITING_BYTES_IN_ALL: Final = 16 * 1024 * 1024
_MAX_ROUND_BYTES: Final = 1024 * 1024
"""Pictures, one of each stream, that a viewer gets before it has read the last ones."""
_IDLE_BYTES: Final = 32 * 1024
"""A viewer has read the last pictures when no more than this waits for it in the kernel."""
_UPDATE_S: Final = 0.02
_MIN_VIEWERS: Final = 64
"""Viewers that are gone are forgotten when there are this many more than after the last time."""
_TOPIC: Final = b"preview/"


class _Viewer:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.topics: set[bytes] = set()
        self.prefixes: tuple[bytes, ...] = ()
        self.streams: set[str] = set()
        """The streams whose picture was sent since the viewer was idle."""
        self._sent = self._read = self._read_before = 0

    @property
    def waiting(self) -> int:
        """Bytes of pictures that the viewer's machine has not confirmed, at most (more on sockets other than TCP)."""
        return max(0, self._sent - (self._read - self._read_before))

    def update(self) -> None:
        """Read from the kernel how much waits."""
        fd = self.peer.connection.fd
        counters = read_counters(fd)
        if counters is not None:
            self._read = counters[0]
        if queued_bytes(fd) <= _IDLE_BYTES:
            self.streams.clear()
            self._sent, self._read_before = 0, self._read

    def wants(self, topic: bytes) -> bool:
        return topic in self.topics or topic.startswith(self.prefixes)

    def is_ready(self, stream: str, size: int) -> bool:
        return stream not in self.streams and (not self._sent or self.waiting + size <= _MAX_ROUND_BYTES)

    def add(self, stream: str, size: int) -> None:
        self.streams.add(stream)
        self._sent += size


class PreviewPacer:
    """Track what waits for the viewers of previews; used by the thread that reads the socket."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._viewers: dict[int, _Viewer] = {}
        self._forget_at = _MIN_VIEWERS
        self._updated_s = 0.0
        self.left_out = 0
        """The number of previews that were not sent, because no viewer was ready."""

    def subscribe(self, peer: Peer, topic: bytes) -> None:
        """Note that a peer has subscribed to a topic; a prefix of a preview's topic counts too."""
        if topic.startswith(_TOPIC) or _TOPIC.startswith(topic):
            if len(self._viewers) >= self._forget_at:
                self._forget_gone()
                self._forget_at = 2 * len(self._viewers) + _MIN_VIEWERS
            viewer = self._viewers.setdefault(peer.connection.inode, _Viewer(peer))
            viewer.topics.add(topic)
            viewer.prefixes = tuple(each for each in viewer.topics if not each.endswith(b"/") or each == _TOPIC)

    def cancel(self, peer: Peer, topic: bytes) -> None:
        """Note that a peer has cancelled a subscription."""
        viewer = self._viewers.get(peer.connection.inode)
        if viewer is not None and topic in viewer.topics:
            viewer.topics.remove(topic)
            viewer.prefixes = tuple(each for each in viewer.prefixes if each != topic)

    def allows(self, stream: str, size: int) -> bool:
        """Return whether to send a picture of `size` bytes now, and count it for the viewers that want it."""
        now_s = time.monotonic()
        if now_s - self._updated_s >= _UPDATE_S:
            self._updated_s = now_s
            self._update()
        topic = _TOPIC + stream.encode() + b"/"
        viewers = [viewer for viewer in self._viewers.values() if viewer.wants(topic)]
        if not any(viewer.is_ready(stream, size) for viewer in viewers):
            self.left_out += 1
            return False
        for viewer in viewers:
            viewer.add(stream, size)
        return True

    def _forget_gone(self) -> None:
        connected = {peer.connection.inode for peer in self._peers.connected()}
        self._viewers = {inode: viewer for inode, viewer in self._viewers.items() if inode in connected}

    def _update(self) -> None:
        self._forget_gone()
        for viewer in self._viewers.values():
            viewer.update()
        total = sum(viewer.waiting for viewer in self._viewers.values())
        for viewer in sorted(self._viewers.values(), key=lambda viewer: -viewer.waiting):
            if viewer.waiting <= MAX_WAITING_BYTES and total <= MAX_WAITING_BYTES_IN_ALL:
                break
            total -= viewer.waiting
            self._peers.disconnect(viewer.peer, f"{viewer.waiting} bytes of previews wait for it")

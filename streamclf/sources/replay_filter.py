"""Drop the video of a live playlist that an earlier connection has already returned. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import deque
from typing import Final
from zlib import crc32

MAX_KEYS: Final = 1024
"""Key frames that are remembered: those of the segments in a playlist, also of codecs with key frames only."""
MAX_URLS: Final = 400

Digest = tuple[int | None, int, int]
"""(Time stamp, size, checksum) of a key frame's packet."""


class ReplayFilter:
    """Find the packets that the connection before, which has failed, has returned already.

    While a server pauses, its playlist stays as it is. Each new connection to it would begin with the same segments.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        before = _FAILED.pop(url, ())
        self._before = frozenset(before)
        self._left = len(self._before)  # equal frames of a still image must not be dropped for ever
        self._digests = deque(before, maxlen=MAX_KEYS)
        self._is_replay = bool(self._before)

    def is_replay(self, pts: int | None, data: bytes | memoryview, *, key: bool) -> bool:
        """Return whether the next packet, `data`, belongs to a group of pictures that was returned before."""
        if key:
            digest = (pts, len(data), crc32(data))
            self._is_replay = self._is_replay and self._left > 0 and digest in self._before
            self._left -= 1
            if not self._is_replay:
                self._digests.append(digest)
        return self._is_replay

    def save(self) -> None:
        """Remember the packets for the next connection to this URL, because this one has failed."""
        while len(_FAILED) >= MAX_URLS:
            del _FAILED[next(iter(_FAILED))]
        _FAILED[self._url] = tuple(self._digests)


_FAILED: dict[str, tuple[Digest, ...]] = {}

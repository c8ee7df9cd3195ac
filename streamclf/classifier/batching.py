"""Decide when a batch starts: at once, or a little later with the chunks of other streams. Pure: no clock, no engine.

Encoding one chunk in a call of its own costs two to five times as much processor time as encoding it in a call with
eight. So a chunk waits for the chunks of other streams, but never longer than `max_wait_s`, and a single stream never
waits. A chunk that completes no window is not needed before the next chunk that completes one. It waits for that chunk,
if it makes the later batch at most `MAX_ADDED_S` longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

ACTIVE_S: Final = 1.0
"""A batch does not wait for a stream without a new chunk for this long."""
MAX_ADDED_S: Final = 0.004
"""Time by which a chunk that was held back may make another chunk's batch longer."""
_EXPIRY_INTERVAL_S: Final = ACTIVE_S / 4
"""Interval of the search for inactive streams, which takes time with hundreds of streams."""


class DynamicBatcher:
    """Decide when to start a batch. Times are monotonic seconds."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._chunk_at_s: dict[str, float] = {}
        self._until_s = math.inf
        self._expired_at_s = -math.inf

    def note_chunk(self, stream: str, now_s: float) -> None:
        """Record that a chunk of `stream` has arrived."""
        self._chunk_at_s[stream] = now_s

    def remaining_s(self, now_s: float) -> float:
        """Return the seconds until the waiting chunks must be encoded; infinite while no chunk waits."""
        return max(0.0, self._until_s - now_s)

    def should_start(self, due: Sequence[float], waiting: int, max_batch: int, now_s: float) -> bool:
        """Return whether to start a batch now.

        `due` has one time for each stream with a chunk to encode now: when that chunk was captured. `waiting` is the
        number of waiting chunks of all streams; with `max_batch` of them, the batch waits for no other stream.
        """
        self._until_s = math.inf
        if not due:
            return False
        until_s = min(due) + self._max_wait_s
        if now_s >= until_s or waiting >= max_batch:
            return True
        if now_s - self._expired_at_s >= _EXPIRY_INTERVAL_S:
            self._expired_at_s = now_s
            self._chunk_at_s = {stream: at_s for stream, at_s in self._chunk_at_s.items() if now_s - at_s <= ACTIVE_S}
        # Every active stream has a chunk in this batch; further chunks belong to the next batch.
        if len(due) >= len(self._chunk_at_s):
            return True
        self._until_s = until_s
        return False


def max_held_chunks(chunk_s: float) -> int:
    """Return how many chunks of a stream may wait for the one that completes a window, including that one.

    `chunk_s` is the time to encode one chunk; 0 if it is not known yet.
    """
    return 1 + int(MAX_ADDED_S / chunk_s) if chunk_s > 0 else 1

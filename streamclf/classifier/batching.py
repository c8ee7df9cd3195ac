"""When a batch is begun: at once, or a little later, when other streams' chunks are there too. Pure.

An engine that is called for one chunk costs two to five times as much of a processor for it as one that is called for
eight. So a chunk waits for those of other streams, but never for longer than it was said, and one stream alone never.
And a chunk that completes no window is needed by nobody before the next one that does: as long as the few milliseconds
that it adds to that one's batch are no more than `HOLD_S`, it waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

ALIVE_S: Final = 1.0
"""A stream that has brought no chunk for this long is not waited for."""
LOOK_S: Final = ALIVE_S / 4
HOLD_S: Final = 0.004
"""Time by which a chunk may make another one's batch longer."""


class DynamicBatcher:
    """Times are monotonic seconds."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._heard: dict[str, float] = {}
        self._until_s = math.inf
        self._looked_s = -math.inf

    def heard(self, stream: str, now_s: float) -> None:
        """A stream has brought a chunk."""
        self._heard[stream] = now_s

    def left_s(self, now_s: float) -> float:
        """Seconds until what waits may wait no longer; infinite while nothing does."""
        return max(0.0, self._until_s - now_s)

    def is_time(self, due: Sequence[float], waiting: int, enough: int, now_s: float) -> bool:
        """Whether to begin a batch. `due`: when the chunk was captured that each of the streams has to be encoded now;
        `waiting`: chunks in all. Where there are `enough` of them nobody is waited for."""
        self._until_s = math.inf
        if not due:
            return False
        until_s = min(due) + self._max_wait_s
        if now_s >= until_s or waiting >= enough:
            return True
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._heard = {stream: at_s for stream, at_s in self._heard.items() if now_s - at_s <= ALIVE_S}
        # Each of those that are there has brought one: more than that is the next round's.
        if len(due) >= len(self._heard):
            return True
        self._until_s = until_s
        return False


def hold(chunk_s: float) -> int:
    """How many chunks of a stream may wait for the one that completes a window, that one included, where encoding one
    takes `chunk_s`; 0 where nobody knows yet."""
    return 1 + int(HOLD_S / chunk_s) if chunk_s > 0 else 1

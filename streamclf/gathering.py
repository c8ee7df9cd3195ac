"""When a batch is begun: at once, or a little later, when other streams' tokens are there too. Pure.

An engine that is called for one token costs two to five times as much of a processor for it as one that is called for
eight. So a token waits for those of other streams, but never for longer than it was said, and one stream alone never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

ALIVE_S: Final = 1.0
"""A stream that has brought no token for this long is not waited for."""


class Gathering:
    """Times are monotonic seconds."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._heard: dict[str, float] = {}
        self._until_s: float | None = None

    def heard(self, stream: str, now_s: float) -> None:
        """A stream has brought a token."""
        self._heard[stream] = now_s

    def left_s(self, now_s: float) -> float:
        """Seconds until what waits may wait no longer; infinite while nothing does."""
        return math.inf if self._until_s is None else max(0.0, self._until_s - now_s)

    def worth_waiting(self, waiting: Sequence[int], enough: int, now_s: float) -> bool:
        """Whether to wait for more, with so many tokens of each stream `waiting`; if not, they are encoded now, as they
        are where there are `enough` of them."""
        if not any(waiting):
            self._until_s = None
            return False
        if self._until_s is None:
            self._until_s = now_s + self._max_wait_s
            self._heard = {stream: at_s for stream, at_s in self._heard.items() if now_s - at_s <= ALIVE_S}
        # Each of those that are there has brought one: more than that is the next round's.
        complete = sum(count > 0 for count in waiting) >= max(1, len(self._heard))
        if complete or sum(waiting) >= enough or now_s >= self._until_s:
            self._until_s = None
            return False
        return True

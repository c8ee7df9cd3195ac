"""Compute the wait before the next attempt to connect. No I/O, no clock."""

from __future__ import annotations

import random


class Backoff:
    """Compute growing waits between attempts, with jitter and a longer limit after a refusal.

    The waits stay short enough to reconnect at most 2 s after a camera is back. After a refusal (the camera answers and
    rejects the request) they grow to 10 s: the answer will not change soon, and many cameras lock an account after a
    few wrong passwords. The jitter keeps 400 cameras behind one switch from reconnecting at the same moment.
    """

    FIRST_S = 0.2
    FACTOR = 1.5
    LAST_S = 1.4
    LAST_REFUSED_S = 10.0

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = rng or random.Random()  # noqa: S311 - nothing secret
        self._attempts = 0

    def reset(self) -> None:
        """Start again from the shortest wait, after a connection that worked."""
        self._attempts = 0

    def next_s(self, *, refused: bool = False) -> float:
        """Return the seconds to wait before the next attempt."""
        last_s = self.LAST_REFUSED_S if refused else self.LAST_S
        wait_s: float = min(self.FIRST_S * self.FACTOR ** min(self._attempts, 30), last_s)
        self._attempts += 1
        return wait_s * self._random.uniform(0.8, 1.2)

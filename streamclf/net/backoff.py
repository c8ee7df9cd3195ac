"""The wait before the next attempt. No I/O, no clock."""

from __future__ import annotations

import random


class Backoff:
    """Waits between attempts: quick at first, and never so long that a camera which is back is seen later than 2 s.

    A camera that answers, and refuses, gets 10 s: its answer will not change soon, and many lock an account after a
    few wrong passwords. With jitter, so that 400 cameras behind one switch do not all come at the same moment.
    """

    FIRST_S = 0.2
    FACTOR = 1.5
    LAST_S = 1.4
    LAST_REFUSED_S = 10.0

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = rng or random.Random()  # noqa: S311 - nothing secret
        self._attempts = 0

    def reset(self) -> None:
        """The last connection was a good one."""
        self._attempts = 0

    def next_s(self, *, refused: bool = False) -> float:
        """Seconds to wait before the next attempt."""
        last_s = self.LAST_REFUSED_S if refused else self.LAST_S
        wait_s: float = min(self.FIRST_S * self.FACTOR ** min(self._attempts, 30), last_s)
        self._attempts += 1
        return wait_s * self._random.uniform(0.8, 1.2)

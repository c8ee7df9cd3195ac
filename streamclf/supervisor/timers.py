"""What the supervisor has to do later, by the monotonic clock."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class Timer:
    """One thing to do at `due_s`; `run` says which life of the child is meant, for it may be another one by then."""

    due_s: float
    what: Literal["start", "kill", "stopped", "tick", "end"]
    child: str = ""
    run: int = 0


class Timers:
    """Due ones first. None is ever taken back: whoever fires one looks whether it still applies."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []

    def add(
        self, seconds: float, what: Literal["start", "kill", "stopped", "tick", "end"], child: str = "", run: int = 0
    ) -> None:
        """`what` is to be done in so many seconds."""
        heapq.heappush(self._heap, Timer(time.monotonic() + seconds, what, child, run))

    def due(self) -> Timer | None:
        """Take the next one whose time has come."""
        return heapq.heappop(self._heap) if self._heap and self.wait_s() == 0 else None

    def wait_s(self) -> float:
        """Seconds until the next one."""
        return max(0.0, self._heap[0].due_s - time.monotonic())

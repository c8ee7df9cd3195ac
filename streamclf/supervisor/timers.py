"""Schedule the supervisor's later work by the monotonic clock."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import Literal, TypeAlias

TimerKind: TypeAlias = Literal["start", "kill", "stopped", "tick", "end"]


@dataclass(frozen=True, slots=True, order=True)
class Timer:
    """An action that is due at `due_s`. `run` is the run of the child that it concerns: a new run may exist by then."""

    due_s: float
    kind: TimerKind
    child: str = ""
    run: int = 0


class Timers:
    """Timers in the order of their times. A timer is never cancelled: its handler checks whether it still applies."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []

    def add(self, seconds: float, kind: TimerKind, child: str = "", run: int = 0) -> None:
        """Schedule `kind` after `seconds`."""
        heapq.heappush(self._heap, Timer(time.monotonic() + seconds, kind, child, run))

    def pop_due(self) -> Timer | None:
        """Remove and return the next timer that is due; None if no timer is due."""
        return heapq.heappop(self._heap) if self._heap and self.wait_s() == 0 else None

    def wait_s(self) -> float:
        """Return the seconds until the next timer is due."""
        return max(0.0, self._heap[0].due_s - time.monotonic())

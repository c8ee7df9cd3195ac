"""Who rests while not all streams can be served: everybody in turn, and equally long. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Turns:
    """The streams that are served, and those that rest, both in the order in which they began to."""

    def __init__(self, turn_s: float) -> None:
        """`turn_s`: how long a stream is served before one that rests takes its place."""
        self._turn_s = turn_s
        self._served: dict[str, float] = {}
        self._resting: dict[str, float] = {}

    @property
    def resting(self) -> frozenset[str]:
        """Who rests now."""
        return frozenset(self._resting)

    def deal(self, streams: Sequence[str], resting: int, now_s: float) -> None:
        """Let `resting` of `streams` rest; who was served longest rests first, who rested longest is back first."""
        known = set(streams)
        for part in (self._served, self._resting):
            for gone in part.keys() - known:
                del part[gone]
        for new in streams:
            if new not in self._served and new not in self._resting:
                self._served[new] = now_s
        while len(self._resting) > resting:
            self._move(self._resting, self._served, now_s)
        while len(self._resting) < min(resting, len(streams)):
            self._move(self._served, self._resting, now_s)
        for _ in range(min(len(self._served), len(self._resting))):
            if now_s - next(iter(self._served.values())) < self._turn_s:
                break
            self._move(self._served, self._resting, now_s)
            self._move(self._resting, self._served, now_s)

    @staticmethod
    def _move(source: dict[str, float], target: dict[str, float], now_s: float) -> None:
        name = next(iter(source))
        del source[name]
        target[name] = now_s

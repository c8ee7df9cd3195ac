"""What to give up while the machine can't keep up, and when to take it back. Pure: no clock, no engine, no streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

LOOK_S: Final = 0.2
"""Time over which the load is measured, at least: a batch may take longer."""
FULL: Final = 0.9
"""Share of its time at work beyond which a classifier has no room for a backlog."""
ROOM: Final = 0.8
"""Share of its time that a classifier may be expected to be at work for something to be taken back."""
AMPLE: Final = 0.5
LEAST_ROOM: Final = 0.1
WARIER: Final = 0.7
RELAPSE_S: Final = 30.0
AS_EXPECTED: Final = 1.25
"""Overload so soon after something was taken back says that the expectation was wrong, unless costs are more than so
many times the expected ones: then the load has risen."""
FORGET_S: Final = 60.0
LOOKS_TO_LENGTHEN: Final = 2
LOOKS_TO_REST: Final = 5
"""A second at least: for a hiccup of the machine no stream shall lose a window that it would have had late."""

Demand = Callable[[int, int], float]
"""(level, streams served) -> share of its time that a classifier would be at work, by what things cost at present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """What happened in some tenths of a second: share of the time at work; chunks `arrived` from the streams that are
    served, `taken` of those, and `lost`: given up, or windows of theirs."""

    busy: float
    arrived: int
    taken: int
    lost: int


class LoadController:
    """Two means against overload, in this order: longer hops (where streams allow it), then streams that rest.

    `level`: hops are 2^level times as long. `resting`: how many streams are not served for the moment; serving some of
    them well beats serving all of them too late, since a window needs every one of its chunks.

    Hysteresis: something is given up when the classifier is at work all the time and still loses; it is taken back
    when what it would then have to do, by what things cost at present, fits into `ROOM`. Where that was wrong, more
    room is asked for the next time, for a minute: so a constant load is soon left alone, and a load that falls is
    answered after one look.
    """

    def __init__(self) -> None:
        self.level = 0
        self.resting = 0
        self.ample = False
        """Whether what was taken back last leaves time to catch up with what waits."""
        self._looks: deque[LoadSample] = deque(maxlen=LOOKS_TO_REST)
        self._settling = False
        self._room = ROOM
        self._expected = 0.0
        self._taken_back_s = self._relapsed_s = float("-inf")

    def judge(self, look: LoadSample, *, now_s: float, streams: int, top_level: int, demand: Demand) -> bool:
        """Take the next look; whether `level` or `resting` is another now.

        `streams` may rest, all but one; `top_level` is the highest that any stream allows, 0 where none does.
        """
        before = (self.level, self.resting)
        self.level = min(self.level, top_level)
        self.resting = min(self.resting, max(0, streams - 1))
        if self._settling:  # half of this look was before the change
            self._settling = False
        else:
            self._looks.append(look)
            self._judge(now_s, streams, top_level, demand)
        if (self.level, self.resting) == before:
            return False
        self._looks.clear()
        self._settling = True
        return True

    def _judge(self, now_s: float, streams: int, top_level: int, demand: Demand) -> None:
        served = streams - self.resting
        wanted = demand(self.level, served)
        if self.level < top_level and (last := self._full(LOOKS_TO_LENGTHEN)):
            if any(look.lost for look in last) or (_backlog_grows(last) and wanted > ROOM):
                higher = range(self.level + 1, top_level + 1)
                self.level = next((level for level in higher if demand(level, served) <= FULL), top_level)
                self._gave_up(now_s, wanted)
        elif self.level == top_level and served > 1 and (last := self._full(LOOKS_TO_REST)):
            if all(look.lost for look in last) or (_backlog_grows(last) and wanted > 1):
                fewer = range(served - 1, 0, -1)
                self.resting = streams - next((some for some in fewer if demand(self.level, some) <= FULL), 1)
                self._gave_up(now_s, wanted)
        elif not self._looks[-1].lost and self._looks[-1].busy < FULL:
            self._take_back(now_s, streams, demand)

    def _full(self, looks: int) -> list[LoadSample]:
        """The last `looks` if the classifier was at work all the time, else none."""
        last = list(self._looks)[-looks:]
        return last if len(last) == looks and all(look.busy >= FULL for look in last) else []

    def _gave_up(self, now_s: float, wanted: float) -> None:
        if now_s - self._taken_back_s < RELAPSE_S and wanted <= AS_EXPECTED * self._expected:
            self._room = max(LEAST_ROOM, self._room * WARIER)
            self._relapsed_s = now_s

    def _take_back(self, now_s: float, streams: int, demand: Demand) -> None:
        if now_s - self._relapsed_s > FORGET_S:
            self._room = ROOM
        served = streams - self.resting
        if self.resting:
            served = next(
                more for more in range(streams, served - 1, -1) if self._fits(demand(self.level, more), more, served)
            )
        level = self.level
        if served == streams and not self.resting:
            level = next(lower for lower in range(level + 1) if self._fits(demand(lower, streams), lower, level))
        if (served, level) == (streams - self.resting, self.level):
            return
        self.resting, self.level = streams - served, level
        self._expected = demand(level, served)
        self.ample = self._expected <= AMPLE
        self._taken_back_s = now_s

    def _fits(self, share: float, what: int, present: int) -> bool:
        return what == present or share <= self._room


def _backlog_grows(looks: list[LoadSample]) -> bool:
    return sum(look.taken for look in looks) < sum(look.arrived for look in looks)


class RoundRobin:
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

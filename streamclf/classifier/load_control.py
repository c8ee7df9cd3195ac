"""Decide how to shed load while the machine cannot keep up, and when to stop. Pure: no clock, no streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

SAMPLE_INTERVAL_S: Final = 0.2
"""Shortest time over which the load is measured; a batch may take longer."""
FULL_LOAD: Final = 0.9
"""Busy share of the time beyond which a classifier cannot work off a backlog."""
TARGET_LOAD: Final = 0.8
"""Largest expected busy share with which the controller shortens hops or resumes streams."""
RESERVE_LOAD: Final = 0.5
"""Expected busy share up to which there is also time to catch up with waiting chunks."""
MIN_TARGET_LOAD: Final = 0.1
TARGET_BACKOFF: Final = 0.7
"""Factor for the target after each restoration that proved to be wrong."""
RELAPSE_S: Final = 30.0
COST_TOLERANCE: Final = 1.25
"""Overload within `RELAPSE_S` of a restoration shows that its expectation was wrong. If the cost has grown by more than
this factor, the load has risen instead."""
TARGET_RESET_S: Final = 60.0
"""After this time without such an error, the target is `TARGET_LOAD` again."""
SAMPLES_TO_LENGTHEN: Final = 2
SAMPLES_TO_PAUSE: Final = 5
"""At least a second: a short delay of the machine must not cost a stream a window that would only have been late."""

Demand = Callable[[int, int], float]
"""(level, streams served) -> the expected busy share of the classifier's time, at present costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """The load over some tenths of a second.

    `busy` is the share of the time at work. `arrived` counts the chunks of the served streams, `read` the chunks that
    were read, and `dropped` the chunks and windows that were dropped.
    """

    busy: float
    arrived: int
    read: int
    dropped: int


class LoadController:
    """Shed load in two steps: first with longer hops, for streams that allow it, then with paused streams.

    `level`: hops are 2^level times as long. `paused`: how many streams are not served at present. Serving some streams
    well is better than serving all of them too late, since a window needs every one of its chunks.

    Hysteresis: the controller sheds load when the classifier is at work all the time and still drops chunks. It
    restores hops and streams when the expected load, at present costs, is at most `TARGET_LOAD`. If that expectation
    was wrong, it lowers the target for a minute. So a constant load soon causes no more changes, and the controller
    reacts to a falling load after one sample.
    """

    def __init__(self) -> None:
        self.level = 0
        self.paused = 0
        self.has_reserve = False
        """Whether the last restoration leaves time to catch up with waiting chunks."""
        self._samples: deque[LoadSample] = deque(maxlen=SAMPLES_TO_PAUSE)
        self._settling = False
        self._target = TARGET_LOAD
        self._expected = 0.0
        self._restored_s = self._relapsed_s = float("-inf")

    def update(self, sample: LoadSample, *, now_s: float, streams: int, max_level: int, demand: Demand) -> bool:
        """Evaluate the next sample; return whether `level` or `paused` has changed.

        All but one of `streams` may be paused; `max_level` is the highest level that any stream allows, 0 for none.
        """
        before = (self.level, self.paused)
        self.level = min(self.level, max_level)
        self.paused = min(self.paused, max(0, streams - 1))
        if self._settling:  # half of this sample was measured before the last change
            self._settling = False
        else:
            self._samples.append(sample)
            self._decide(now_s, streams, max_level, demand)
        if (self.level, self.paused) == before:
            return False
        self._samples.clear()
        self._settling = True
        return True

    def _decide(self, now_s: float, streams: int, max_level: int, demand: Demand) -> None:
        served = streams - self.paused
        needed = demand(self.level, served)
        if self.level < max_level and (last := self._overloaded(SAMPLES_TO_LENGTHEN)):
            if any(sample.dropped for sample in last) or (_backlog_grows(last) and needed > TARGET_LOAD):
                higher = range(self.level + 1, max_level + 1)
                self.level = next((level for level in higher if demand(level, served) <= FULL_LOAD), max_level)
                self._note_relapse(now_s, needed)
        elif self.level == max_level and served > 1 and (last := self._overloaded(SAMPLES_TO_PAUSE)):
            if all(sample.dropped for sample in last) or (_backlog_grows(last) and needed > 1):
                fewer = range(served - 1, 0, -1)
                self.paused = streams - next((count for count in fewer if demand(self.level, count) <= FULL_LOAD), 1)
                self._note_relapse(now_s, needed)
        elif not self._samples[-1].dropped and self._samples[-1].busy < FULL_LOAD:
            self._restore(now_s, streams, demand)

    def _overloaded(self, count: int) -> list[LoadSample]:
        """Return the last `count` samples if the classifier was at work all the time, else an empty list."""
        last = list(self._samples)[-count:]
        return last if len(last) == count and all(sample.busy >= FULL_LOAD for sample in last) else []

    def _note_relapse(self, now_s: float, needed: float) -> None:
        if now_s - self._restored_s < RELAPSE_S and needed <= COST_TOLERANCE * self._expected:
            self._target = max(MIN_TARGET_LOAD, self._target * TARGET_BACKOFF)
            self._relapsed_s = now_s

    def _restore(self, now_s: float, streams: int, demand: Demand) -> None:
        if now_s - self._relapsed_s > TARGET_RESET_S:
            self._target = TARGET_LOAD
        served = streams - self.paused
        if self.paused:
            served = next(
                more for more in range(streams, served - 1, -1) if self._fits(demand(self.level, more), more, served)
            )
        level = self.level
        if served == streams and not self.paused:
            level = next(lower for lower in range(level + 1) if self._fits(demand(lower, streams), lower, level))
        if (served, level) == (streams - self.paused, self.level):
            return
        self.paused, self.level = streams - served, level
        self._expected = demand(level, served)
        self.has_reserve = self._expected <= RESERVE_LOAD
        self._restored_s = now_s

    def _fits(self, share: float, candidate: int, present: int) -> bool:
        return candidate == present or share <= self._target


def _backlog_grows(samples: list[LoadSample]) -> bool:
    return sum(sample.read for sample in samples) < sum(sample.arrived for sample in samples)


class RoundRobin:
    """Choose which streams are paused, so that all are served for the same time.

    The served streams are kept in the order in which their service began, the paused ones in the order of their pauses.
    """

    def __init__(self, period_s: float) -> None:
        """Serve each stream for `period_s`, then pause it for another one."""
        self._period_s = period_s
        self._served: dict[str, float] = {}
        self._paused: dict[str, float] = {}

    @property
    def paused(self) -> frozenset[str]:
        """The streams that are paused now."""
        return frozenset(self._paused)

    def update(self, streams: Sequence[str], count: int, now_s: float) -> None:
        """Pause `count` of `streams`. The longest served stream is paused first, the longest paused resumed first."""
        known = set(streams)
        for part in (self._served, self._paused):
            for gone in part.keys() - known:
                del part[gone]
        for new in streams:
            if new not in self._served and new not in self._paused:
                self._served[new] = now_s
        while len(self._paused) > count:
            self._move(self._paused, self._served, now_s)
        while len(self._paused) < min(count, len(streams)):
            self._move(self._served, self._paused, now_s)
        for _ in range(min(len(self._served), len(self._paused))):
            if now_s - next(iter(self._served.values())) < self._period_s:
                break
            self._move(self._served, self._paused, now_s)
            self._move(self._paused, self._served, now_s)

    @staticmethod
    def _move(source: dict[str, float], target: dict[str, float], now_s: float) -> None:
        name = next(iter(source))
        del source[name]
        target[name] = now_s

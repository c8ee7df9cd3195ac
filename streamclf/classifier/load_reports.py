"""Decide when a classifier reports its load to the supervisor, which deals the streams to several GPUs by it."""

from __future__ import annotations

from typing import Final

from streamclf.runtime.jobs import ClassifierLoad

INTERVAL_S: Final = 5.0
"""Shortest interval between two reports."""
MIN_CHANGE: Final = 0.2
"""A report is due when a value has changed by this share, because costs vary all the time, and during overload."""


class LoadReports:
    """Smooth the costs of single batches, and report the load when it has changed.

    The time of one batch varies by factors, mostly with the number of its chunks. The reported costs are moving
    averages over about ten calls of `due`, two seconds.
    """

    def __init__(self) -> None:
        self._smooth: ClassifierLoad | None = None
        self._reported: ClassifierLoad | None = None
        self._reported_s = float("-inf")

    def due(self, load: ClassifierLoad | None, now_s: float) -> ClassifierLoad | None:
        """Return the load to report at `now_s` (monotonic), or None. `load` is the present one, of the last batch."""
        if load is None:
            return None
        self._smooth = smooth = _average(self._smooth, load)
        if now_s - self._reported_s < INTERVAL_S:
            return None
        if self._reported and not smooth.is_overloaded and not _differs(smooth, self._reported):
            return None
        self._reported, self._reported_s = smooth, now_s
        return smooth


def _average(before: ClassifierLoad | None, load: ClassifierLoad, weight: float = 0.1) -> ClassifierLoad:
    if before is None:
        return load

    def mean(old: float, new: float) -> float:
        return (1 - weight) * old + weight * new

    return ClassifierLoad(
        chunk_s=mean(before.chunk_s, load.chunk_s),
        window_s={model: mean(before.window_s.get(model, cost), cost) for model, cost in load.window_s.items()},
        busy=mean(before.busy, load.busy),
        is_overloaded=load.is_overloaded,
    )


def _differs(new: ClassifierLoad, old: ClassifierLoad) -> bool:
    if new.is_overloaded != old.is_overloaded or new.window_s.keys() != old.window_s.keys():
        return True
    pairs = [(new.chunk_s, old.chunk_s), (new.busy, old.busy)]
    pairs += [(cost, old.window_s[model]) for model, cost in new.window_s.items()]
    return any(abs(a - b) > MIN_CHANGE * b for a, b in pairs)

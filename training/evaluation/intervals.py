"""Compute exact 95 % intervals of a share (Clopper and Pearson 1934) and of a count (Garwood 1936)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from engines.arrays import F64

_TAIL: Final = 0.025
_STEPS: Final = 60


def share_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share after `hits` in `trials`; (0, 1) without a trial."""
    logs = _log_factorials(trials)

    def at_most(limit: int, share: float) -> float:
        k = np.arange(limit + 1)
        ways = logs[trials] - logs[k] - logs[trials - k]
        return float(np.exp(ways + k * math.log(share) + (trials - k) * math.log1p(-share)).sum())

    low = 0.0 if hits == 0 else _root(lambda share: 1 - at_most(hits - 1, share) - _TAIL, 1.0)
    high = 1.0 if hits == trials else _root(lambda share: _TAIL - at_most(hits, share), 1.0)
    return low, high


def count_interval(count: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of a Poisson distribution after one observation, `count`."""
    logs = _log_factorials(count)

    def at_most(limit: int, mean: float) -> float:
        k = np.arange(limit + 1)
        return float(np.exp(k * math.log(mean) - mean - logs[k]).sum())

    most = count + 10 * math.sqrt(count) + 10
    low = 0.0 if count == 0 else _root(lambda mean: 1 - at_most(count - 1, mean) - _TAIL, most)
    return low, _root(lambda mean: _TAIL - at_most(count, mean), most)


def _root(rising: Callable[[float], float], high: float) -> float:
    """Return the root of a rising function between 0 and `high`, by bisection."""
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _log_factorials(count: int) -> F64:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])

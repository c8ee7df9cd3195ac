"""Time calls: clock and processor time of one call over several rounds, and percentiles of samples."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from engines.protocol import Engine

ROUNDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCost:
    """The cost of one call: medians over the rounds, in seconds of the clock and of processor time (all threads).

    A spread is (highest - lowest) / median of the rounds.
    """

    wall_s: float
    cpu_s: float
    wall_spread: float
    cpu_spread: float


def time_calls(
    call: Callable[[], None],
    *,
    finish: Callable[[], None] | None = None,
    seconds: float,
    rounds: int = ROUNDS,
) -> CallCost:
    """Repeat `call` for about `seconds` in each of `rounds` rounds and return the cost of one call.

    The first call warms up and is not counted. An encode may still be running when its call returns. `finish` waits for
    it: it ends each round, and the time of one `finish` is subtracted again.
    """
    finish_s = 0.0
    call()
    if finish is not None and finish is not call:
        finish()
        began = time.perf_counter()
        finish()
        finish_s = time.perf_counter() - began
    walls, cpus = [], []
    for _ in range(rounds):
        count, began, cpu_began = 0, time.perf_counter(), time.process_time()
        while not count or time.perf_counter() - began < seconds:
            call()
            count += 1
        cpus.append((time.process_time() - cpu_began) / count)
        if finish is not None and finish is not call:
            finish()
        walls.append(max(1e-9, time.perf_counter() - began - finish_s) / count)
    wall_s, cpu_s = statistics.median(walls), statistics.median(cpus)
    return CallCost(wall_s=wall_s, cpu_s=cpu_s, wall_spread=_spread(walls), cpu_spread=_spread(cpus))


def _spread(values: list[float]) -> float:
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle > 0 else 0.0


def batch_sizes(max_batch: int) -> list[int]:
    """Return the powers of two below `max_batch`, and `max_batch` itself: 6 gives [1, 2, 4, 6]."""
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes if max_batch == 1 else [*sizes, max_batch]


def engine_calls(engine: Engine, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return (encode, classify): functions that process `batch` chunks and `batch` windows of random pixels."""
    spec = engine.spec
    frames = np.random.default_rng(0).integers(0, 256, (batch, *spec.chunk_shape), np.uint8)
    slots = np.arange(batch, dtype=np.int32)
    windows = np.random.default_rng(1).integers(0, batch, (batch, spec.chunks)).astype(np.int32)

    def encode() -> None:
        engine.encode(frames, slots)

    def classify() -> None:
        engine.classify(windows)

    return encode, classify


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Return the smallest value that at least `percent` % of all values do not exceed; None if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

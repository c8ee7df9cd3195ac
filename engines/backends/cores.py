"""How many cores there are, and how many a graph is worth by how long it takes: for engines on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from engines.bundle import ModelSpec

MANY_STREAMS: Final = 4
"""From so many streams on batches are large enough that a core for each part of one gains more than all on one."""
MIN_WORK_S: Final = 0.008
"""Another core is not worth waking for less work than this: its caches are cold, and the first one waits for it. Two
cores take half as much processor time again for a batch of 2 ms as one does, and save no time at all."""
MAX_ROUND_S: Final = 0.02
"""One core computes an item of each stream in this time, or more are wanted."""
MEASURE_S: Final = 0.05
"""Time after which a measurement is believed."""
ROUNDS: Final = 3


def usable_cores() -> int:
    """Cores that this process may use: a container's share, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blank_input(spec: ModelSpec, part: str) -> npt.NDArray[Any]:
    """A batch of one for the graph `encoder`, (1, t, H, W, 3) uint8, or `head`, (1, T, *F) float32."""
    if part == "encoder":
        return np.zeros((1, *spec.chunk_shape), np.uint8)
    return np.zeros((1, spec.chunks, *spec.feature_shape), np.float32)


def measure_call_s(compute: Callable[[], object]) -> float:
    """What `compute` takes: the shortest of a few times, of which the first, that allocates, is none."""
    compute()
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MEASURE_S:
        began = time.perf_counter()
        compute()
        times.append(time.perf_counter() - began)
    return min(times)


def needs_more_cores(item_s: float, *, streams: int, max_batch: int) -> bool:
    """Whether one core is too few for a graph that takes it `item_s` for a batch of one."""
    if streams < MANY_STREAMS:
        return item_s > MIN_WORK_S
    return item_s * min(streams, max_batch) > MAX_ROUND_S

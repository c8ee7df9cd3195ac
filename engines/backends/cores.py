"""Decide how many CPU cores a graph gets, by how long one core takes for it."""

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
"""With at least this many streams, batches are so large that one core for each part of a batch is faster than all
cores together on the whole batch."""
MIN_WORK_S: Final = 0.008
"""Do not wake another core for less work than this: its caches are cold, and the first core waits for it.
For a batch of 2 ms, two cores take one and a half times the processor time of one core and save no time."""
MAX_ROUND_S: Final = 0.02
"""If one core takes longer than this for one item of each stream, the graph gets more cores."""
MEASURE_S: Final = 0.05
"""Stop measuring after this total time."""
ROUNDS: Final = 3


def usable_cores() -> int:
    """Count the cores that this process may use: a container's share, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blank_input(spec: ModelSpec, graph: str) -> npt.NDArray[Any]:
    """Make a batch of one for the graph `encoder`, (1, t, H, W, 3) uint8, or `head`, (1, T, *F) float32."""
    if graph == "encoder":
        return np.zeros((1, *spec.chunk_shape), np.uint8)
    return np.zeros((1, spec.chunks, *spec.feature_shape), np.float32)


def measure_call_s(compute: Callable[[], object]) -> float:
    """Return how long the shortest of a few calls takes in seconds; the first call, which allocates, does not count.

    A call counts with its duration or its processor time, whichever is less. On a busy machine, such as one on which a
    service starts, the duration is too long: a graph of 0.1 ms took 10 ms and more.
    """
    compute()
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MEASURE_S:
        began, began_cpu = time.perf_counter(), time.process_time()
        compute()
        times.append(min(time.perf_counter() - began, time.process_time() - began_cpu))
    return min(times)


def needs_more_cores(item_s: float, *, streams: int, max_batch: int) -> bool:
    """Tell whether one core is too slow for a graph, if it takes `item_s` for a batch of one."""
    if streams < MANY_STREAMS:
        return item_s > MIN_WORK_S
    return item_s * min(streams, max_batch) > MAX_ROUND_S

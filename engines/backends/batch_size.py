"""Choose the size at which a batch is computed, for a library that prepares its graph again when the size changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ROUNDS: Final = 3
SEVERAL: Final = 4
"""Items in the batch that is compared with a batch of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """Additional processor time in seconds.

    `item_s`: of each item more in a batch. `change_s`: of a batch whose size differs from the last one.
    """

    item_s: float
    change_s: float


FREE_CHANGE: Final = BatchCost(item_s=1.0, change_s=0.0)
"""The cost of a graph that was not measured: no batch is filled up."""


class BatchSizes:
    """Keep the last size, and fill a smaller batch up to it, while that costs less than a change of the size.

    A worked example. One more frame costs MobileNetV3-small 0.27 ms, and a change of the size 1.5 ms. Batches of 3, 2
    and 3 frames are all computed as 3. After 3, a batch of 1 is computed as 3 as well. If more such batches follow,
    the size becomes 1 as soon as they have wasted 1.5 ms together.
    """

    def __init__(self, cost: BatchCost = FREE_CHANGE) -> None:
        self._cost = cost
        self._size = self._largest = 0
        self._wasted_s = 0.0

    def choose(self, count: int) -> int:
        """Return the size, at least `count`, at which to compute a batch of `count` items."""
        excess_s = (self._size - count) * self._cost.item_s
        if not 0 <= excess_s <= self._cost.change_s:
            self._begin(count)
            return count
        self._largest = max(self._largest, count)
        self._wasted_s += excess_s
        if self._wasted_s > self._cost.change_s:
            self._begin(self._largest)
        return self._size

    def _begin(self, size: int) -> None:
        self._size, self._largest, self._wasted_s = size, 0, 0.0


def measure_batch_cost(compute: Callable[[int], object]) -> BatchCost:
    """Measure the cost of a batch; `compute` takes a size and computes a batch of this size."""

    def took_s(*sizes: int) -> float:
        """Return the processor time in seconds of computing these sizes in turn, the least of `ROUNDS`."""
        for size in sizes:
            compute(size)
        times = []
        for _ in range(ROUNDS):
            began = time.process_time()
            for size in sizes:
                compute(size)
            times.append(time.process_time() - began)
        return min(times)

    one_s, several_s = took_s(1), took_s(SEVERAL)
    change_s = (took_s(1, SEVERAL) - one_s - several_s) / 2
    return BatchCost(item_s=max(1e-6, (several_s - one_s) / (SEVERAL - 1)), change_s=max(0.0, change_s))

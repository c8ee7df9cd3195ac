"""What the machine cannot do without: decoding, encoding and classifying, each alone in a tight loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engines.protocol import Engine

if TYPE_CHECKING:  # a machine that only measures a GPU has no need of what these import
    pass

ROUNDS: Final = 5
ROUND_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCost:
    """Of one call, over several rounds: median seconds of the clock and of processor time, and their spread."""

    wall_s: float
    cpu_s: float
    wall_spread: float
    cpu_spread: float


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    sizes = [1]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return sizes if most == 1 else [*sizes, most]


def engine_calls(engine: Engine, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(encode, classify) of `batch` chunks and as many windows, on random pixels."""
    spec = engine.spec
    frames = np.random.default_rng(0).integers(0, 256, (batch, *spec.chunk_shape), np.uint8)
    slots = np.arange(batch, dtype=np.int32)
    windows = np.random.default_rng(1).integers(0, batch, (batch, spec.chunks)).astype(np.int32)

    def encode() -> None:
        engine.encode(frames, slots)

    def classify() -> None:
        engine.classify(windows)

    return encode, classify


def measure(
    call: Callable[[], None],
    *,
    finish: Callable[[], None] | None = None,
    seconds: float,
    rounds: int = ROUNDS,
) -> CallCost:
    """Of one `call`, of many in a row, after one that is not counted.

    An encode may still be under way when its call returns: `finish`, which waits for it, ends each round, and one of it
    is taken off again.
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

"""How fast an engine is on this machine, right now: full batches, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from engines.protocol import Engine

MIN_ROUNDS = 3

Work: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Of full batches; other load on the machine shows in it."""

    batch: int
    encodes_per_s: float
    windows_per_s: float


def measure_speed(engine: Engine, *, seconds: float = 0.6) -> Speed:
    """Encode and classify random frames for about `seconds`. The bank's first slots are overwritten."""
    batch, spec = engine.max_batch, engine.spec
    frames = np.random.default_rng(0).integers(0, 256, (batch, *spec.chunk_shape), np.uint8)
    slots = np.arange(batch, dtype=np.int32)
    windows = np.zeros((batch, spec.chunks), np.int32)
    engine.encode(frames, slots)
    engine.classify(windows)  # both once, so that nothing is measured that happens once

    def encode() -> None:
        engine.encode(frames, slots)

    def classify() -> None:
        engine.classify(windows)

    classify_s = _per_call(classify, seconds / 2, lambda: None)
    # An encode may still be under way when its call returns; a classify waits for it, and is taken off again.
    encode_s = _per_call(encode, seconds / 2, classify, extra_s=classify_s)
    return Speed(batch=batch, encodes_per_s=batch / encode_s, windows_per_s=batch / classify_s)


def _per_call(call: Work, seconds: float, finish: Work, *, extra_s: float = 0.0) -> float:
    rounds, began = 0, time.perf_counter()
    while rounds < MIN_ROUNDS or time.perf_counter() - began < seconds:
        call()
        rounds += 1
    finish()
    return max(time.perf_counter() - began - extra_s, 1e-9) / rounds

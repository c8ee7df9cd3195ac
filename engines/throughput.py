"""Measure how fast an engine is on this machine at present, with full batches only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from engines.protocol import Engine

MIN_ROUNDS = 3

Call: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of full batches; other load on the machine lowers it."""

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
    engine.classify(windows)  # once before the measurement, so that work at the first call does not count

    def encode() -> None:
        engine.encode(frames, slots)

    def classify() -> None:
        engine.classify(windows)

    classify_s = _per_call(classify, seconds / 2, lambda: None)
    # An encode may still run when its call returns. A classify waits for it; its own time is subtracted.
    encode_s = _per_call(encode, seconds / 2, classify, extra_s=classify_s)
    return Speed(batch=batch, encodes_per_s=batch / encode_s, windows_per_s=batch / classify_s)


def _per_call(call: Call, seconds: float, finish: Call, *, extra_s: float = 0.0) -> float:
    rounds, began = 0, time.perf_counter()
    while rounds < MIN_ROUNDS or time.perf_counter() - began < seconds:
        call()
        rounds += 1
    finish()
    return max(time.perf_counter() - began - extra_s, 1e-9) / rounds

"""The gate that every engine passes before it runs: golden clip in, PyTorch's probabilities out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import F32
from engines.bundle import Golden
from engines.errors import BundleError, ParityError

if TYPE_CHECKING:
    from engines.protocol import Engine


TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-2, "int8": 5e-2}
"""Largest allowed difference of any probability, by precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far the engine is from PyTorch on the golden clip."""

    max_dp: float
    """NaN where the engine's probabilities are not finite."""
    actual: str
    """The label of the engine's largest probability."""
    expected: str
    """PyTorch's."""

    def within(self, limit: float) -> bool:
        """Same top-1 and no probability further off than `limit`."""
        return self.actual == self.expected and self.max_dp <= limit  # NaN is not


def softmax(logits: F32) -> F32:
    """(..., K) logits -> (..., K) float32 probabilities; the array is new."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: F32 = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def compare(engine: Engine, golden: Golden) -> ParityReport:
    """Classify the golden clip in the bank's first T slots. Raises `BundleError` where the labels do not match."""
    actual, expected = _classify(engine, golden), softmax(golden.logits)
    if actual.shape != expected.shape:
        raise BundleError(
            f"{engine.spec.id}: its head gives {len(actual)} logits, its spec has {len(expected)} labels; "
            "export the bundle again"
        )
    return ParityReport(
        max_dp=float(np.abs(actual - expected).max()),
        actual=engine.spec.labels[int(actual.argmax())],
        expected=engine.spec.labels[int(expected.argmax())],
    )


def check_parity(engine: Engine, golden: Golden) -> ParityReport:
    """`compare`, and raise `ParityError` with the figures if the engine is off."""
    report = compare(engine, golden)
    limit = TOLERANCE[engine.precision]
    if not report.within(limit):
        advice = "use fp32, or export the bundle again" if engine.precision != "fp32" else "export the bundle again"
        raise ParityError(
            f"{engine.spec.id} on {engine.description}: golden clip gives {report.actual}, PyTorch {report.expected}; "
            f"max |dp| {report.max_dp:.2e}, allowed {limit:.0e}: {advice}",
            precision=engine.precision,
        )
    return report


def _classify(engine: Engine, golden: Golden) -> F32:
    chunks = engine.spec.chunks
    slots = np.arange(chunks, dtype=np.int32)
    for begin in range(0, chunks, engine.max_batch):
        part = slice(begin, begin + engine.max_batch)
        engine.encode(golden.frames[part], slots[part])
    probabilities: F32 = engine.classify(slots[None])[0]
    return probabilities

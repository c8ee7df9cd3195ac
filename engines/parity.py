"""The gate that every engine passes before it runs: golden clip in, PyTorch's probabilities out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engines.bundle import Golden
from engines.errors import BundleError, ParityError

if TYPE_CHECKING:
    from engines.engine import Engine

F32 = npt.NDArray[np.float32]

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-2, "int8": 5e-2}
"""Largest allowed difference of any probability, by precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far the engine is from PyTorch on the golden clip."""

    max_dp: float
    top1_equal: bool


def softmax(logits: F32) -> F32:
    """(..., K) logits -> (..., K) float32 probabilities; the array is new."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: F32 = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def check_parity(engine: Engine, golden: Golden) -> ParityReport:
    """Classify the golden clip in the bank's first T slots; raise `ParityError` with the figures if it is off."""
    tokens = engine.spec.tokens
    slots = np.arange(tokens, dtype=np.int32)
    for begin in range(0, tokens, engine.max_batch):
        part = slice(begin, begin + engine.max_batch)
        engine.encode(golden.frames[part], slots[part])
    actual = engine.classify(slots[None])[0]
    expected = softmax(golden.logits)
    if actual.shape != expected.shape:
        raise BundleError(
            f"{engine.spec.id}: its head gives {len(actual)} logits, its spec has {len(expected)} labels; "
            "export the bundle again"
        )
    report = ParityReport(
        max_dp=float(np.abs(actual - expected).max()),
        top1_equal=bool(actual.argmax() == expected.argmax()),
    )
    limit = TOLERANCE[engine.precision]
    if not report.top1_equal or not report.max_dp <= limit:  # NaN fails too
        raise ParityError(
            f"{engine.spec.id} on {engine.description}: golden clip gives "
            f"{engine.spec.labels[int(actual.argmax())]}, PyTorch {engine.spec.labels[int(expected.argmax())]}; "
            f"max |dp| {report.max_dp:.2e}, allowed {limit:.0e}: use a higher precision or export the bundle again"
        )
    return report

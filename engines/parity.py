"""Compare an engine with PyTorch on the golden clip; every engine must pass this check before it serves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.activation import activate, present_labels
from engines.arrays import F32
from engines.bundle import Golden, ModelSpec
from engines.errors import BundleError, ParityError

if TYPE_CHECKING:
    from engines.protocol import Engine


TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-2, "int8": 5e-2}
"""Largest allowed difference of any probability, by precision."""
LABEL_MARGIN = 0.2
"""Share of that difference by which PyTorch's probability has to be away from an independent label's threshold, so that
the engine must give the same answer for this label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The difference between the engine and PyTorch on the golden clip."""

    max_dp: float
    """Largest difference of any probability; NaN if the engine's probabilities are not finite."""
    actual: str
    """The label of the engine's largest probability; of independent labels, those that are present, joined by " + "."""
    expected: str
    """The same for PyTorch's probabilities. Labels that are too close to their thresholds are left out of both."""

    def within(self, limit: float) -> bool:
        """Tell whether the labels agree and no probability differs by more than `limit`."""
        return self.actual == self.expected and self.max_dp <= limit  # False for NaN


def compare_with_golden(engine: Engine, golden: Golden) -> ParityReport:
    """Classify the golden clip, in the bank's first T slots, and compare the result with PyTorch's.

    Raises `BundleError` if the head gives another number of logits than the spec has labels.
    """
    spec = engine.spec
    actual, expected = _classify(engine, golden), activate(spec, golden.logits)
    if actual.shape != expected.shape:
        raise BundleError(
            f"{spec.id}: its head gives {len(actual)} logits, its spec has {len(expected)} labels; "
            "export the bundle again"
        )
    compared: Iterable[int] = range(len(spec.labels))
    if spec.activation == "sigmoid":
        margin = LABEL_MARGIN * TOLERANCE[engine.precision]
        compared = np.flatnonzero(np.abs(expected - spec.label_thresholds) > margin).tolist()
    return ParityReport(
        max_dp=float(np.abs(actual - expected).max()),
        actual=_name_labels(spec, actual, compared),
        expected=_name_labels(spec, expected, compared),
    )


def check_parity(engine: Engine, golden: Golden) -> ParityReport:
    """Compare as `compare_with_golden` does; raise `ParityError` with the figures if the tolerance is exceeded."""
    report = compare_with_golden(engine, golden)
    limit = TOLERANCE[engine.precision]
    if not report.within(limit):
        advice = "use fp32, or export the bundle again" if engine.precision != "fp32" else "export the bundle again"
        raise ParityError(
            f"{engine.spec.id} on {engine.description}: golden clip gives {report.actual}, PyTorch {report.expected}; "
            f"max |dp| {report.max_dp:.2e}, allowed {limit:.0e}: {advice}",
            precision=engine.precision,
        )
    return report


def _name_labels(spec: ModelSpec, probabilities: F32, compared: Iterable[int]) -> str:
    """Name the labels that are present, in the order of the spec."""
    present = set(present_labels(spec, probabilities)).intersection(compared)
    return " + ".join(spec.labels[index] for index in sorted(present)) or "no label"


def _classify(engine: Engine, golden: Golden) -> F32:
    chunks = engine.spec.chunks
    slots = np.arange(chunks, dtype=np.int32)
    for begin in range(0, chunks, engine.max_batch):
        part = slice(begin, begin + engine.max_batch)
        engine.encode(golden.frames[part], slots[part])
    probabilities: F32 = engine.classify(slots[None])[0]
    return probabilities

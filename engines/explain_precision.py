"""Which of a bundle's two graphs a reduced precision breaks, measured on the backend itself.

`engines.graphs.explain` names layers, by simulating what TensorRT is given. OpenVINO lowers what it likes (its BF16
convolutions, for one, are none that ONNX's opset 17 could say) and cannot be told of single layers reliably: 2026.4
fails with "node is not initialized" on some choices. So there a graph is the smallest part that stays in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.backends.names import Precision
from engines.bundle import Bundle
from engines.opening import open_unverified
from engines.parity import TOLERANCE, ParityReport, compare
from engines.protocol import FP32_TRIAL_ORDER, EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPrecisionReport:
    """How far off the golden clip is, by the graph that stays in fp32 (None: both are lowered)."""

    precision: str
    reports: Mapping[str | None, ParityReport]

    @property
    def fp32_graphs(self) -> tuple[str, ...]:
        """What `auto` keeps in fp32: nothing, one graph, or both where neither is enough."""
        limit = TOLERANCE[self.precision]
        for part, report in self.reports.items():
            if report.within(limit):
                return () if part is None else (part,)
        return FP32_TRIAL_ORDER


def explain_by_graph(bundle: Bundle, backend: str, precision: Precision) -> GraphPrecisionReport:
    """Open `bundle` lowered as a whole, then with each of its graphs in fp32, in the order in which `auto` tries it.

    Raises what `open_engine` raises, except `ParityError`.
    """
    reports: dict[str | None, ParityReport] = {}
    golden = bundle.golden()
    for part in (None, *FP32_TRIAL_ORDER):
        options = EngineOptions(
            precision=precision,
            max_batch=bundle.spec.chunks,
            bank_slots=bundle.spec.chunks,
            threads=0,
            fp32_graph=part,
        )
        engine = open_unverified(bundle, backend, options)
        try:
            reports[part] = compare(engine, golden)
        finally:
            engine.close()
    return GraphPrecisionReport(precision=precision, reports=reports)

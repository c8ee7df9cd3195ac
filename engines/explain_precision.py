"""Find which of a bundle's two graphs a reduced precision breaks, by measuring on the backend itself.

`engines.graphs.explain` finds layers, because it simulates the graph that TensorRT gets. OpenVINO itself chooses which
operators it lowers: ONNX's opset 17 cannot express its BF16 convolutions, for example. Nor has it a
reliable way to keep single layers in fp32: 2026.4 fails with "node is not initialized" for some choices. So for
OpenVINO a whole graph is the smallest part that stays in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.backends.names import Precision
from engines.bundle import Bundle
from engines.opening import open_unverified
from engines.parity import TOLERANCE, ParityReport, compare_with_golden
from engines.protocol import FP32_TRIAL_ORDER, EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPrecisionReport:
    """The error on the golden clip for each choice of the graph in fp32; the key None means both graphs lowered."""

    precision: str
    reports: Mapping[str | None, ParityReport]

    @property
    def fp32_graphs(self) -> tuple[str, ...]:
        """List the graphs that `auto` keeps in fp32: none, one, or both if neither alone is enough."""
        limit = TOLERANCE[self.precision]
        for graph, report in self.reports.items():
            if report.within(limit):
                return () if graph is None else (graph,)
        return FP32_TRIAL_ORDER


def explain_by_graph(bundle: Bundle, backend: str, precision: Precision) -> GraphPrecisionReport:
    """Measure the error with both graphs lowered, then with each graph in fp32, in the order that `auto` tries.

    Raises what `open_engine` raises, except `ParityError`.
    """
    reports: dict[str | None, ParityReport] = {}
    golden = bundle.golden()
    for graph in (None, *FP32_TRIAL_ORDER):
        options = EngineOptions(
            precision=precision,
            max_batch=bundle.spec.chunks,
            bank_slots=bundle.spec.chunks,
            threads=0,
            fp32_graph=graph,
        )
        engine = open_unverified(bundle, backend, options)
        try:
            reports[graph] = compare_with_golden(engine, golden)
        finally:
            engine.close()
    return GraphPrecisionReport(precision=precision, reports=reports)

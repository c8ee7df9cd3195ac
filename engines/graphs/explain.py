"""Find the layers that break a model in FP16 or BF16, by bisection over a simulation on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from engines.activation import activate
from engines.bundle import GRAPH_NAMES, Bundle
from engines.errors import ParityError
from engines.graphs.fp32_layers import Fp32Layers
from engines.graphs.lower import LARGEST, lowerable_nodes, simulate_lowering
from engines.graphs.surgery import Model, parse_model
from engines.parity import TOLERANCE

MAX_FP32_SHARE: Final = 0.25
"""A model gains nothing from lowering if more than this share of its layers must stay in FP32."""

Layer = tuple[str, str]
"""(graph, node)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitiveLayer:
    """A layer that must stay in FP32, because lowering it breaks the model."""

    graph: str
    node: str
    operator: str
    largest: float
    """Its largest output on the golden clip in FP32."""
    limit: float

    def describe(self) -> str:
        """Describe the layer and its largest output for the report."""
        over = f", more than the largest number of the precision, {self.limit:.0f}" if self.largest > self.limit else ""
        return f"{self.graph} {self.node} ({self.operator}): outputs up to {self.largest:.4g}{over}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrecisionReport:
    """The error that lowering causes on the golden clip, and the layers that must stay in FP32 to avoid it."""

    precision: str
    max_dp_before: float
    """The error with all layers lowered; NaN if the output is not finite."""
    max_dp_after: float
    layers: int
    sensitive_layers: tuple[SensitiveLayer, ...]

    @property
    def fp32_layers(self) -> Fp32Layers:
        """Return the names of the layers that must stay in FP32, by graph."""
        return {
            graph: tuple(item.node for item in self.sensitive_layers if item.graph == graph) for graph in GRAPH_NAMES
        }


def explain_by_layer(
    bundle: Bundle, precision: str, *, on_progress: Callable[[str], None] = lambda _: None
) -> LayerPrecisionReport:
    """Lower the bundle in simulation and find the layers that push its golden clip over the tolerance.

    `on_progress` is called with a text for each layer found. Raises `ParityError` if more than a quarter of the layers
    would have to stay in fp32.
    """
    simulation = _LoweringSimulation(bundle, precision)
    layers = simulation.layers()
    before = simulation.max_dp(layers)
    fp32: list[Layer] = []
    while simulation.breaks(lowered := [layer for layer in layers if layer not in fp32]):
        if len(fp32) >= max(1, MAX_FP32_SHARE * len(layers)):
            raise ParityError(
                f"{bundle.spec.id}: fails in {precision} (max |dp| {before:.2g}, allowed "
                f"{TOLERANCE[precision]:.0e}) even with {len(fp32)} of {len(layers)} layers in fp32; use fp32 or bf16"
            )
        fp32.append(find_first_harmful(lowered, simulation.breaks))
        on_progress(f"{fp32[-1][0]} {fp32[-1][1]} must stay in fp32")
    after = simulation.max_dp([layer for layer in layers if layer not in fp32])
    return LayerPrecisionReport(
        precision=precision,
        max_dp_before=before,
        max_dp_after=after,
        layers=len(layers),
        sensitive_layers=tuple(simulation.measure_layer(layer) for layer in fp32),
    )


def find_first_harmful(layers: Sequence[Layer], breaks: Callable[[Sequence[Layer]], bool]) -> Layer:
    """Find the first layer that breaks the model when it and all layers before it are lowered.

    Lowering all of `layers` must break it. `breaks` is called about log2(len(layers)) times. Example: if the 3rd of 8
    layers overflows, it is called with the first 4, 2 and 3 layers.
    """
    harmless, harmful = 0, len(layers)
    while harmful - harmless > 1:
        middle = (harmless + harmful) // 2
        if breaks(layers[:middle]):
            harmful = middle
        else:
            harmless = middle
    return layers[harmful - 1]


class _LoweringSimulation:
    """Run the golden clip through both graphs with any set of layers lowered in simulation."""

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self._precision = precision
        self._data = {graph: path.read_bytes() for graph, path in zip(GRAPH_NAMES, bundle.graphs("fp32"), strict=True)}
        golden = bundle.golden()
        self._spec, self._frames = bundle.spec, golden.frames
        self._expected = activate(self._spec, golden.logits)
        self._features: dict[frozenset[str], Any] = {}
        """The encoder's outputs by its lowered layers: most runs of the head start from the same output."""

    def layers(self) -> list[Layer]:
        """List all layers that can be lowered, in the order in which they are computed."""
        return [(graph, node) for graph in GRAPH_NAMES for node in lowerable_nodes(self._model(graph), self._precision)]

    def max_dp(self, lowered: Collection[Layer]) -> float:
        """Return the largest difference of any probability; NaN if the output is not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            actual = activate(self._spec, self._logits(lowered))
            return float(np.abs(actual - self._expected).max())

    def breaks(self, lowered: Collection[Layer]) -> bool:
        """Tell whether an engine with these layers lowered would fail the golden clip."""
        return not self.max_dp(lowered) <= TOLERANCE[self._precision]

    def measure_layer(self, layer: Layer) -> SensitiveLayer:
        """Compute the layer's largest output on the golden clip in FP32."""
        graph, name = layer
        model = self._model(graph)
        node = next(item for item in model.graph.node if item.name == name)
        del model.graph.output[:]
        model.graph.output.add().name = node.output[0]
        inputs = {"frames": self._frames} if graph == "encoder" else {"features": self._encoded(frozenset())[None]}
        (values,) = _session(model).run(None, inputs)
        return SensitiveLayer(
            graph=graph,
            node=name,
            operator=node.op_type,
            largest=float(np.abs(values).max()),
            limit=LARGEST[self._precision],
        )

    def _logits(self, lowered: Collection[Layer]) -> Any:
        by_graph = {graph: [name for where, name in lowered if where == graph] for graph in GRAPH_NAMES}
        features = self._encoded(frozenset(by_graph["encoder"]))
        return self._run("head", {"features": features[None]}, by_graph["head"])[0]

    def _encoded(self, lowered: frozenset[str]) -> Any:
        if lowered not in self._features:
            self._features[lowered] = self._run("encoder", {"frames": self._frames}, lowered)
        return self._features[lowered]

    def _run(self, graph: str, inputs: dict[str, Any], lowered: Collection[str]) -> Any:
        model = self._model(graph)
        simulate_lowering(model, self._precision, lowered)
        return _session(model).run(None, inputs)[0]

    def _model(self, graph: str) -> Model:
        return parse_model(self._data[graph], f"{graph}.onnx")


def _session(model: Model) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    # Optimisation would remove the rounding.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

"""Which layers make a model collapse in FP16 or BF16: simulated on the CPU, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from engines.bundle import GRAPH_NAMES, Bundle
from engines.errors import ParityError
from engines.graphs.fp32_layers import Fp32Layers
from engines.graphs.lower import LARGEST, lowerable_nodes, simulate_lowering
from engines.graphs.surgery import Model, parse_model
from engines.parity import TOLERANCE, softmax

MAX_KEPT_SHARE: Final = 0.25
"""A model of which more must stay in FP32 gains nothing from being lowered."""

Layer = tuple[str, str]
"""(part, node)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitiveLayer:
    """A layer without which the model would not collapse."""

    part: str
    node: str
    operator: str
    largest: float
    """Its largest output on the golden clip in FP32."""
    limit: float

    def describe(self) -> str:
        """In words."""
        over = f", over the largest number there is, {self.limit:.0f}" if self.largest > self.limit else ""
        return f"{self.part} {self.node} ({self.operator}): outputs up to {self.largest:.4g}{over}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrecisionReport:
    """What lowering does to a bundle's golden clip, and what it takes to make it harmless."""

    precision: str
    max_dp_before: float
    """With everything lowered; NaN where the output is not finite."""
    max_dp_after: float
    layers: int
    sensitive_layers: tuple[SensitiveLayer, ...]

    @property
    def fp32_layers(self) -> Fp32Layers:
        """The layers that must stay in FP32, by part."""
        return {part: tuple(item.node for item in self.sensitive_layers if item.part == part) for part in GRAPH_NAMES}


def explain_by_layer(
    bundle: Bundle, precision: str, *, on_progress: Callable[[str], None] = lambda _: None
) -> LayerPrecisionReport:
    """Lower the bundle in simulation and name the layers that take its golden clip over the tolerance.

    `on_progress` hears of progress. Raises `ParityError` where more than a quarter of the layers would have to stay.
    """
    trial = _LoweringTrial(bundle, precision)
    layers = trial.layers()
    before = trial.max_dp(layers)
    kept: list[Layer] = []
    while trial.collapses(lowered := [layer for layer in layers if layer not in kept]):
        if len(kept) >= max(1, MAX_KEPT_SHARE * len(layers)):
            raise ParityError(
                f"{bundle.spec.id}: collapses in {precision} (max |dp| {before:.2g}, allowed "
                f"{TOLERANCE[precision]:.0e}) even with {len(kept)} of {len(layers)} layers in fp32; use fp32 or bf16"
            )
        kept.append(find_first_harmful(lowered, trial.collapses))
        on_progress(f"{kept[-1][0]} {kept[-1][1]} must stay in fp32")
    after = trial.max_dp([layer for layer in layers if layer not in kept])
    return LayerPrecisionReport(
        precision=precision,
        max_dp_before=before,
        max_dp_after=after,
        layers=len(layers),
        sensitive_layers=tuple(trial.measure_layer(layer) for layer in kept),
    )


def find_first_harmful(layers: Sequence[Layer], collapses: Callable[[Sequence[Layer]], bool]) -> Layer:
    """The first layer such that lowering it and all before it collapses; lowering all of `layers` does.

    About log2(len(layers)) trials. Example: of 8 layers the 3rd overflows: trials of the first 4, 2 and 3.
    """
    harmless, harmful = 0, len(layers)
    while harmful - harmless > 1:
        middle = (harmless + harmful) // 2
        if collapses(layers[:middle]):
            harmful = middle
        else:
            harmless = middle
    return layers[harmful - 1]


class _LoweringTrial:
    """The bundle's golden clip through both graphs, with any set of layers lowered in simulation."""

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self._precision = precision
        self._data = {part: path.read_bytes() for part, path in zip(GRAPH_NAMES, bundle.graphs("fp32"), strict=True)}
        golden = bundle.golden()
        self._frames, self._expected = golden.frames, softmax(golden.logits)
        self._features: dict[frozenset[str], Any] = {}
        """The encoder's output by what was lowered in it: most trials of the head begin with the same."""

    def layers(self) -> list[Layer]:
        """Everything that can be lowered, in the order in which it is computed."""
        return [(part, node) for part in GRAPH_NAMES for node in lowerable_nodes(self._model(part), self._precision)]

    def max_dp(self, lowered: Collection[Layer]) -> float:
        """Largest difference of any probability; NaN where the output is not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            actual = softmax(self._logits(lowered))
            return float(np.abs(actual - self._expected).max())

    def collapses(self, lowered: Collection[Layer]) -> bool:
        """Whether the engine would be refused."""
        return not self.max_dp(lowered) <= TOLERANCE[self._precision]

    def measure_layer(self, layer: Layer) -> SensitiveLayer:
        """How large the layer's outputs are, in FP32."""
        part, name = layer
        model = self._model(part)
        node = next(item for item in model.graph.node if item.name == name)
        del model.graph.output[:]
        model.graph.output.add().name = node.output[0]
        source = {"frames": self._frames} if part == "encoder" else {"features": self._encoded(frozenset())[None]}
        (values,) = _session(model).run(None, source)
        return SensitiveLayer(
            part=part,
            node=name,
            operator=node.op_type,
            largest=float(np.abs(values).max()),
            limit=LARGEST[self._precision],
        )

    def _logits(self, lowered: Collection[Layer]) -> Any:
        chosen = {part: [name for where, name in lowered if where == part] for part in GRAPH_NAMES}
        features = self._encoded(frozenset(chosen["encoder"]))
        return self._run("head", {"features": features[None]}, chosen["head"])[0]

    def _encoded(self, lowered: frozenset[str]) -> Any:
        if lowered not in self._features:
            self._features[lowered] = self._run("encoder", {"frames": self._frames}, lowered)
        return self._features[lowered]

    def _run(self, part: str, source: dict[str, Any], lowered: Collection[str]) -> Any:
        model = self._model(part)
        simulate_lowering(model, self._precision, lowered)
        return _session(model).run(None, source)[0]

    def _model(self, part: str) -> Model:
        return parse_model(self._data[part], f"{part}.onnx")


def _session(model: Model) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # or it removes the rounding
    settings.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

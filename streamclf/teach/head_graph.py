"""Write the head of a taught model as ONNX, of standard operators of opset 17."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.bundle import ModelSpec
from streamclf.teach.novelty import EPSILON, Novelty
from streamclf.teach.pooling import PooledPart
from streamclf.teach.taught_head import TaughtHead

OPSET: Final = 17
IR_VERSION: Final = 8


def write_head(taught: TaughtHead, spec: ModelSpec, labels: int) -> bytes:
    """Return the serialised graph: features (N, T, *F) float32 -> logits (N, labels) float32."""
    import onnx

    graph = _Graph(onnx)
    size = int(np.prod(spec.feature_shape))
    graph.add("Reshape", ["features", graph.integers([0, spec.chunks, size])], "flat")
    pooled = graph.add("Concat", [part for one in taught.head.parts for part in _pool(graph, one)], axis=1)
    calibration = taught.calibration
    weight = taught.head.weight / np.float32(calibration.temperature)
    bias = taught.head.bias / np.float32(calibration.temperature)
    if not calibration.has_novelty:
        graph.add("Gemm", [pooled, graph.floats(weight), graph.floats(bias)], "logits")
    else:
        fitted = graph.add("Gemm", [pooled, graph.floats(weight), graph.floats(bias)])
        _add_none(graph, taught, fitted, len(bias))
    return graph.serialise(
        onnx.helper.make_tensor_value_info("features", 1, ["N", spec.chunks, *spec.feature_shape]),
        onnx.helper.make_tensor_value_info("logits", 1, ["N", labels]),
    )


def _pool(graph: _Graph, part: PooledPart) -> list[str]:
    """Add the summaries of a part of the feature over time. Returns tensors (N, any), in the order of `PooledPart`."""
    values = graph.add(
        "Slice", ["flat", graph.integers([part.start]), graph.integers([part.stop]), graph.integers([2])]
    )
    size = part.stop - part.start
    pooled, weights = [], part.time_weights
    if len(weights):
        means = graph.add("MatMul", [graph.floats(weights), values])
        pooled.append(graph.add("Reshape", [means, graph.integers([0, len(weights) * size])]))
    if part.has_peak:
        pooled.append(graph.add("ReduceMax", [values], axes=[1], keepdims=0))
    return pooled


def _add_none(graph: _Graph, taught: TaughtHead, fitted: str, count: int) -> None:
    """Add the logit of "none of these" to the fitted ones, or raise it: see `combine`."""
    likeness = _likeness(graph, taught.novelty)
    none, calibration = taught.none, taught.calibration
    known = fitted
    if none is not None:
        known = graph.add("Gather", [fitted, graph.integers([k for k in range(count) if k != none])], axis=1)
    best = graph.add("ReduceMax", [known], axes=[1], keepdims=1)
    below = graph.add("Sub", [graph.floats([[calibration.limit]]), likeness])
    unlike = graph.add("Add", [best, graph.add("Mul", [below, graph.floats([[calibration.slope]])])])
    if none is not None:
        assert none == count - 1  # it is the last label
        unlike = graph.add("Max", [unlike, graph.add("Gather", [fitted, graph.integers([none])], axis=1)])
    graph.add("Concat", [known, unlike], "logits", axis=1)


def _likeness(graph: _Graph, novelty: Novelty) -> str:
    """Add the likeness to the nearest row, (N, 1): see `Novelty.score`."""
    means = graph.add("ReduceMean", ["flat"], axes=[1], keepdims=0)
    standard = graph.add("Mul", [graph.add("Sub", [means, graph.floats(novelty.offset)]), graph.floats(novelty.scale)])
    squares = graph.add("ReduceSum", [graph.add("Mul", [standard, standard]), graph.integers([1])], keepdims=1)
    if novelty.measure[1] == "cosine":
        lengths = graph.add("Add", [graph.add("Sqrt", [squares]), graph.floats([EPSILON])])
        cosines = graph.add("MatMul", [graph.add("Div", [standard, lengths]), graph.floats(novelty.rows.T)])
        return graph.add("ReduceMax", [cosines], axes=[1], keepdims=1)
    products = graph.add("Gemm", [standard, graph.floats(2 * novelty.rows.T), graph.floats(-novelty.squares)])
    return graph.add("Sub", [graph.add("ReduceMax", [products], axes=[1], keepdims=1), squares])


class _Graph:
    """Collect the nodes and constants of a graph."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def floats(self, values: Any) -> str:
        """Add a float32 constant."""
        return self._constant(np.ascontiguousarray(values, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """Add an int64 constant."""
        return self._constant(np.array(values, np.int64))

    def serialise(self, source: Any, target: Any) -> bytes:
        """Return the checked model in bytes."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, "head", [source], [target], self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="streamclf teach",
        )
        self._onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

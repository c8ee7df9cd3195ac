"""Lower a graph to FP16 or BF16 for a strongly typed TensorRT, and simulate such a graph on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.graphs.surgery import Model, Node, opset_of, replace_nodes, tensor_types

TYPES: Final = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST: Final = {"fp16": 65504.0, "bf16": 3.39e38}

FP32_OPERATORS: Final = frozenset(
    {
        # Statistics: sums of many squares overflow FP16, and their rounding affects all later layers.
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"),
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "CumSum"),
        *("Resize", "Range"),  # the compiler reads their scales
    }
)
QUANTISATION: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
QUANTISATION_OPSET: Final = 19
"""The first opset in which the scales of both operators may have a lower type."""
SMALLEST_SCALE: Final = 2.0**-14
"""The smallest normal number in FP16. A smaller scale would lose digits, so its node stays in FP32."""


def lowerable_nodes(model: Model, precision: str) -> list[str]:
    """List the names of the nodes that `lower` lowers, in the graph's order."""
    candidates = _Candidates(model, precision)
    return [node.name for node in model.graph.node if candidates.can_be_low(node)]


def lower(model: Model, precision: str, *, keep_fp32: Collection[str] = ()) -> None:
    """Change all float tensors to `precision`, in place, except those of statistics and of the nodes `keep_fp32`.

    Inputs and outputs of the graph keep their types. A tensor that both kinds of nodes use is cast once.
    """
    _Lowering(model, precision, keep_fp32).run()


class _Lowering:
    """Lower one graph, and cast tensors between lowered nodes and nodes in FP32."""

    def __init__(self, model: Model, precision: str, keep_fp32: Collection[str]) -> None:
        self._graph, self._target = model.graph, TYPES[precision]
        self._candidates = _Candidates(model, precision)
        self._types, self._constants = self._candidates.types, self._candidates.constants
        self._keep = set(keep_fp32)
        self._nodes: list[Node] = []
        self._low: set[str] = set()
        """The tensors that have the lower type now, under the same name."""
        self._cast: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        outputs = {value.name for value in self._graph.output}
        for node in list(self._graph.node):
            low = node.name not in self._keep and self._candidates.can_be_low(node)
            for index, name in enumerate(node.input):
                if name and self._types.get(name) == TensorProto.FLOAT:
                    node.input[index] = self._in_type(name, self._target if low else TensorProto.FLOAT)
            self._nodes.append(node)
            if low:
                self._lower_outputs(node, outputs)
        replace_nodes(self._graph, self._nodes)
        used = {name for node in self._graph.node for name in node.input} | outputs
        unused = [tensor for tensor in self._graph.initializer if tensor.name not in used]
        for tensor in unused:
            self._graph.initializer.remove(tensor)

    def _lower_outputs(self, node: Node, outputs: set[str]) -> None:
        if node.op_type == "Cast":
            for item in node.attribute:
                if item.name == "to":
                    item.i = self._target
        for index, name in enumerate(node.output):
            if self._types.get(name) != TensorProto.FLOAT:
                continue
            if name not in outputs:
                self._low.add(name)
                continue
            inner = f"{name}/low"
            node.output[index] = inner
            self._nodes.append(_cast(inner, name, TensorProto.FLOAT))

    def _in_type(self, name: str, wanted: int) -> str:
        """Return the name of the tensor `name` in the type `wanted`; cast it if necessary."""
        current = self._target if name in self._low else TensorProto.FLOAT
        if current == wanted:
            return name
        if (name, wanted) in self._cast:
            return self._cast[name, wanted]
        new = f"{name}/{'low' if wanted == self._target else 'fp32'}_copy"
        if name in self._constants:
            array = numpy_helper.to_array(self._constants[name])
            self._graph.initializer.append(
                helper.make_tensor(new, wanted, array.shape, _clip_constant(array, wanted).flatten().tolist())
            )
        else:
            self._nodes.append(_cast(name, new, wanted))
        self._cast[name, wanted] = new
        return new


def simulate_lowering(model: Model, precision: str, lowered: Collection[str]) -> None:
    """Change the graph, in place, to round like a lowered one in the nodes `lowered`, and to compute in FP32.

    A CPU has no FP16 arithmetic, and ONNX Runtime would compute a lowered graph in FP32 without rounding between its
    nodes. Matrix units of a GPU also sum products in FP32 and round once.
    """
    types = tensor_types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    target, chosen = TYPES[precision], set(lowered)
    nodes: list[Node] = []
    rounded: dict[str, str] = {}

    def round_into(source: str, name: str) -> None:
        nodes.append(_cast(source, f"{name}/low", target))
        nodes.append(_cast(f"{name}/low", name, TensorProto.FLOAT))

    for node in list(model.graph.node):
        if node.name in chosen:
            for index, name in enumerate(node.input):
                if not name or types.get(name) != TensorProto.FLOAT:
                    continue
                if name not in rounded:
                    rounded[name] = f"{name}/rounded"
                    if name in constants:
                        array = numpy_helper.to_array(constants[name])
                        values = round_array(array, precision)
                        model.graph.initializer.append(numpy_helper.from_array(values, rounded[name]))
                    else:
                        round_into(name, rounded[name])
                node.input[index] = rounded[name]
        nodes.append(node)
        if node.name in chosen:
            for index, name in enumerate(node.output):
                if types.get(name) == TensorProto.FLOAT:
                    node.output[index] = f"{name}/exact"
                    round_into(f"{name}/exact", name)
                    rounded[name] = name
    replace_nodes(model.graph, nodes)


def round_array(array: Any, precision: str) -> Any:
    """Round float32 to the nearest values of `precision`; return them as float32."""
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    even = bits + 0x7FFF + ((bits >> 16) & 1)  # round to nearest, ties to even
    return (even & np.uint32(0xFFFF0000)).view(np.float32)


def _clip_constant(array: Any, wanted: int) -> Any:
    """Clip finite constants to FP16's range: -1e9 in a mask means "very small", not minus infinity."""
    if wanted != TensorProto.FLOAT16:
        return array
    return np.where(np.isinf(array), array, np.clip(array, -LARGEST["fp16"], LARGEST["fp16"]))


class _Candidates:
    """Find the nodes of one graph that can compute in the lower type."""

    def __init__(self, model: Model, precision: str) -> None:
        self.types, self.constants = tensor_types(model), {each.name: each for each in model.graph.initializer}
        self._opset, self._precision = opset_of(model), precision

    def can_be_low(self, node: Node) -> bool:
        """Tell whether a node can compute in the lower type.

        Statistics cannot, nor can casts of bytes: their float result is cast to the lower type by the next node.
        """
        if node.op_type in QUANTISATION:
            return self._has_low_scale(node)
        if node.op_type in FP32_OPERATORS or not any(self._is_float(name) for name in node.output):
            return False
        if node.op_type == "Cast" and not self._is_float(node.input[0]):
            return False
        return self._accepts_type(node)

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == TensorProto.FLOAT

    def _accepts_type(self, node: Node) -> bool:
        kind = "tensor(float16)" if self._precision == "fp16" else "tensor(bfloat16)"
        return _accepts_type(node.op_type, node.domain, self._opset, kind)

    def _has_low_scale(self, node: Node) -> bool:
        """Tell whether a QuantizeLinear or DequantizeLinear keeps its digits with a scale of the lower type."""
        scale = self.constants.get(node.input[1])
        if self._opset < QUANTISATION_OPSET or scale is None or not self._accepts_type(node):
            return False
        return self._precision != "fp16" or bool((numpy_helper.to_array(scale) >= SMALLEST_SCALE).all())


@functools.cache
def _accepts_type(operator: str, domain: str, opset: int, kind: str) -> bool:
    """Tell whether ONNX defines the operator for this type; Conv, for example, has BF16 from opset 22 on."""
    if domain not in ("", "ai.onnx"):
        return False
    constraints = onnx.defs.get_schema(operator, opset, "").type_constraints
    allowed = [item.allowed_type_strs for item in constraints]
    return all(kind in types for types in allowed if "tensor(float)" in types)


def _cast(source: str, target: str, to: int) -> Node:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to)

"""Replace LayerNormalization by primitive operators, for compilers without it (TensorRT 8.5)."""

from __future__ import annotations

from typing import Any

from onnx import helper

from engines.errors import CompileError
from engines.graphs.surgery import Model, Node, attribute, opset_of, replace_nodes, scalar, set_opset, tensor_shapes

OPERATOR = "LayerNormalization"
OPSET = 16
"""The newest opset without the operator."""


def decompose_layer_norms(model: Model, name: str) -> tuple[str, ...]:
    """Replace each LayerNormalization by ReduceMean, Sub, Mul, Sqrt, Div, Add, and declare opset 16.

    Returns the names of the new nodes: in FP16 the squares overflow beyond 255, so they must stay in FP32.
    """
    shapes = tensor_shapes(model)
    nodes: list[Node] = []
    added: list[str] = []
    for node in model.graph.node:
        if node.op_type != OPERATOR:
            nodes.append(node)
            continue
        if any(node.output[1:]):
            raise CompileError(
                f"{name}: {node.name} outputs its mean or deviation, which the primitive operators cannot replace; "
                "export the bundle again without these outputs"
            )
        rank = len(shapes.get(node.input[0]) or ())
        axis = int(attribute(node, "axis", -1))
        if axis >= 0 and not rank:
            raise CompileError(f"{name}: the rank of {node.name}'s input is unknown; export the bundle with axis=-1")
        axes = list(range(axis if axis < 0 else axis - rank, 0))
        new = _primitives(model, node, axes)
        added += [item.name for item in new]
        nodes += new
    replace_nodes(model.graph, nodes)
    if opset_of(model) == OPSET + 1:  # opset 17 only added this operator and signal processing
        set_opset(model, OPSET)
    return tuple(added)


def _primitives(model: Model, node: Node, axes: list[int]) -> list[Node]:
    x, scale, *rest = node.input
    prefix = f"{node.name}/"
    epsilon = f"{prefix}epsilon"
    model.graph.initializer.append(scalar(epsilon, float(attribute(node, "epsilon", 1e-5))))

    def make(op: str, inputs: list[str], output: str, **attributes: Any) -> Node:
        return helper.make_node(op, inputs, [output], name=f"{prefix}{op}_{output.split('/')[-1]}", **attributes)

    mean, centred, squares, variance, safe, deviation, normal, scaled = (
        f"{prefix}{part}"
        for part in ("mean", "centred", "squares", "variance", "safe", "deviation", "normal", "scaled")
    )
    biased = bool(rest and rest[0])
    nodes = [
        make("ReduceMean", [x], mean, axes=axes, keepdims=1),
        make("Sub", [x, mean], centred),
        make("Mul", [centred, centred], squares),
        make("ReduceMean", [squares], variance, axes=axes, keepdims=1),
        make("Add", [variance, epsilon], safe),
        make("Sqrt", [safe], deviation),
        make("Div", [centred, deviation], normal),
        make("Mul", [normal, scale], scaled if biased else node.output[0]),
    ]
    if biased:
        nodes.append(make("Add", [scaled, rest[0]], node.output[0]))
    return nodes

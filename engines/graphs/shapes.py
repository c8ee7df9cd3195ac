"""Rewrite the shape arithmetic of a graph so that the parser of every TensorRT generation reads it correctly."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from engines.graphs.surgery import Model, Node, attribute, opset_of, replace_nodes, tensor_shapes, tensor_types

FIRST_OPSET_WITH_AXES_INPUT = 13
"""From this opset on, the axes of Squeeze are an input."""


def is_partial_shape(node: Node) -> bool:
    """Tell whether a node is a Shape with `start` or `end`, which the parsers of TensorRT 8.5 to 9 ignore."""
    return node.op_type == "Shape" and bool(node.attribute)


def rewrite_shapes(model: Model) -> None:
    """Rewrite Shape and Squeeze, in place, without a change of the results.

    - A Shape with `start` or `end` becomes a whole Shape and a Gather. The parsers of TensorRT 8.5, 8.6 and 9 ignore
      both attributes, and read all sizes.
    - A Shape of bytes reads the Cast of these bytes. No version of TensorRT documents the shape of a uint8 tensor.
    - A Squeeze without axes names its axes, because the parsers cannot infer them behind a Gather.
    """
    graph = model.graph
    shapes, types = tensor_shapes(model), tensor_types(model)
    casts = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == "Cast" and types.get(node.input[0]) == TensorProto.UINT8
    }
    bytes_inputs = {value.name for value in graph.input if types.get(value.name) == TensorProto.UINT8}
    first = [casts[name] for name in bytes_inputs if name in casts]  # a Shape may be listed before the Cast it reads
    nodes: list[Node] = list(first)
    for node in graph.node:
        if any(node is cast for cast in first):
            continue
        if node.op_type == "Squeeze" and len(node.input) < 2 and opset_of(model) >= FIRST_OPSET_WITH_AXES_INPUT:
            _name_axes(model, node, shapes.get(node.input[0]))
        source = node.input[0] if node.input else ""
        if node.op_type == "Shape" and source in casts:
            node.input[0] = casts[source].output[0]
        nodes += _whole_shape(model, node, shapes.get(source)) if is_partial_shape(node) else [node]
    replace_nodes(graph, nodes)


def _whole_shape(model: Model, node: Node, sizes: list[int | str | None] | None) -> list[Node]:
    """Return the nodes that replace a Shape with `start` or `end`; the Shape itself if the rank is unknown."""
    if sizes is None:
        return [node]
    part = range(len(sizes))[slice(int(attribute(node, "start", 0)), attribute(node, "end", None))]
    del node.attribute[:]
    if len(part) == len(sizes):
        return [node]
    output, indices = node.output[0], f"{node.name}/indices"
    node.output[0] = f"{node.name}/whole"
    model.graph.initializer.append(numpy_helper.from_array(np.array(part, np.int64), indices))
    return [node, helper.make_node("Gather", [node.output[0], indices], [output], name=f"{node.name}/part", axis=0)]


def _name_axes(model: Model, node: Node, sizes: list[int | str | None] | None) -> None:
    if sizes is None or any(not isinstance(size, int) for size in sizes):
        return
    name = f"{node.name}/axes"
    axes = np.array([axis for axis, size in enumerate(sizes) if size == 1], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(axes, name))
    node.input.append(name)

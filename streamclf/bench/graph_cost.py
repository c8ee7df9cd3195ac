"""Floating-point operations of a graph, counted from its shapes: matrix products and convolutions, two for each
multiply-add. What else a graph does takes memory, not arithmetic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


def count_flops(path: Path) -> int:
    """Of one item (batch 1) through the ONNX graph at `path`. Needs `onnx`; 0 for products whose shapes are unknown."""
    import onnx
    from onnx import shape_inference

    model = onnx.load(str(path))
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {
        item.name: tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)
        for item in (*graph.input, *graph.output, *graph.value_info)
    }
    shapes |= {item.name: tuple(item.dims) for item in graph.initializer}
    return sum(_of_node(node, shapes) for node in graph.node)


def _of_node(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    given = [shapes.get(name, ()) for name in node.input]
    out = math.prod(shapes.get(node.output[0], (0,)))
    if node.op_type == "MatMul" and given[0]:
        return 2 * out * given[0][-1]
    if node.op_type == "Gemm" and given[0]:
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * out * given[0][0 if transposed else -1]
    if node.op_type == "Conv" and given[1]:
        return 2 * out * math.prod(given[1][1:])
    return 0

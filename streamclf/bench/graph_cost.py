"""Count what an ONNX graph costs at least: floating-point operations and bytes of weights. Needs `onnx`.

Only matrix products and convolutions are counted, two operations for each multiply-add. The other nodes of a graph
take memory bandwidth rather than arithmetic.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

WEIGHT_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def count_flops(path: Path) -> int:
    """Count the operations of one item (batch 1) in the graph at `path`; a product of unknown shape counts 0."""
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
    return sum(_node_flops(node, shapes) for node in graph.node)


def _node_flops(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    inputs = [shapes.get(name, ()) for name in node.input]
    outputs = math.prod(shapes.get(node.output[0], (0,)))
    if node.op_type == "MatMul" and inputs[0]:
        return 2 * outputs * inputs[0][-1]
    if node.op_type == "Gemm" and inputs[0]:
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * outputs * inputs[0][0 if transposed else -1]
    if node.op_type == "Conv" and inputs[1]:
        return 2 * outputs * math.prod(inputs[1][1:])
    return 0


def weight_bytes(path: Path, precision: str) -> int:
    """Return the bytes of the graph's constants as an engine in `precision` reads them."""
    import onnx

    graph = onnx.load(str(path)).graph
    weights: int = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    return weights * WEIGHT_BYTES[precision]

"""List the nodes of a QDQ graph that compute in INT8, and return some of them to fp32."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from engines.graphs.surgery import Model, replace_nodes

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


def quantised_nodes(model: Model) -> list[str]:
    """List the names of the nodes that read dequantised tensors, in the graph's order."""
    rounded = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTISE}
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in (QUANTISE, DEQUANTISE) and rounded.intersection(node.input)
    ]


def without_quantisation(model: Model, names: Collection[str]) -> Model:
    """Return a copy of the graph in which the nodes `names` compute in fp32, without the Q/DQ pairs then unused."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, chosen = copy.graph, set(names)
    producers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.name not in chosen:
            continue
        for index, name in enumerate(node.input):
            dequantise = producers.get(name)
            if dequantise is None or dequantise.op_type != DEQUANTISE:
                continue
            quantise = producers.get(dequantise.input[0])
            if quantise is not None and quantise.op_type == QUANTISE:
                node.input[index] = quantise.input[0]
    for kind in (
        DEQUANTISE,
        QUANTISE,
    ):  # in this order: a QuantizeLinear is unused only after its DequantizeLinear is gone
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        replace_nodes(graph, [node for node in graph.node if node.op_type != kind or node.output[0] in used])
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    return copy

"""Which nodes of a QDQ graph compute in INT8, and the same graph with some of them as they were."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from engines.graphs.surgery import Model, replace_nodes

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


def quantised_nodes(model: Model) -> list[str]:
    """Names of the nodes that read dequantised tensors, in the graph's order."""
    rounded = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTISE}
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in (QUANTISE, DEQUANTISE) and rounded.intersection(node.input)
    ]


def without_quantisation(model: Model, names: Collection[str]) -> Model:
    """A copy in which the nodes `names` read what would have been quantised; pairs that nobody reads are left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, chosen = copy.graph, set(names)
    made_by = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.name not in chosen:
            continue
        for index, name in enumerate(node.input):
            dequantise = made_by.get(name)
            if dequantise is None or dequantise.op_type != DEQUANTISE:
                continue
            quantise = made_by.get(dequantise.input[0])
            if quantise is not None and quantise.op_type == QUANTISE:
                node.input[index] = quantise.input[0]
    for kind in (DEQUANTISE, QUANTISE):  # in this order: the second is unused only without the first
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        replace_nodes(graph, [node for node in graph.node if node.op_type != kind or node.output[0] in used])
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    return copy

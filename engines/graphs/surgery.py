"""Provide helpers for changing ONNX graphs: names, types, shapes, constants and checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter

from engines.errors import CompileError

Model: TypeAlias = Any
"""`onnx.ModelProto`; onnx has no type stubs."""
Node: TypeAlias = Any


def parse_model(data: bytes, name: str) -> Model:
    """Parse and check a model; give every node a unique name, and make every constant an initializer.

    Weights that are stored as bytes (Cast, Sub and Mul of constants) become plain weights, too: not every compiler
    reads bytes, and an initializer is where the other functions look for weights.
    Raises `CompileError` if the bytes are not a valid ONNX model.
    """
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:
        raise CompileError(f"{name}: not an ONNX graph: {first_line(error)}; export the bundle again") from error
    graph = model.graph
    seen: set[str] = set()
    nodes = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            continue
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)
        nodes.append(node)
    replace_nodes(graph, nodes)
    _fold_stored_weights(graph)
    return model


def _fold_stored_weights(graph: Any) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values: dict[str, Any] = {}
    nodes = []
    for node in graph.node:
        if node.op_type not in ("Cast", "Sub", "Mul") or any(
            name not in constants and name not in values for name in node.input
        ):
            nodes.append(node)
            continue
        inputs = [values[name] if name in values else numpy_helper.to_array(constants[name]) for name in node.input]
        if node.op_type == "Cast":
            kind = helper.tensor_dtype_to_np_dtype(attribute(node, "to", TensorProto.FLOAT))
            values[node.output[0]] = inputs[0].astype(kind)
        else:
            values[node.output[0]] = (np.subtract if node.op_type == "Sub" else np.multiply)(*inputs)
    if not values:
        return
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    folded = [numpy_helper.from_array(value, name) for name, value in values.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *folded])
    replace_nodes(graph, nodes)


def serialise_checked(model: Model, name: str) -> bytes:
    """Check a changed model and serialise it. Raises `CompileError` if the change has made it invalid."""
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise CompileError(
            f"{name}: the prepared graph is not valid: {first_line(error)}; please report this"
        ) from error
    data: bytes = model.SerializeToString()
    return data


def first_line(error: Exception) -> str:
    """Return the first line of an error message that may be pages long."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def tensor_types(model: Model) -> dict[str, int]:
    """Map the name of every tensor to its element type."""
    inferred = shape_inference.infer_shapes(model).graph
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    return known | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def tensor_shapes(model: Model) -> dict[str, list[int | str | None]]:
    """Map the name of every tensor of known rank to its shape; a size is an int, a name if dynamic, None if unknown."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int | str | None]] = {
        value.name: [dim.dim_value or dim.dim_param or None for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def replace_nodes(graph: Any, nodes: Iterable[Node]) -> None:
    """Replace all nodes of the graph by `nodes`, in this order."""
    new = [*nodes]
    copies = [onnx.NodeProto() for _ in new]
    for copy, node in zip(copies, new, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def opset_of(model: Model) -> int:
    """Return the version of ONNX's own operators that the model uses."""
    return int(next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")))


def set_opset(model: Model, version: int) -> None:
    """Declare another opset version; the caller must have changed the graph to fit it."""
    next(item for item in model.opset_import if item.domain in ("", "ai.onnx")).version = version


def raise_opset(model: Model, version: int, name: str) -> None:
    """Convert the model, in place, to the opset `version` if it has an older one. Raises `CompileError`."""
    if opset_of(model) >= version:
        return
    try:
        converted = version_converter.convert_version(model, version)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise CompileError(
            f"{name}: cannot be converted to opset {version}: {first_line(error)}; choose precision fp16 or fp32"
        ) from error
    model.CopyFrom(parse_model(converted.SerializeToString(), name))


def attribute(node: Node, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or `default`."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def scalar(name: str, value: float) -> Any:
    """Make a float32 constant without dimensions."""
    return helper.make_tensor(name, TensorProto.FLOAT, (), [value])

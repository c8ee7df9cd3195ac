"""The few things that every change of a graph needs: names, types, constants, checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from engines.errors import CompileError

Model: TypeAlias = Any
"""`onnx.ModelProto`; onnx has no type stubs."""
Node: TypeAlias = Any


def parse_model(data: bytes, name: str) -> Model:
    """A checked model in which every node has a name of its own and every constant is an initializer.

    Raises `CompileError` for bytes that are none.
    """
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:
        raise CompileError(f"{name}: not an ONNX graph: {first_line(error)}; export the bundle again") from error
    graph = model.graph
    seen: set[str] = set()
    kept = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            continue
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)
        kept.append(node)
    replace_nodes(graph, kept)
    return model


def finished(model: Model, name: str) -> bytes:
    """The model's bytes, checked again. Raises `CompileError`: a bug of ours that must not reach a compiler."""
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise CompileError(f"{name}: the prepared graph is not valid: {first_line(error)}") from error
    data: bytes = model.SerializeToString()
    return data


def first_line(error: Exception) -> str:
    """The beginning of an account that may be pages long."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def tensor_types(model: Model) -> dict[str, int]:
    """The element type of every tensor, by name."""
    inferred = shape_inference.infer_shapes(model).graph
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    return known | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def tensor_shapes(model: Model) -> dict[str, list[int | str | None]]:
    """The shape of every tensor whose rank is known, by name; None for an unknown size, a name for a dynamic one."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int | str | None]] = {
        value.name: [dim.dim_value or dim.dim_param or None for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def replace_nodes(graph: Any, nodes: Iterable[Node]) -> None:
    """Let `nodes`, in order, be the graph's."""
    new = [*nodes]
    copies = [onnx.NodeProto() for _ in new]
    for copy, node in zip(copies, new, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def opset_of(model: Model) -> int:
    """The version of ONNX's own operators that the model uses."""
    return int(next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")))


def set_opset(model: Model, version: int) -> None:
    """Declare another version; the caller has made the graph fit it."""
    next(item for item in model.opset_import if item.domain in ("", "ai.onnx")).version = version


def attribute(node: Node, name: str, default: Any) -> Any:
    """The value of an attribute."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def scalar(name: str, value: float) -> Any:
    """A float32 constant without dimensions."""
    return helper.make_tensor(name, TensorProto.FLOAT, (), [value])


def arrays(model: Model) -> Mapping[str, Any]:
    """The initializers as NumPy arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

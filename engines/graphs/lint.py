"""Find what a generation of TensorRT would refuse or run slowly in a graph, before an hour of building."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from onnx import TensorProto, numpy_helper

from engines.errors import CompileError
from engines.graphs.operators import OPSETS, supported_operators
from engines.graphs.shapes import is_partial_shape
from engines.graphs.surgery import Model, Node, opset_of, parse_model, tensor_shapes, tensor_types

WIDE: Final = (TensorProto.INT64, TensorProto.DOUBLE)
HEAD_SIZES: Final = range(16, 257, 8)
"""The sizes of an attention head for which TensorRT has fused kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A result of the lint. `error`: TensorRT refuses the graph. `note`: the graph runs, but slower than it could."""

    level: Literal["error", "note"]
    text: str


def check_graph(data: bytes, *, name: str, profile: str) -> list[Finding]:
    """Lint a serialised graph and return the notes. Raises `CompileError` with all errors."""
    findings = lint(parse_model(data, name), profile)
    errors = [finding.text for finding in findings if finding.level == "error"]
    if errors:
        raise CompileError(
            f"{name}: TensorRT ({profile}) cannot compile it: {'; '.join(errors[:8])}: "
            "export the bundle again, or use backend openvino or onnxruntime"
        )
    return findings


def lint(model: Model, profile: str) -> list[Finding]:
    """List everything in `model` that TensorRT of `profile` is known to refuse or to run slowly."""
    return [
        *_operators(model, profile),
        *_shapes(model, profile),
        *_inputs(model),
        *_bytes(model),
        *_quantisation(model),
        *_attentions(model, profile),
    ]


def _operators(model: Model, profile: str) -> Iterator[Finding]:
    opset = opset_of(model)
    if opset > OPSETS[profile]:
        yield Finding(level="error", text=f"opset {opset}, at most {OPSETS[profile]}")
    known = supported_operators(profile)
    for (domain, kind), count in Counter((node.domain, node.op_type) for node in model.graph.node).items():
        if domain not in ("", "ai.onnx"):
            yield Finding(level="error", text=f"operator {domain}::{kind} ({count} of them)")
        elif kind not in known:
            yield Finding(level="error", text=f"operator {kind} ({count} of them)")
        if kind.startswith("Reduce") and kind != "ReduceSum" and opset >= 18 and profile in ("trt85", "trt86"):
            yield Finding(
                level="error",
                text=f"{kind} with axes as an input ({count} of them): only TensorRT 10 and later read it",
            )
        if kind in ("If", "Loop", "Scan", "NonZero"):
            yield Finding(level="note", text=f"{kind} ({count} of them): shapes that depend on data prevent fusion")


def _shapes(model: Model, profile: str) -> Iterator[Finding]:
    count = sum(is_partial_shape(node) for node in model.graph.node)
    if count and profile in ("trt85", "trt86"):
        yield Finding(
            level="error",
            text=f"Shape with start or end ({count} of them): only TensorRT 10 and later read these attributes",
        )


def _inputs(model: Model) -> Iterator[Finding]:
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        sizes: list[Any] = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type in WIDE:
            yield Finding(level="error", text=f"input {value.name} has a 64-bit type")
        if not sizes or not isinstance(sizes[0], str) or any(isinstance(size, str) for size in sizes[1:]):
            yield Finding(level="error", text=f"input {value.name} is {sizes}: the first axis alone must be dynamic")


def _bytes(model: Model) -> Iterator[Finding]:
    """Find nodes that read bytes: TensorRT documents only Cast for uint8 tensors."""
    names = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    kinds = Counter(node.op_type for node in model.graph.node if node.op_type != "Cast" and names & {*node.input})
    for kind, count in kinds.items():
        yield Finding(level="error", text=f"{kind} of a uint8 input ({count} of them): only Cast reads uint8")


def _quantisation(model: Model) -> Iterator[Finding]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3 or not node.input[2]:
            continue
        zero = constants.get(node.input[2])
        if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
            yield Finding(level="error", text=f"{node.name}: only symmetric int8 (zero point 0) is supported")
            return


def _attentions(model: Model, profile: str) -> Iterator[Finding]:
    """Find the attentions that TensorRT does not fuse, and why."""
    types, shapes = tensor_types(model), tensor_shapes(model)
    producers = {output: node for node in model.graph.node for output in node.output}
    consumers: dict[str, list[Node]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            consumers[name].append(node)
    reasons: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type != "Softmax":
            continue
        product, between = _product_before(node, producers)
        if product is None or not _product_after(node, consumers):
            continue  # not an attention
        if {"Mul", "Div"} & between:
            reasons["the scale is between the product and the softmax: scale Q before the product"] += 1
        size = (shapes.get(product.input[0]) or [None])[-1]
        if size not in HEAD_SIZES:
            reasons[f"head size {size or 'unknown'}: must be a multiple of 8 from 16 to 256"] += 1
        low = types.get(product.input[0]) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        if profile == "trt11" and not low:
            reasons["the product is not in FP16 or BF16"] += 1
        if profile == "trt85":
            reasons["only TensorRT 8.6 and later fuse attention"] += 1
    for reason, count in reasons.items():
        yield Finding(level="note", text=f"{count} attentions are not fused: {reason}")


def _product_before(softmax: Node, producers: dict[str, Node]) -> tuple[Node | None, set[str]]:
    between: set[str] = set()
    node = producers.get(softmax.input[0])
    while node is not None and node.op_type in ("Mul", "Div", "Add", "Cast", "Where"):
        between.add(node.op_type)
        node = producers.get(next((name for name in node.input if name in producers), ""))
    return (node if node is not None and node.op_type == "MatMul" else None), between


def _product_after(softmax: Node, consumers: dict[str, list[Node]]) -> bool:
    nodes = consumers[softmax.output[0]]
    while len(nodes) == 1 and nodes[0].op_type == "Cast":
        nodes = consumers[nodes[0].output[0]]
    return any(node.op_type == "MatMul" for node in nodes)

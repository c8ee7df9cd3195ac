"""The lint names everything that a generation of TensorRT refuses, or runs slowly, in a graph."""

import numpy as np
import onnx
import pytest
from onnx import helper
from support.onnx_graphs import make_graph

from engines.errors import CompileError
from engines.graphs.lint import check_graph, lint
from engines.graphs.operators import PROFILES


def lint_text(model: onnx.ModelProto, profile: str) -> str:
    """Join all findings into one text."""
    return "; ".join(f"{finding.level}: {finding.text}" for finding in lint(model, profile))


def test_the_lint_names_operators_that_a_generation_lacks() -> None:
    norm = make_graph([helper.make_node("LayerNormalization", ["x", "one"], ["y"])])
    assert lint_text(norm, "trt85") == "error: opset 17, at most 16; error: operator LayerNormalization (1 of them)"
    assert lint_text(norm, "trt86") == ""
    gelu = make_graph([helper.make_node("Gelu", ["x"], ["y"])], opset=20)
    assert "error: operator Gelu" in lint_text(gelu, "trt86")
    assert lint_text(gelu, "trt10") == ""
    message = r"g\.onnx: TensorRT \(trt86\) cannot compile it: opset 20, at most 17; operator Gelu"
    with pytest.raises(CompileError, match=message):
        check_graph(gelu.SerializeToString(), name="g.onnx", profile="trt86")
    reduce = make_graph([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], opset=18, axes=np.array([1]))
    assert "error: ReduceMean with axes as an input" in lint_text(reduce, "trt86")


def test_only_the_batch_axis_may_be_dynamic() -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    assert "the first axis alone must be dynamic" in lint_text(make_graph(relu, shape=("N", "M")), "trt10")
    assert "the first axis alone must be dynamic" in lint_text(make_graph(relu, shape=(1, 8)), "trt10")
    assert lint_text(make_graph(relu), "trt10") == ""


def make_quantised_graph(zero_point: np.generic) -> onnx.ModelProto:
    names = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"]),
    ]
    return make_graph(nodes, scale=np.float32(0.1), zero=zero_point)


def test_asymmetric_quantisation_is_refused() -> None:
    assert "only symmetric int8" in lint_text(make_quantised_graph(np.uint8(0)), "trt86")
    assert "only symmetric int8" in lint_text(make_quantised_graph(np.int8(3)), "trt86")
    assert lint_text(make_quantised_graph(np.int8(0)), "trt86") == ""


def make_attention(*, scale_after: bool, head_size: int) -> onnx.ModelProto:
    scale = [helper.make_node("Mul", ["p", "scale"], ["s"])] if scale_after else []
    nodes = [
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "k"], ["p"]),
        *scale,
        helper.make_node("Softmax", ["s" if scale_after else "p"], ["a"], axis=-1),
        helper.make_node("MatMul", ["a", "x"], ["y"]),
    ]
    return make_graph(nodes, shape=("N", 2, 4, head_size), scale=np.float32(0.1))


def test_the_lint_says_why_an_attention_is_not_fused() -> None:
    assert lint_text(make_attention(scale_after=False, head_size=32), "trt86") == ""
    assert "scale Q before the product" in lint_text(make_attention(scale_after=True, head_size=32), "trt86")
    assert "head size 12" in lint_text(make_attention(scale_after=False, head_size=12), "trt86")
    assert "not in FP16 or BF16" in lint_text(make_attention(scale_after=False, head_size=32), "trt11")
    assert "only TensorRT 8.6 and later" in lint_text(make_attention(scale_after=False, head_size=32), "trt85")


def test_shapes_that_old_parsers_misread_are_errors() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Concat", ["n", "eight"], ["size"], axis=0),
        helper.make_node("Reshape", ["x", "size"], ["y"]),
    ]
    graph = make_graph(nodes, eight=np.array([8]))
    for profile in ("trt85", "trt86"):
        assert "error: Shape with start or end (1 of them)" in lint_text(graph, profile)
    assert lint_text(graph, "trt10") == ""


@pytest.mark.parametrize("profile", PROFILES)
def test_only_a_cast_may_read_bytes(profile: str) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)]
    graph = make_graph(nodes, opset=16)
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    assert lint_text(graph, profile) == ""
    graph.graph.node.append(helper.make_node("Shape", ["x"], ["n"]))
    assert "error: Shape of a uint8 input (1 of them): only Cast reads uint8" in lint_text(graph, profile)

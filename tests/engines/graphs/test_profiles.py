"""The graph that is prepared for each TensorRT generation computes what the exported graph computes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_graphs import graph_inputs, make_graph, run_graph

from engines.bundle import Bundle
from engines.errors import BackendMissingError
from engines.graphs.lower import FP32_OPERATORS
from engines.graphs.operators import PROFILES
from engines.graphs.profiles import Profile, prepare_graph
from engines.graphs.surgery import opset_of, tensor_types


@pytest.mark.parametrize("graph", ["encoder", "head"])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_computes_the_same_in_fp32(built_in: Bundle, profile: Profile, graph: str) -> None:
    data, name, array = graph_inputs(built_in, graph)
    prepared = prepare_graph(data, name=graph, profile=profile, precision="fp32")
    expected = run_graph(data, array, name)
    actual = run_graph(prepared.onnx, array, name)
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5
    model = onnx.load_model_from_string(prepared.onnx)
    assert model.ir_version <= (10 if profile in ("trt10", "trt11") else 8)
    assert opset_of(model) == (16 if profile == "trt85" else opset_of(onnx.load_model_from_string(data)))
    assert ("LayerNormalization" in {node.op_type for node in model.graph.node}) == (profile != "trt85")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("graph", ["encoder", "head"])
def test_the_typed_graph_keeps_its_statistics_in_fp32(built_in: Bundle, graph: str, precision: str) -> None:
    data, _, _ = graph_inputs(built_in, graph)
    prepared = prepare_graph(data, name=graph, profile="trt11", precision=precision)
    assert prepared.strongly_typed
    model = onnx.load_model_from_string(prepared.onnx)
    types = tensor_types(model)
    low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    for node in model.graph.node:
        if node.op_type in FP32_OPERATORS:
            assert types[node.input[0]] in (TensorProto.FLOAT, TensorProto.INT64), node.name
        if node.op_type in ("MatMul", "Gemm", "Softmax") or (node.op_type == "Conv" and precision == "fp16"):
            assert types[node.input[0]] == types[node.output[0]] == low, node.name
    before = onnx.load_model_from_string(data).graph
    for now, then in ((model.graph.input, before.input), (model.graph.output, before.output)):
        assert [item.type.tensor_type.elem_type for item in now] == [item.type.tensor_type.elem_type for item in then]


@pytest.mark.parametrize("graph", ["encoder", "head"])
def test_the_typed_graph_in_fp16_differs_by_less_than_2_percent(built_in: Bundle, graph: str) -> None:
    data, name, array = graph_inputs(built_in, graph)
    expected = run_graph(data, array, name)
    prepared = prepare_graph(data, name=graph, profile="trt10", precision="fp16")
    actual = run_graph(prepared.onnx, array, name)
    assert 0 < np.abs(actual - expected).max() / np.abs(expected).max() < 2e-2


def test_without_onnx_a_graph_is_refused(built_in: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    data = built_in.encoder_path.read_bytes()
    with pytest.raises(BackendMissingError, match="needs onnx; pip install onnx"):
        prepare_graph(data, name="e", profile="trt86", precision="fp16")


def test_a_convolution_in_bf16_is_lowered_where_the_opset_permits_it(built_in: Bundle) -> None:
    data, name, array = graph_inputs(built_in, "encoder")
    lowered = {}
    for profile in ("trt10", "trt11"):
        prepared = prepare_graph(data, name=name, profile=profile, precision="bf16")  # type: ignore[arg-type]
        model = onnx.load_model_from_string(prepared.onnx)
        types = tensor_types(model)
        lowered[profile] = {types[node.input[0]] for node in model.graph.node if node.op_type == "Conv"}
    assert lowered == {"trt10": {TensorProto.FLOAT}, "trt11": {TensorProto.BFLOAT16}}
    assert array.dtype == np.uint8


@pytest.mark.parametrize("profile", ["trt85", "trt86"])
def test_int8_keeps_the_pinned_nodes_of_a_builder_that_chooses_types(built_in: Bundle, profile: Profile) -> None:
    data, _, _ = graph_inputs(built_in, "head")
    prepared = prepare_graph(data, name="head", profile=profile, precision="int8", keep_fp32=("node_x",))
    assert "node_x" in prepared.keep_fp32
    assert any("ReduceMean" in name for name in prepared.keep_fp32) == (profile == "trt85")
    assert prepare_graph(data, name="head", profile=profile, precision="fp32", keep_fp32=("node_x",)).keep_fp32 == ()


@pytest.mark.parametrize("profile", ["trt10", "trt11"])
def test_a_typed_int8_graph_computes_the_rest_in_fp16(built_in: Bundle, profile: Profile) -> None:
    """Each quantised product reads and writes FP16, so that TensorRT fuses it with its Q and DQ nodes."""
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    names = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", *names], ["d"], name="d"),
        helper.make_node("MatMul", ["d", "w"], ["m"], name="m"),
        helper.make_node("QuantizeLinear", ["m", "tiny", "zero"], ["q2"], name="q2"),
        helper.make_node("DequantizeLinear", ["q2", "tiny", "zero"], ["y"], name="d2"),
    ]
    model = make_graph(nodes, w=weight, scale=np.float32(0.05), tiny=np.float32(1e-6), zero=np.int8(0))
    prepared = prepare_graph(model.SerializeToString(), name="g", profile=profile, precision="int8")
    types = tensor_types(onnx.load_model_from_string(prepared.onnx))
    made = {node.name: node for node in onnx.load_model_from_string(prepared.onnx).graph.node}
    assert types[made["d"].output[0]] == types[made["q"].input[0]] == TensorProto.FLOAT16
    assert types[made["m"].input[0]] == types[made["m"].input[1]] == TensorProto.FLOAT16
    assert types[made["d2"].output[0]] == TensorProto.FLOAT  # a scale below FP16's normal numbers keeps its digits
    array = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    expected = run_graph(model.SerializeToString(), array, "x")
    assert np.abs(run_graph(prepared.onnx, array, "x") - expected).max() <= 2e-6


@pytest.mark.parametrize("profile", PROFILES)
def test_weights_stored_as_bytes_become_plain_weights(profile: Profile) -> None:
    levels = np.array([0, 3, 128, 255, 7, 9, 100, 200], np.uint8)
    graph = make_graph(
        [
            helper.make_node("Cast", ["levels"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["cast", "zero"], ["centred"]),
            helper.make_node("Mul", ["centred", "scale"], ["weight"]),
            helper.make_node("Mul", ["x", "weight"], ["y"]),
        ],
        levels=levels,
        zero=np.float32(128),
        scale=np.float32(0.5),
    )
    prepared = prepare_graph(graph.SerializeToString(), name="g", profile=profile, precision="fp32")
    model = onnx.load_model_from_string(prepared.onnx)
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}
    (row,) = run_graph(prepared.onnx, np.full((1, 8), 2, np.float32), "x")
    np.testing.assert_array_equal(row, levels.astype(np.float32) - 128)

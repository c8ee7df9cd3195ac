"""The graph that is prepared for each TensorRT generation computes what the exported graph computes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.onnx_graphs import graph_inputs, run_graph

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


def test_without_onnx_a_graph_that_needs_changes_is_refused(built_in: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    data = built_in.encoder_path.read_bytes()
    assert prepare_graph(data, name="e", profile="trt86", precision="fp16").onnx == data  # needs no change
    for profile in ("trt85", "trt10"):
        with pytest.raises(BackendMissingError, match=r"needs onnx; pip install 'streamclf\[tensorrt\]'"):
            prepare_graph(data, name="e", profile=profile, precision="fp16")  # type: ignore[arg-type]

"""The layers that must stay in FP32 are stored, and every later build uses them."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from support.gpu_double import DoubleCompiler, double_platform
from support.onnx_graphs import make_overflowing_bundle

import engines.backends.tensorrt
import engines.opening
from engines.bundle import Bundle
from engines.graphs.fp32_layers import load_fp32_layers, store_fp32_layers
from engines.graphs.surgery import tensor_types
from engines.opening import open_engine


@pytest.mark.parametrize("version", ["8.5.3.1", "10.3.0"])
def test_stored_layers_stay_in_fp32_in_later_builds(
    tmp_path: Path, built_in: Bundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    bundle = make_overflowing_bundle(tmp_path / "b", built_in, "encoder", "Softmax")
    store_fp32_layers(bundle, "fp16", {"encoder": ("blow_up", "shrink_back"), "head": ()})
    assert set(load_fp32_layers(bundle, "fp16")["encoder"]) == {"blow_up", "shrink_back"}
    assert load_fp32_layers(bundle, "bf16") == {"encoder": (), "head": ()}
    platform = double_platform(version=version)
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda _: platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    engine = open_engine(bundle, backend="tensorrt", precision="fp16", max_batch=8)
    compiler = platform.compiler
    assert isinstance(compiler, DoubleCompiler)
    request = compiler.requests[0]
    if request.strongly_typed:
        assert tensor_types(onnx.load_model_from_string(request.onnx))["detour"] == TensorProto.FLOAT
    else:
        assert {"blow_up", "shrink_back"} <= set(request.keep_fp32)
    engine.close()

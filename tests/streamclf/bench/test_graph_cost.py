"""Operations and weights of ONNX graphs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from streamclf.bench.graph_cost import count_flops
from streamclf.builtin_models import BUNDLES


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="counts an ONNX graph")
def test_operations_are_counted_from_shapes(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], kernel_shape=[3, 3]),
        helper.make_node("Reshape", ["y", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["out"]),
        helper.make_node("MatMul", ["out", "square"], ["z"]),
    ]
    constants = {
        "kernel": np.zeros((4, 3, 3, 3), np.float32),
        "shape": np.array([-1, 4 * 6 * 6]),
        "weight": np.zeros((144, 10), np.float32),
        "square": np.zeros((10, 10), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "g.onnx")
    convolution, gemm, product = 2 * 4 * 6 * 6 * 27, 2 * 144 * 10, 2 * 10 * 10
    assert count_flops(tmp_path / "g.onnx") == convolution + gemm + product


def test_the_head_of_the_built_in_model_costs_less_than_its_encoder() -> None:
    encoder = count_flops(BUNDLES / "camera-events" / "encoder.onnx")
    assert 1e6 < count_flops(BUNDLES / "camera-events" / "head.onnx") < encoder < 1e9

"""Weights stored as bytes: exact for weights on an even grid, and exactly what the model computes for others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.onnx_graphs import run_graph
from torch import nn

from training.builtin.everyday.byte_weights import LEAST_WEIGHTS, round_weights, store_as_bytes, to_bytes


@pytest.mark.parametrize("lowest", [-128, -40, 0])
def test_weights_on_a_grid_are_restored_from_fp16(lowest: int) -> None:
    rng = np.random.default_rng(lowest + 200)
    grid = rng.integers(lowest, lowest + 256, 2000) * 0.00371
    stored = to_bytes(grid.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(stored.values, grid, rtol=2e-4, atol=1e-6)


def test_other_weights_go_to_the_nearest_of_256_levels() -> None:
    weights = np.random.default_rng(1).normal(size=(40, 50)).astype(np.float32)
    stored = to_bytes(weights)
    step = (weights.max() - weights.min()) / 255
    assert np.abs(stored.values - weights).max() <= step * 0.51
    assert stored.levels.dtype == np.uint8


def test_constant_and_zero_weights() -> None:
    np.testing.assert_array_equal(to_bytes(np.zeros(600, np.float32)).values, 0)
    np.testing.assert_allclose(to_bytes(np.full(600, 0.3, np.float32)).values, 0.3, rtol=1e-6)


def test_the_compact_graph_computes_exactly_the_same() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(32, 20)
    assert layer.weight.numel() >= LEAST_WEIGHTS
    round_weights(layer)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 20])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(2).normal(size=(3, 32)).astype(np.float32)
    before = run_graph(model.SerializeToString(), x, "x")
    store_as_bytes(model.graph)
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["w.levels"] == TensorProto.UINT8
    assert kinds["b"] == TensorProto.FLOAT
    np.testing.assert_array_equal(run_graph(model.SerializeToString(), x, "x"), before)

"""The graph of matrix products that measures a GPU's limit."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from streamclf.bench.gpu.device_limits import PRODUCTS, products_graph
from streamclf.bench.graph_cost import weight_bytes


@pytest.mark.parametrize("quantised", [False, True])
def test_the_graph_multiplies_and_quantises_each_operand(quantised: bool, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(products_graph(8, quantised=quantised))
    kinds = [node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node]
    assert kinds.count("MatMul") == PRODUCTS
    assert kinds.count("QuantizeLinear") == (PRODUCTS + 1 if quantised else 0)
    if not quantised:
        assert weight_bytes(tmp_path / "g.onnx", "fp16") == 8 * 8 * 2

"""Lowering changes a graph to FP16 or BF16, and the CPU can simulate the result."""

import numpy as np
import pytest
from support.onnx_graphs import graph_inputs, run_graph

from engines.bundle import Bundle
from engines.graphs.lower import lower, lowerable_nodes, round_array, simulate_lowering
from engines.graphs.surgery import parse_model


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_simulation_rounds_like_a_lowered_graph(built_in: Bundle, precision: str) -> None:
    """The output of a lowered node has values of that type; NumPy's own casts define them."""
    data, name, array = graph_inputs(built_in, "head")
    model = parse_model(data, "head")
    names = lowerable_nodes(model, precision)
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    assert last.name in names
    simulate_lowering(model, precision, names)
    logits = run_graph(model.SerializeToString(), array, name)
    np.testing.assert_array_equal(logits, round_array(logits, precision))
    assert np.abs(logits - run_graph(data, array, name)).max() > 0


def test_lowering_casts_each_tensor_once(built_in: Bundle) -> None:
    model = parse_model(built_in.encoder_path.read_bytes(), "encoder")
    lower(model, "fp16")
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))

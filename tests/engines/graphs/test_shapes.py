"""Shape arithmetic is rewritten for every parser, and computes what it computed before."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.onnx_graphs import graph_inputs, make_graph, run_graph

from engines.bundle import Bundle
from engines.graphs.lint import lint
from engines.graphs.shapes import rewrite_shapes
from engines.graphs.surgery import parse_model


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = parse_model(model.SerializeToString(), "g")
    rewrite_shapes(copy)
    onnx.checker.check_model(copy, full_check=True)
    return copy


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [({"start": 0, "end": 1}, [5]), ({"start": -2}, [3, 8]), ({"end": -1}, [5, 3]), ({"start": 1, "end": 9}, [3, 8])],
)
def test_a_part_of_a_shape_is_gathered(attributes: dict[str, int], expected: list[int]) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["part"], name="s", **attributes),
        helper.make_node("Cast", ["part"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = make_graph(nodes, shape=("N", 3, 8))
    graph.graph.output[0].type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(1, [None]).tensor_type.shape)
    new = rewritten(graph)
    assert [node.op_type for node in new.graph.node] == ["Shape", "Gather", "Cast"]
    assert not new.graph.node[0].attribute
    assert run_graph(new.SerializeToString(), np.zeros((5, 3, 8), np.float32), "x").tolist() == expected


def test_the_shape_of_bytes_is_that_of_their_cast() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], name="s"),
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "size"], ["y"]),
    ]
    graph = make_graph(nodes)
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    new = rewritten(graph)
    assert [node.op_type for node in new.graph.node] == ["Cast", "Shape", "Reshape"]
    assert new.graph.node[1].input[0] == "float"
    bytes_ = np.arange(16, dtype=np.uint8).reshape(2, 8)
    np.testing.assert_array_equal(run_graph(new.SerializeToString(), bytes_, "x"), bytes_)


def test_a_squeeze_names_its_axes() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["part"], name="s", start=1, end=2),
        helper.make_node("Squeeze", ["part"], ["scalar"], name="q"),
        helper.make_node("Cast", ["scalar"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "float"], ["y"]),
    ]
    new = rewritten(make_graph(nodes))
    (squeeze,) = [node for node in new.graph.node if node.op_type == "Squeeze"]
    axes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in new.graph.initializer}[squeeze.input[1]]
    assert axes.tolist() == [0]
    array = np.ones((2, 8), np.float32)
    np.testing.assert_array_equal(run_graph(new.SerializeToString(), array, "x"), 8 * array)


@pytest.mark.parametrize("graph", ["encoder", "head"])
def test_the_built_in_graphs_pass_the_lint_for_old_parsers_afterwards(built_in: Bundle, graph: str) -> None:
    data, name, array = graph_inputs(built_in, graph)
    model = parse_model(data, graph)
    rewrite_shapes(model)
    assert [finding.text for finding in lint(model, "trt86") if finding.level == "error"] == []
    np.testing.assert_array_equal(run_graph(model.SerializeToString(), array, name), run_graph(data, array, name))

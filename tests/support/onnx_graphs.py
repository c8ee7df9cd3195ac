"""Make small ONNX graphs, and run the graphs of bundles with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from engines.bundle import Bundle, write_spec


def make_graph(
    nodes: list[onnx.NodeProto], *, opset: int = 17, shape: tuple[object, ...] = ("N", 8), **constants: Any
) -> onnx.ModelProto:
    """Make a model from the float32 input `x` to the output `y` of the same shape; the constant `one` is (8,) ones."""
    constants = {"one": np.ones(8, np.float32), **constants}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run_graph(data: bytes, array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the first output of the graph for `array` as the input `name`."""
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    output: npt.NDArray[Any] = session.run(None, {name: array})[0]
    return output


def graph_inputs(bundle: Bundle, graph: str) -> tuple[bytes, str, npt.NDArray[Any]]:
    """Return (ONNX, input name, input) of `encoder` or `head`; the input is the golden clip and, for it, some noise."""
    frames = bundle.golden().frames
    encoder = bundle.encoder_path.read_bytes()
    if graph == "encoder":
        noise = np.random.default_rng(0).integers(0, 256, (3, *bundle.spec.chunk_shape), np.uint8)
        return encoder, "frames", np.concatenate([frames, noise])
    return bundle.head_path.read_bytes(), "features", run_graph(encoder, frames, "frames")[None]


def make_overflowing_bundle(path: Path, source: Bundle, graph: str, after: str) -> Bundle:
    """Copy `source` to `path`, with two nodes behind the first node of the kind `after`.

    `blow_up` multiplies by 2**20, which overflows FP16, and `shrink_back` divides again.
    """
    path.mkdir()
    for name in source.spec.files:
        (path / name).write_bytes((source.path / name).read_bytes())
    model = onnx.load(path / f"{graph}.onnx")
    nodes = model.graph.node
    index = next(i for i, node in enumerate(nodes) if node.op_type == after)
    output = nodes[index].output[0]
    nodes[index].output[0] = "detour_in"
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(2.0**20), "up"), numpy_helper.from_array(np.float32(2.0**-20), "down")]
    )
    nodes.insert(index + 1, helper.make_node("Mul", ["detour_in", "up"], ["detour"], name="blow_up"))
    nodes.insert(index + 2, helper.make_node("Mul", ["detour", "down"], [output], name="shrink_back"))
    onnx.save(model, path / f"{graph}.onnx")
    return write_spec(path, source.spec.model_dump(exclude={"files"}))

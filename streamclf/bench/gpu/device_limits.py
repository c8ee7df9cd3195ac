"""Measure the most that a GPU can do: copies, and matrix products through TensorRT, each alone on the card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engines.errors import EngineError
from streamclf.bench.timing import time_calls

if TYPE_CHECKING:
    from engines.backends.tensorrt.interface import Platform

COPY_BYTES: Final = 256 << 20
SIDE: Final = 8192
PRODUCTS: Final = 8
"""Matrix products in a row: enough that reading the first operand and writing the last result hardly count."""
ROUND_S: Final = 0.5


def measure_device_limits(
    *, copy_bytes: int = COPY_BYTES, side: int = SIDE, round_s: float = ROUND_S
) -> dict[str, Any]:
    """Return copies in GB/s, and products of (side, side) matrices in GFLOP/s by precision, ready for JSON.

    A precision that TensorRT cannot build has the key `products_PRECISION_error` instead.
    """
    from engines.backends.tensorrt.requirements import load_platform

    platform = load_platform()
    try:
        with platform.cuda.active():
            limits: dict[str, Any] = dict(_measure_copies(platform, copy_bytes, round_s))
            for precision in ("fp16", "int8", "fp32"):
                try:
                    limits[f"products_{precision}_gflops"] = _measure_products(platform, precision, side, round_s)
                except (EngineError, RuntimeError) as error:  # noqa: PERF203 - each one may fail
                    limits[f"products_{precision}_error"] = str(error)
    finally:
        platform.cuda.close()
    return limits


def _measure_copies(platform: Platform, nbytes: int, round_s: float) -> dict[str, float]:
    """Return GB/s from pinned memory to the card, and within the card, which counts reads and writes."""
    cuda = platform.cuda
    host = cuda.pinned((nbytes,), np.uint8)
    stream, source, target = cuda.stream(), cuda.allocate(nbytes), cuda.allocate(nbytes)

    def finish() -> None:
        cuda.finish(stream)

    upload = time_calls(lambda: cuda.upload(source, host, stream), finish=finish, seconds=round_s)
    copy = time_calls(lambda: cuda.copy(target, source, nbytes, stream), finish=finish, seconds=round_s)
    cuda.release(source)
    cuda.release(target)
    return {"upload_gb_per_s": nbytes / upload.wall_s / 1e9, "copy_gb_per_s": 2 * nbytes / copy.wall_s / 1e9}


def _measure_products(platform: Platform, precision: str, side: int, round_s: float) -> float:
    """Return the GFLOP/s of square matrix products in a row with one constant matrix."""
    from engines.backends.tensorrt.interface import PlanRequest
    from engines.graphs.profiles import prepare_for_tensorrt

    cuda, compiler = platform.cuda, platform.compiler
    if precision not in compiler.traits.precisions:
        raise RuntimeError(f"TensorRT {compiler.version} has no {precision}")
    graph = prepare_for_tensorrt(
        products_graph(side, quantised=precision == "int8"),
        name="products",
        traits=compiler.traits,
        precision=precision,
    )
    plan_bytes, _ = compiler.build(
        PlanRequest(
            name="products",
            onnx=graph.onnx,
            precision=precision,
            strongly_typed=graph.strongly_typed,
            keep_fp32=graph.keep_fp32,
            max_batch=side,
            executions=1,
            workspace_bytes=1 << 30,
            timing_cache=b"",
            progress=lambda _: None,
        )
    )
    plan = compiler.load(plan_bytes)
    stream = cuda.stream()
    buffers = {name: cuda.allocate(side * side * 4) for name in ("x", "y")}
    scratch = cuda.allocate(plan.scratch_bytes) if plan.scratch_bytes else 0
    cuda.clear(buffers["x"], side * side * 4, stream)
    host = cuda.pinned((side, side), np.float32)
    host[:] = np.random.default_rng(0).standard_normal((side, side), np.float32)  # a GPU multiplies zeros faster
    cuda.upload(buffers["x"], host, stream)
    execution = plan.execution(side, buffers, scratch)
    cost = time_calls(lambda: execution.enqueue(stream), finish=lambda: cuda.finish(stream), seconds=round_s)
    for address in (*buffers.values(), *([scratch] if scratch else [])):
        cuda.release(address)
    return 2 * PRODUCTS * side**3 / cost.wall_s / 1e9


def products_graph(side: int, *, quantised: bool) -> bytes:
    """Return an ONNX graph: (N, side) float32, multiplied `PRODUCTS` times by a constant (side, side).

    If `quantised`, it has QuantizeLinear and DequantizeLinear where `engines.graphs.quantise` would write them.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(1).standard_normal((side, side), np.float32) / np.float32(side**0.5)
    weight_scale = np.float32(0.05 / side**0.5)
    constants = {"weight": weight, "scale": np.float32(0.03), "weight_scale": weight_scale, "zero": np.int8(0)}
    nodes: list[Any] = []

    def quantise(name: str, scale: str) -> str:
        if not quantised:
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, "zero"], [f"{name}/q"], name=f"{name}/quantise"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}/q", scale, "zero"], [f"{name}/dq"], name=f"{name}/dequantise"
            )
        )
        return f"{name}/dq"

    constant, value = quantise("weight", "weight_scale"), "x"
    for index in range(PRODUCTS):
        target = "y" if index == PRODUCTS - 1 else f"x{index}"
        nodes.append(helper.make_node("MatMul", [quantise(value, "scale"), constant], [target], name=f"product{index}"))
        value = target
    inputs = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", side])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return data

"""What a GPU can do at most: copy, and multiply matrices, each measured by itself on the card and through TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engines.errors import EngineError
from streamclf.bench.timing import measure

if TYPE_CHECKING:
    from engines.backends.tensorrt.interface import Platform

COPY_BYTES: Final = 256 << 20
SIDE: Final = 8192
PRODUCTS: Final = 8
"""In a row, so that reading the first and writing the last hardly count."""
ROUND_S: Final = 0.5
WEIGHT_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def measure_ceilings(*, copy_bytes: int = COPY_BYTES, side: int = SIDE, round_s: float = ROUND_S) -> dict[str, Any]:
    """Copies in GB/s, and matrix products in GFLOP/s by precision (`{"error": ...}` for one that cannot be built)."""
    from engines.backends.tensorrt.requirements import load_platform

    platform = load_platform()
    try:
        with platform.cuda.active():
            found: dict[str, Any] = dict(_copies(platform, copy_bytes, round_s))
            for precision in ("fp16", "int8", "fp32"):
                try:
                    found[f"products_{precision}_gflops"] = _products(platform, precision, side, round_s)
                except (EngineError, RuntimeError) as error:  # noqa: PERF203 - each one may fail
                    found[f"products_{precision}_error"] = str(error)
    finally:
        platform.cuda.close()
    return found


def _copies(platform: Platform, nbytes: int, round_s: float) -> dict[str, float]:
    """From pinned memory to the card, and within its own, read and write counted."""
    cuda = platform.cuda
    host = cuda.pinned((nbytes,), np.uint8)
    stream, source, target = cuda.stream(), cuda.allocate(nbytes), cuda.allocate(nbytes)

    def finish() -> None:
        cuda.finish(stream)

    upload = measure(lambda: cuda.upload(source, host, stream), finish=finish, seconds=round_s)
    copy = measure(lambda: cuda.copy(target, source, nbytes, stream), finish=finish, seconds=round_s)
    cuda.release(source)
    cuda.release(target)
    return {"upload_gb_per_s": nbytes / upload.wall_s / 1e9, "copy_gb_per_s": 2 * nbytes / copy.wall_s / 1e9}


def _products(platform: Platform, precision: str, side: int, round_s: float) -> float:
    """GFLOP/s of square products, one after the other, with one constant matrix."""
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
            workspace_bytes=1 << 30,
            timing_cache=b"",
            progress=lambda _: None,
        )
    )
    plan = compiler.load(plan_bytes)
    stream = cuda.stream()
    owned = {name: cuda.allocate(side * side * 4) for name in ("x", "y")}
    scratch = cuda.allocate(plan.scratch_bytes) if plan.scratch_bytes else 0
    cuda.clear(owned["x"], side * side * 4, stream)
    host = cuda.pinned((side, side), np.float32)
    host[:] = np.random.default_rng(0).standard_normal((side, side), np.float32)  # zeros are multiplied faster
    cuda.upload(owned["x"], host, stream)
    execution = plan.execution(side, owned, scratch)
    cost = measure(lambda: execution.enqueue(stream), finish=lambda: cuda.finish(stream), seconds=round_s)
    for address in (*owned.values(), *([scratch] if scratch else [])):
        cuda.release(address)
    return 2 * PRODUCTS * side**3 / cost.wall_s / 1e9


def products_graph(side: int, *, quantised: bool) -> bytes:
    """ONNX: (N, side) float32 times a constant (side, side), `PRODUCTS` times; in INT8 as `quantise` would write it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(1).standard_normal((side, side), np.float32) / np.float32(side**0.5)
    constants = {"weight": weight, "scale": np.float32(0.03), "fine": np.float32(0.05 / side**0.5), "zero": np.int8(0)}
    nodes: list[Any] = []

    def rounded(name: str, scale: str) -> str:
        if not quantised:
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, "zero"], [f"{name}/q"], name=f"{name}/quantise"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}/q", scale, "zero"], [f"{name}/dq"], name=f"{name}/dequantise"
            )
        )
        return f"{name}/dq"

    constant, value = rounded("weight", "fine"), "x"
    for index in range(PRODUCTS):
        target = "y" if index == PRODUCTS - 1 else f"x{index}"
        nodes.append(helper.make_node("MatMul", [rounded(value, "scale"), constant], [target], name=f"product{index}"))
        value = target
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", side])],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in constants.items()
            if _is_read(name, nodes)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return data


def _is_read(name: str, nodes: list[Any]) -> bool:
    return any(name in node.input for node in nodes)


def weight_bytes(path: Path, precision: str) -> int:
    """Bytes of an ONNX graph's constants as an engine in `precision` reads them. Needs `onnx`."""
    import onnx

    graph = onnx.load(str(path)).graph
    return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer) * WEIGHT_BYTES[precision]

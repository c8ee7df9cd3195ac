"""The installed TensorRT has every name that the adapter uses. Needs its Python bindings, but no GPU."""

import ast
import functools
import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("tensorrt") is None:
    pytest.skip("needs tensorrt's bindings, no GPU", allow_module_level=True)

import tensorrt as trt

import engines.backends.tensorrt
from engines.backends.tensorrt.library import NUMPY_TYPES, REQUIRED_API, _Logger, find_traits

LATER = {"ExecutionContextAllocationStrategy", "IProgressMonitor"}
"""Names that the adapter uses only after it has checked that they exist; added in 10."""
METHODS = {
    "Builder": ["create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"],
    "OnnxParser": ["parse", "num_errors", "get_error"],
    "ParserError": ["desc", "node"],
    "IBuilderConfig": [
        *("set_memory_pool_limit", "set_flag", "clear_flag", "add_optimization_profile"),
        *("create_timing_cache", "set_timing_cache", "get_timing_cache"),
    ],
    "INetworkDefinition": ["num_layers", "get_layer", "num_inputs", "get_input"],
    "ILayer": ["name", "type", "precision", "num_outputs", "get_output", "set_output_type"],
    "IOptimizationProfile": ["set_shape"],
    "ITimingCache": ["serialize"],
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        *("num_io_tensors", "get_tensor_name", "get_tensor_shape", "get_tensor_dtype", "get_tensor_mode"),
        "create_execution_context",
    ],
    "IExecutionContext": ["set_input_shape", "infer_shapes", "set_tensor_address", "execute_async_v3"],
}
GONE_IN_11 = {("ILayer", "precision"), ("ILayer", "set_output_type")}


def names_in_adapter() -> set[str]:
    """Collect every `trt.A.B` in the adapter's source."""
    source = Path(engines.backends.tensorrt.__file__).with_name("library.py").read_text()
    chains = set()
    for node in ast.walk(ast.parse(source)):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "trt" and parts and parts[0] not in LATER:
            chains.add(".".join(parts))
    return chains


@pytest.mark.parametrize("name", sorted(names_in_adapter()))
def test_every_name_exists(name: str) -> None:
    if name in ("BuilderFlag.FP16", "BuilderFlag.OBEY_PRECISION_CONSTRAINTS") and not find_traits().flags:
        pytest.skip("gone in 11; used only if the builder has precision flags")
    assert functools.reduce(getattr, name.split("."), trt) is not None


@pytest.mark.parametrize(("owner", "method"), [(owner, name) for owner, names in METHODS.items() for name in names])
def test_every_method_exists(owner: str, method: str) -> None:
    if (owner, method) in GONE_IN_11 and not find_traits().flags:
        pytest.skip("gone in 11; used only if the builder has precision flags")
    assert hasattr(getattr(trt, owner), method)


def test_the_probed_features_are_consistent() -> None:
    assert all(hasattr(getattr(trt, owner), name) for owner, name in REQUIRED_API)
    traits = find_traits()
    assert traits.flags or traits.strongly_typed
    assert "fp16" in traits.precisions
    assert {"FLOAT", "HALF", "INT8", "INT32", "UINT8"} <= set(NUMPY_TYPES) & set(trt.DataType.__members__)
    # There is a way to set scratch memory, and one to create a context without memory.
    assert hasattr(trt.IExecutionContext, "set_device_memory") or hasattr(trt.IExecutionContext, "device_memory")
    assert hasattr(trt.ICudaEngine, "create_execution_context_without_device_memory") or hasattr(
        trt, "ExecutionContextAllocationStrategy"
    )


def test_the_logger_keeps_errors_and_detects_out_of_memory() -> None:
    logger = _Logger()
    assert isinstance(logger, trt.ILogger)
    logger.log(trt.ILogger.INFO, "hello")
    assert not logger.errors
    logger.log(trt.ILogger.ERROR, "1: [defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)")
    assert logger.out_of_memory()
    assert "defaultAllocator" in logger.last()

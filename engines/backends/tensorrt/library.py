"""Use TensorRT 8.5, 8.6, 10 and 11 through one set of calls; probe for each feature instead of comparing versions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorrt as trt

from engines.backends.tensorrt.interface import (
    AllocationError,
    CudaStream,
    Execution,
    Plan,
    PlanRequest,
    Tensor,
    TensorRtTraits,
)
from engines.cache import StaleBlobError
from engines.errors import BackendMissingError, CompileError

NUMPY_TYPES: Final = {
    # By TensorRT's name. On 8.5, TensorRT's `nptype` breaks with NumPy 1.24 and later.
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}
FLAGS: Final = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
DYNAMIC_SHAPES: Final = "FASTER_DYNAMIC_SHAPES_0805"
PROFILE_SHARING: Final = "PROFILE_SHARING_0806"
"""Features that are optional in 8.5 and 8.6 and always on in 10."""
OUT_OF_MEMORY: Final = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "memory is insufficient",
    "insufficient workspace",
    "memory allocation",
)
"""Parts of TensorRT's error messages, in lower case, that mean that the device has too little memory."""
EXTERNAL_TACTICS: Final = ("CUBLAS", "CUBLAS_LT", "CUDNN")
REQUIRED_API: Final = (
    ("ICudaEngine", "num_io_tensors"),
    ("ICudaEngine", "get_tensor_mode"),
    ("IExecutionContext", "set_input_shape"),
    ("IExecutionContext", "set_tensor_address"),
    ("IExecutionContext", "execute_async_v3"),
    ("IBuilderConfig", "set_memory_pool_limit"),
    ("Builder", "build_serialized_network"),
)
"""Every version from 8.5 on has all of these; an older one lacks some."""

log = logging.getLogger("engine")


class TensorRtCompiler:
    """The installed TensorRT. Create it only while a CUDA context is current, or TensorRT crashes."""

    def __init__(self) -> None:
        missing = [f"{owner}.{name}" for owner, name in REQUIRED_API if not hasattr(getattr(trt, owner, None), name)]
        if missing:
            raise BackendMissingError(
                f"tensorrt {trt.__version__} has no {missing[0]}: 8.5 or later is needed; pip install -U tensorrt"
            )
        self.version: str = trt.__version__
        self.traits = find_traits()
        self._logger = _Logger()
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self._logger, "")  # 8.5 needs a plugin for InstanceNormalization
        self._runtime = trt.Runtime(self._logger)

    def build(self, request: PlanRequest) -> tuple[bytes, bytes]:
        """See `Compiler.build`."""
        self._logger.errors.clear()
        builder = trt.Builder(self._logger)
        network = builder.create_network(_network_flags(request))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(request.onnx):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            raise CompileError(
                f"{request.name}: TensorRT {self.version} cannot read the graph: {_parser_errors(errors)}; "
                "export the bundle again, or use backend openvino or onnxruntime"
            )
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
        _disable_external_tactics(config)
        _set_precision(config, network, request)
        _set_previews(config)
        for _ in range(1 if self.traits.shared_profiles else request.executions):
            config.add_optimization_profile(_profile(builder, network, request.max_batch))
        cache = config.create_timing_cache(request.timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):  # from another device: begin a new one
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        _report_progress(config, request)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            if self._logger.out_of_memory():
                raise AllocationError
            raise CompileError(f"{request.name}: TensorRT {self.version} cannot build it: {self._logger.last()}")
        return bytes(memoryview(plan)), bytes(memoryview(config.get_timing_cache().serialize()))

    def load(self, plan: bytes) -> Plan:
        """See `Compiler.load`."""
        self._logger.errors.clear()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            if self._logger.out_of_memory():
                raise AllocationError
            raise StaleBlobError(f"TensorRT {self.version} cannot load the plan: {self._logger.last()}")
        return _LoadedPlan(engine, self._logger)


def find_traits() -> TensorRtTraits:
    """Probe the features of the installed TensorRT."""
    creation = trt.NetworkDefinitionCreationFlag
    flags = frozenset(name for name, flag in FLAGS.items() if hasattr(trt.BuilderFlag, flag))
    return TensorRtTraits(
        layer_norm=hasattr(trt.INetworkDefinition, "add_normalization"),
        flags=flags,
        # In 11 every network is strongly typed; the flag may still exist for compatibility.
        strongly_typed=hasattr(creation, "STRONGLY_TYPED") or not flags,
        # Only 8.5 has the first feature without the second.
        shared_profiles=not _has_preview(DYNAMIC_SHAPES) or _has_preview(PROFILE_SHARING),
    )


def _has_preview(name: str) -> bool:
    return hasattr(getattr(trt, "PreviewFeature", None), name)


def _set_previews(config: Any) -> None:
    """Switch on what 10 always does: executions that share a profile, and the faster kernels for dynamic shapes."""
    if _has_preview(DYNAMIC_SHAPES):
        for name in (DYNAMIC_SHAPES, PROFILE_SHARING):
            if _has_preview(name):
                config.set_preview_feature(getattr(trt.PreviewFeature, name), True)


def _network_flags(request: PlanRequest) -> int:
    creation = trt.NetworkDefinitionCreationFlag
    names = ["EXPLICIT_BATCH"]  # 8.x needs it, 10 ignores it, 11 has removed it
    if request.strongly_typed:
        names.append("STRONGLY_TYPED")
    return sum(1 << int(getattr(creation, name)) for name in names if hasattr(creation, name))


def _disable_external_tactics(config: Any) -> None:
    """Let TensorRT use only its own kernels, as 10 and later do.

    cuBLAS and cuDNN are gigabytes that a serving machine may not have. With them a plan takes hundreds of MiB more of
    device memory and depends on their versions too.
    """
    feature = getattr(getattr(trt, "PreviewFeature", None), "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", None)
    if feature is not None:
        config.set_preview_feature(feature, True)
    sources = trt.TacticSource.__members__
    if any(name in sources for name in EXTERNAL_TACTICS):
        config.set_tactic_sources(
            sum(1 << int(source) for name, source in sources.items() if name not in EXTERNAL_TACTICS)
        )


def _set_precision(config: Any, network: Any, request: PlanRequest) -> None:
    """Let the builder lower the precision, except for `keep_fp32`, if the graph's types do not define it."""
    if request.strongly_typed or request.precision == "fp32":
        tf32 = getattr(trt.BuilderFlag, "TF32", None)
        if tf32 is not None and request.precision == "fp32":
            config.clear_flag(tf32)  # TF32 has 10 bits of mantissa, which is not fp32
        return
    config.set_flag(getattr(trt.BuilderFlag, FLAGS[request.precision]))
    if request.precision == "int8":
        config.set_flag(trt.BuilderFlag.FP16)  # for the layers that are not quantised
    fp32_layers = set(request.keep_fp32)
    if not fp32_layers:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name not in fp32_layers or layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE):
            continue
        layer.precision = trt.float32
        for output in range(layer.num_outputs):
            if layer.get_output(output).dtype == trt.float32:
                layer.set_output_type(output, trt.float32)


def _profile(builder: Any, network: Any, max_batch: int) -> Any:
    """Make a profile for batches of 1 to `max_batch`, tuned for the largest, which decides the throughput."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        _, *item = tuple(tensor.shape)
        profile.set_shape(tensor.name, *((batch, *item) for batch in (1, max_batch, max_batch)))
    return profile


def _report_progress(config: Any, request: PlanRequest) -> None:
    base = getattr(trt, "IProgressMonitor", None)
    if base is None or not hasattr(config, "progress_monitor"):  # TensorRT before 10
        return

    class Monitor(base):  # type: ignore[misc, valid-type]  # TensorRT's class, known only at run time
        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                request.progress(f"{name} ({steps} steps)")

        def phase_finish(self, name: str) -> None:
            pass

        def step_complete(self, name: str, step: int) -> bool:
            return True

    config.progress_monitor = Monitor()


def _parser_errors(errors: list[Any]) -> str:
    """Describe the parser's errors, each distinct one once."""
    texts = []
    for error in errors:
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        node = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
        text = f"{operator} ({node}): {error.desc()}" if operator else f"{node}: {error.desc()}"
        texts.append(" ".join(text.split())[:300])
    return "; ".join(dict.fromkeys(texts[:5])) or "TensorRT gives no reason"


class _LoadedPlan:
    """See `Plan`."""

    def __init__(self, engine: Any, logger: _Logger) -> None:
        self._engine, self._logger = engine, logger
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.tensors: Mapping[str, Tensor] = {
            name: Tensor(
                shape=tuple(engine.get_tensor_shape(name)),
                dtype=np.dtype(NUMPY_TYPES[engine.get_tensor_dtype(name).name]),
            )
            for name in names
        }
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        # 11 has no `device_memory_size`, versions before 10 have no `_v2`.
        size = getattr(engine, "device_memory_size_v2", None)
        self.scratch_bytes = int(engine.device_memory_size if size is None else size)
        self._executions = 0

    def execution(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Execution:
        """See `Plan.execution`."""
        self._logger.errors.clear()
        context = self._context_without_memory()
        if context is None:
            if self._logger.out_of_memory():
                raise AllocationError
            raise RuntimeError(f"TensorRT cannot create an execution context: {self._logger.last()}")
        self._choose_profile(context)
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch, self.scratch_bytes)
        else:
            context.device_memory = scratch
        for name in self._inputs:
            if not context.set_input_shape(name, (batch, *self.tensors[name].shape[1:])):
                raise RuntimeError(f"TensorRT refuses batch {batch} for {name}: {self._logger.last()}")
        if missing := context.infer_shapes():
            raise RuntimeError(f"TensorRT cannot infer the shapes of {', '.join(missing)}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise RuntimeError(f"TensorRT refuses the address of {name}: {self._logger.last()}")
        return _Execution(context=context, logger=self._logger)

    def _context_without_memory(self) -> Any:
        if hasattr(trt, "ExecutionContextAllocationStrategy"):  # 10 and later, where the other call is deprecated
            return self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        return self._engine.create_execution_context_without_device_memory()

    def _choose_profile(self, context: Any) -> None:
        """Give each execution a profile of its own, if the plan has several: 8.5 refuses to share one."""
        profiles = int(self._engine.num_optimization_profiles)
        if profiles > 1:
            if self._executions >= profiles:
                raise RuntimeError(f"the plan has {profiles} optimisation profiles, each for one execution")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the other way needs a stream
                context.active_optimization_profile = self._executions
        self._executions += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Execution:
    context: Any
    logger: _Logger

    def enqueue(self, stream: CudaStream) -> None:
        if not self.context.execute_async_v3(stream.handle):
            raise RuntimeError(f"TensorRT cannot run the plan: {self.logger.last()}")


class _Logger(trt.ILogger):  # type: ignore[misc]  # TensorRT's class has no type
    """Write TensorRT's warnings and errors to the log, and keep the errors for the exception that follows them."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Receive a message; TensorRT calls this from any thread."""
        text = " ".join(message.split())[:500]
        if int(severity) <= int(trt.ILogger.ERROR):
            self.errors = [*self.errors[-19:], text]
            log.debug("TensorRT error: %s", text)
        elif severity == trt.ILogger.WARNING:
            log.debug("TensorRT warning: %s", text)

    def last(self) -> str:
        """Return the newest error."""
        return self.errors[-1] if self.errors else "TensorRT gives no reason"

    def out_of_memory(self) -> bool:
        """Tell whether one of the errors since the last call is about memory."""
        return any(text in error.lower() for error in self.errors for text in OUT_OF_MEMORY)

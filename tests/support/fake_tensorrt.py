"""Imitate the parts of TensorRT's Python API that the adapter calls, as the versions 8.5, 8.6, 10 and 11 have them.

It compiles nothing. It records the calls, and refuses what the real versions refuse: a second execution context on one
optimisation profile (8.5), and deprecated calls where warnings are errors (10).
"""

from __future__ import annotations

import enum
import types
import warnings
from dataclasses import dataclass, field
from typing import Any

VERSIONS = ("8.5.3.1", "8.6.1", "10.13.3", "11.4.0")


class Logger:
    """See `tensorrt.ILogger`."""

    ERROR, WARNING, INFO = 1, 2, 3

    def __init__(self) -> None: ...


@dataclass
class Context:
    """See `tensorrt.IExecutionContext`."""

    engine: Engine
    profile: int = 0

    @property
    def active_optimization_profile(self) -> int:
        return self.profile

    @active_optimization_profile.setter
    def active_optimization_profile(self, index: int) -> None:
        warnings.warn("Use set_optimization_profile_async instead.", DeprecationWarning, stacklevel=2)
        self.profile = index

    def set_device_memory(self, address: int, nbytes: int) -> None: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        others = [each for each in self.engine.contexts if each is not self and each.profile == self.profile]
        if others and not self.engine.shares_profiles:
            self.engine.logger.log(Logger.ERROR, f"Profile {self.profile} has been chosen by another IExecutionContext")
            return False
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        return True


class Engine:
    """See `tensorrt.ICudaEngine`."""

    num_io_tensors = 2
    device_memory_size = 64

    def __init__(self, fake: Any, profiles: int, shares_profiles: bool, logger: Any) -> None:
        self._fake, self.num_optimization_profiles = fake, profiles
        self.shares_profiles, self.logger = shares_profiles, logger
        self.contexts: list[Context] = []
        self.strategies: list[Any] = []

    def get_tensor_name(self, index: int) -> str:
        return ("frames", "features")[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 4)

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name="FLOAT")

    def get_tensor_mode(self, name: str) -> Any:
        return self._fake.TensorIOMode.INPUT if name == "frames" else self._fake.TensorIOMode.OUTPUT

    def create_execution_context(self, strategy: Any) -> Context:
        self.strategies.append(strategy)
        return self._new_context()

    def create_execution_context_without_device_memory(self) -> Context:
        if hasattr(self._fake, "ExecutionContextAllocationStrategy"):
            warnings.warn("Use create_execution_context with USER_MANAGED.", DeprecationWarning, stacklevel=2)
        return self._new_context()

    def _new_context(self) -> Context:
        context = Context(self)
        self.contexts.append(context)
        return context


@dataclass
class Config:
    """See `tensorrt.IBuilderConfig`."""

    profiles: list[Any] = field(default_factory=list)
    flags: list[Any] = field(default_factory=list)
    previews: dict[str, bool] = field(default_factory=dict)
    workspace: int = 0

    def set_memory_pool_limit(self, pool: Any, nbytes: int) -> None:
        self.workspace = nbytes

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        self.previews[feature.name] = on

    def set_tactic_sources(self, sources: int) -> None: ...
    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag)

    def clear_flag(self, flag: Any) -> None: ...
    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data == b"damaged" else types.SimpleNamespace(serialize=lambda: b"timing")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert cache is not None, "set_timing_cache(): incompatible function arguments"
        return True

    def get_timing_cache(self) -> Any:
        return types.SimpleNamespace(serialize=lambda: b"timing")


@dataclass
class Layer:
    """See `tensorrt.ILayer`: a layer with one output."""

    name: str
    type: Any = None
    precision: Any = None
    output_type: Any = None
    num_outputs: int = 1

    def get_output(self, index: int) -> Any:
        return types.SimpleNamespace(dtype="float32")

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.output_type = dtype


class Builder:
    """See `tensorrt.Builder`."""

    last_config: Config
    failure: str | None = None
    layers: list[Layer] = []  # noqa: RUF012 - tests replace it

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Any:
        tensor = types.SimpleNamespace(name="frames", shape=(-1, 4))
        return types.SimpleNamespace(
            num_layers=len(self.layers), get_layer=self.layers.__getitem__, num_inputs=1, get_input=lambda index: tensor
        )

    def create_builder_config(self) -> Config:
        Builder.last_config = Config()
        return Builder.last_config

    def create_optimization_profile(self) -> Any:
        return types.SimpleNamespace(set_shape=lambda *arguments: None)

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        if Builder.failure is not None:
            self._logger.log(Logger.ERROR, Builder.failure)
            return None
        return str(len(config.profiles)).encode()


def make_fake(version: str) -> Any:
    """Return a module like `tensorrt` of the given version."""
    major, minor = (int(part) for part in version.split(".")[:2])
    fake: Any = types.ModuleType("tensorrt")
    fake.__version__ = version
    fake.ILogger, fake.Builder, fake.ICudaEngine, fake.IExecutionContext = Logger, Builder, Engine, Context
    fake.IBuilderConfig = Config
    fake.TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    fake.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    creation = {8: "EXPLICIT_BATCH", 10: "EXPLICIT_BATCH STRONGLY_TYPED", 11: "STRONGLY_TYPED"}[major]
    fake.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation)
    flags = {8: "FP16 INT8 TF32", 10: "FP16 BF16 INT8 TF32", 11: "TF32"}[major]
    fake.BuilderFlag = enum.Enum("BuilderFlag", flags + (" OBEY_PRECISION_CONSTRAINTS" if major < 11 else ""))
    fake.float32, fake.LayerType = "float32", enum.Enum("LayerType", "CONSTANT SHAPE MATRIX_MULTIPLY")
    network = {"add_normalization": None} if (major, minor) >= (8, 6) else {}
    fake.INetworkDefinition = type("INetworkDefinition", (), network)
    external = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"
    previews = {
        (8, 5): f"FASTER_DYNAMIC_SHAPES_0805 {external}",
        (8, 6): f"FASTER_DYNAMIC_SHAPES_0805 {external} PROFILE_SHARING_0806",
        (10, 13): "PROFILE_SHARING_0806",
    }
    if (major, minor) in previews:
        fake.PreviewFeature = enum.Enum("PreviewFeature", previews[major, minor])
    fake.TacticSource = enum.IntEnum(
        "TacticSource", "CUBLAS EDGE_MASK_CONVOLUTIONS" if major < 11 else "JIT_CONVOLUTIONS"
    )
    if major >= 10:
        fake.ExecutionContextAllocationStrategy = enum.Enum("Strategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")
    fake.OnnxParser = lambda network, logger: types.SimpleNamespace(parse=lambda data: True, num_errors=0)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine:
            return Engine(fake, int(plan), (major, minor) >= (8, 6), self._logger)

    fake.Runtime = Runtime
    return fake

"""The calls that the adapter makes to each version of TensorRT, on an imitation of its Python API."""

import importlib
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from support.fake_tensorrt import VERSIONS, Builder, Layer, make_fake

from engines.backends.tensorrt.interface import AllocationError, PlanRequest
from engines.errors import CompileError

NAME = "engines.backends.tensorrt.library"


@pytest.fixture
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The adapter, imported with the imitation of one version."""
    monkeypatch.setitem(sys.modules, "tensorrt", make_fake(request.param))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr(Builder, "failure", None)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME, None)


def request(**changes: Any) -> PlanRequest:
    values: dict[str, Any] = {
        "name": "encoder.onnx",
        "onnx": b"",
        "precision": "fp32",
        "strongly_typed": False,
        "keep_fp32": (),
        "max_batch": 4,
        "executions": 4,
        "workspace_bytes": 1 << 30,
        "timing_cache": b"",
        "progress": lambda phase: None,
    }
    return PlanRequest(**values | changes)


@pytest.mark.parametrize("library", VERSIONS, indirect=True)
def test_each_version_gives_every_execution_what_it_needs(library: ModuleType) -> None:
    """8.5 refuses two contexts on one profile; 10 warns of the call that 8.x needs, and the tests forbid warnings."""
    compiler = library.TensorRtCompiler()
    plan_bytes, _ = compiler.build(request())
    plan = compiler.load(plan_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        executions = [plan.execution(batch, {"frames": 1, "features": 2}, 3) for batch in (1, 2, 3, 4)]
    contexts = plan._engine.contexts
    profiles = [context.profile for context in contexts]
    assert len(executions) == 4
    old = compiler.version.startswith("8.5")
    assert profiles == ([0, 1, 2, 3] if old else [0, 0, 0, 0])
    assert len(Builder.last_config.profiles) == (4 if old else 1)
    strategies = [strategy.name for strategy in plan._engine.strategies]
    assert strategies == ([] if compiler.version.startswith("8") else ["USER_MANAGED"] * 4)


@pytest.mark.parametrize("library", VERSIONS, indirect=True)
def test_the_optional_features_of_old_versions_are_switched_on(library: ModuleType) -> None:
    compiler = library.TensorRtCompiler()
    compiler.build(request())
    features = {name for name, on in Builder.last_config.previews.items() if on}
    expected = {
        "8.5.3.1": {"FASTER_DYNAMIC_SHAPES_0805", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"},
        "8.6.1": {
            *("FASTER_DYNAMIC_SHAPES_0805", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", "PROFILE_SHARING_0806")
        },
    }
    assert features == expected.get(compiler.version, set())
    assert compiler.traits.shared_profiles == (compiler.version != "8.5.3.1")


@pytest.mark.parametrize("library", ["8.5.3.1", "8.6.1"], indirect=True)
def test_an_int8_build_uses_fp16_for_the_rest_and_keeps_the_pinned_layers(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm, other = Layer("norm"), Layer("product")
    monkeypatch.setattr(Builder, "layers", [norm, other])
    library.TensorRtCompiler().build(request(precision="int8", keep_fp32=("norm",)))
    assert {flag.name for flag in Builder.last_config.flags} == {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert (norm.precision, norm.output_type) == ("float32", "float32")
    assert (other.precision, other.output_type) == (None, None)


@pytest.mark.parametrize("library", ["8.5.3.1"], indirect=True)
def test_more_executions_than_profiles_are_refused(library: ModuleType) -> None:
    compiler = library.TensorRtCompiler()
    plan = compiler.load(compiler.build(request(executions=2))[0])
    for batch in (1, 2):
        plan.execution(batch, {}, 3)
    with pytest.raises(RuntimeError, match="has 2 optimisation profiles, each for one execution"):
        plan.execution(3, {}, 3)


@pytest.mark.parametrize("library", VERSIONS, indirect=True)
@pytest.mark.parametrize(
    "message",
    [
        "[optimizer.cpp] Error Code 10: Could not find any implementation for node due to insufficient workspace",
        "Requested amount of GPU memory could not be allocated: the memory is insufficient",
        "Error Code 1: Cuda Runtime (out of memory)",
        "OutOfMemory (no further information)",
    ],
)
def test_a_build_that_lacks_memory_is_told_from_other_failures(library: ModuleType, message: str) -> None:
    compiler = library.TensorRtCompiler()
    Builder.failure = message
    with pytest.raises(AllocationError):
        compiler.build(request())
    Builder.failure = "Error Code 4: Internal Error (node of type Foo is unsupported)"
    with pytest.raises(CompileError, match="node of type Foo is unsupported"):
        compiler.build(request())


@pytest.mark.parametrize("library", VERSIONS, indirect=True)
def test_a_damaged_timing_cache_is_replaced(library: ModuleType) -> None:
    assert library.TensorRtCompiler().build(request(timing_cache=b"damaged"))[1] == b"timing"

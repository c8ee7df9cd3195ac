"""Fixtures of the GPU suite's tests: a double of the GPU and TensorRT, and a small request."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gpu_double import double_platform

import engines.backends.tensorrt
import engines.backends.tensorrt.requirements
from engines.backends.gpu import Gpu
from streamclf.bench.gpu import suite
from streamclf.bench.gpu.part import PartRequest


@pytest.fixture
def small() -> PartRequest:
    """A request that takes a fraction of a second."""
    return PartRequest(max_batch=4, streams=6, seconds=0.3, copy_bytes=4096, side=16, round_s=0.001)


@pytest.fixture
def with_double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the GPU and TensorRT by their double. ONNX Runtime, which computes in it, has no bf16."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(suite, "find_gpus", lambda: [Gpu(name="Double")])
    monkeypatch.setattr(suite, "missing_libraries", lambda backend: [])
    monkeypatch.setattr("engines.opening.missing_libraries", lambda backend: [])
    monkeypatch.setattr(suite, "PRECISIONS", ("fp16", "fp32", "int8"))
    for module in (engines.backends.tensorrt, engines.backends.tensorrt.requirements):
        monkeypatch.setattr(module, "load_platform", double_platform)

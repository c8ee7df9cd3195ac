"""The parts of tests/gpu/bench.py that a machine without a GPU can run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("gpu_bench", TESTS / "gpu" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_parts_cover_every_architecture_precision_and_torch(bench: ModuleType) -> None:
    parts = bench.parts()
    assert len(set(parts)) == len(parts)
    for name in ("vivit-encoder", "vivit-joint", "vivit-self", "vivit-dot", "hybrid-densenet121", "conv-transformer"):
        for what in ("bundle", "fp16", "int8", "fp32", "torch-fp16", "torch-fp32"):
            assert f"{name}/{what}" in parts
    # The goal comes first, because the GPU may not be available until the end.
    assert parts.index("vivit-encoder/fp16") < 4
    assert parts.index("conv-transformer/bundle") < parts.index("conv-transformer/fp16")


@NEEDS_TORCH
@pytest.mark.parametrize("name", ["vivit-joint", "hybrid-densenet121"])
def test_torch_classifies_whole_windows_and_encodes_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import gpu_torch

    monkeypatch.setattr(gpu_torch, "MODES", ("eager", "graph"))
    monkeypatch.setattr(gpu_torch, "CHUNK_BATCHES", (2, 6))  # fewer chunks than a window has, and more
    found = gpu_torch.measure_torch(name, "fp32", small=True, device="cpu", seconds=0.01)
    rows = {(row["work"], row["batch"], row["mode"]): row for row in found["rows"]}
    assert set(rows) == {
        (work, batch, mode)
        for work, sizes in (("whole", (1, 8)), ("once", (2, 6)))
        for batch in sizes
        for mode in ("eager", "graph")
    }
    for (_, _, mode), row in rows.items():
        assert ("error" in row) == (mode == "graph")  # without CUDA only the graph fails
        assert mode == "graph" or row["per_s"] > 0


@NEEDS_TORCH
def test_every_architecture_runs_with_lowered_weights() -> None:
    """The weights are in half precision under autocast, as on a GPU. A CPU has BF16, so it replaces FP16 here."""
    import torch
    from support.gpu_models import MODELS, model_settings, random_weights
    from support.model_kinds import random_windows

    for name in MODELS:
        frames = random_windows(model_settings(name, small=True), count=1)
        model = random_weights(name, small=True)
        with torch.inference_mode():
            exact = model(frames).softmax(-1)
            with torch.autocast("cpu", torch.bfloat16):
                lowered = model.to(torch.bfloat16)(frames).softmax(-1)
        assert torch.isfinite(lowered).all()
        assert (lowered.float() - exact).abs().max() < 0.1, name


@NEEDS_TORCH
def test_torchs_ceilings_are_measured() -> None:
    from support.gpu_torch import measure_ceilings

    found = measure_ceilings(device="cpu", side=16, nbytes=1024, seconds=0.01)
    assert found["products_fp16_gflops"] > 0
    assert found["copy_gb_per_s"] > 0


def engine_result(per_s: float, p99: float = 20.0) -> dict[str, Any]:
    live = {"streams": 1000, "held": p99 <= 50, "predictions_per_s": 6249.0, "latency_ms": {"p50": 5.0, "p99": p99}}
    return {"batches": [{"predictions_per_s": per_s / 2}, {"predictions_per_s": per_s}], "live": [live]}


def torch_result(compiled: float | None) -> dict[str, Any]:
    row = {"work": "whole", "batch": 1, "mode": "compile"}
    return {"rows": [{**row, "error": "no"} if compiled is None else {**row, "per_s": compiled}]}


@pytest.mark.parametrize(
    ("per_s", "compiled", "p99", "met"),
    [
        (12_000.0, 1_000.0, 20.0, {"per_s": True, "p99_ms": True, "times_compile": True}),
        (12_000.0, 1_001.0, 20.0, {"per_s": True, "p99_ms": True, "times_compile": False}),
        (12_000.0, None, 51.0, {"per_s": False, "p99_ms": False, "times_compile": None}),
    ],
)
def test_the_goal_is_compared_with_the_measurement(
    bench: ModuleType, per_s: float, compiled: float | None, p99: float, met: dict[str, Any]
) -> None:
    results = {"vivit-encoder/fp16": engine_result(per_s, p99), "vivit-encoder/torch-fp16": torch_result(compiled)}
    assert bench.check_goal(bench.compare_with_torch(results))["met"] == met
    assert bench.check_goal(bench.compare_with_torch({"vivit-joint/fp16": engine_result(1.0)})) is None
    assert bench.compare_with_torch({"vivit-joint/fp16": {"error": "too large"}}) == []


def test_without_a_gpu_the_part_has_an_error_and_the_command_ends(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("this machine may have a GPU")
    command = [sys.executable, str(TESTS / "gpu" / "bench.py"), "--only", "ceilings", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert "no NVIDIA driver is running here" in found["ceilings"]["error"]
    assert found["left"] == []

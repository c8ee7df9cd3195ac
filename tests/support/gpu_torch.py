"""Measure torch with the models of the GPU tests: `python -m support.gpu_torch NAME PRECISION` prints JSON.

Torch classifies whole windows (`whole`), and encodes each chunk once into a bank (`once`). Each runs eager, compiled,
and as a CUDA graph of the compiled function. Unlike the engine, torch has its frames on the GPU already and leaves its
probabilities there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from support.gpu_models import model_settings, random_weights
from support.model_kinds import parse_recipe, random_windows

from streamclf.bench.timing import time_calls
from training.models import ClipModel

MODES = ("eager", "compile", "graph")
WINDOW_BATCHES = (1, 8)
CHUNK_BATCHES = (1, 32)
SECONDS = 0.5
SIDE = 8192
COPY_BYTES = 1 << 30
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Call = Callable[[], Any]


def measure_torch(
    name: str, precision: str, *, small: bool = False, device: str = "cuda", seconds: float = SECONDS
) -> dict[str, Any]:
    """Measure windows/s and predictions/s for each mode and batch; the row of a mode that fails has the error."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model = random_weights(name, small=small).to(device)
    if precision != "fp32":
        model = model.to(TYPES[precision])  # once here, because autocast would copy all weights at each call
    rows = []
    with torch.inference_mode(), _lowered(precision, device):
        for work, sizes in (("whole", WINDOW_BATCHES), ("once", CHUNK_BATCHES)):
            for batch in sizes:
                call = _work(work, model, model_settings(name, small=small), batch, device)
                rows += [_row(work, batch, mode, call, device, seconds) for mode in MODES]
    return {"torch": torch.__version__, "device": _device(device), "rows": rows}


def _lowered(precision: str, device: str) -> AbstractContextManager[Any]:
    """Compute norms in FP32 and products in `precision`."""
    return torch.autocast(device, TYPES[precision], enabled=precision != "fp32")


def _work(work: str, model: ClipModel, settings: dict[str, Any], batch: int, device: str) -> Callable[[], torch.Tensor]:
    """Make the function to measure: classify `batch` whole windows, or encode and classify `batch` chunks."""
    chunks = parse_recipe(settings).chunks
    window = random_windows(settings, count=1).to(device)
    if work == "whole":
        batched = window.expand(batch, *window.shape[1:]).contiguous()
        return lambda: model(batched).softmax(-1)
    frames = window[0, :1].expand(batch, *window.shape[2:]).contiguous()
    bank = model.encoder(window[0]).repeat(1 + batch // chunks, *[1] * (model.encoder(window[0, :1]).ndim - 1))
    slots = torch.arange(batch, device=device)
    rows = torch.randint(0, len(bank), (batch, chunks), device=device)

    def predict() -> torch.Tensor:
        bank[slots] = model.encoder(frames).to(bank.dtype)
        return model.head(bank[rows]).softmax(-1)

    return predict


def _row(work: str, batch: int, mode: str, call: Call, device: str, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"work": work, "batch": batch, "mode": mode}
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    try:
        run = _run_as(mode, call)
        cost = time_calls(run, finish=finish, seconds=seconds)
    except Exception as error:  # torch and its compiler raise many types, also for lack of memory
        torch.compiler.reset()
        return {**row, "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {**row, "per_s": batch / cost.wall_s, "spread": cost.wall_spread}


def _run_as(mode: str, call: Call) -> Call:
    if mode == "eager":
        return call
    if mode == "graph" and not torch.cuda.is_available():
        raise RuntimeError("a graph needs CUDA")  # checked before minutes of compiling
    compiled: Call = torch.compile(call, dynamic=False)
    compiled()
    if mode == "compile":
        return compiled
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warm up: allocations at first use must not happen during capture
        for _ in range(3):
            compiled()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compiled()
    return graph.replay


def measure_ceilings(
    *, device: str = "cuda", side: int = SIDE, nbytes: int = COPY_BYTES, seconds: float = SECONDS
) -> dict[str, Any]:
    """Measure torch's matrix products in GFLOP/s and copies within the GPU in GB/s, reads and writes counted."""
    torch.backends.cuda.matmul.allow_tf32 = False
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    result: dict[str, Any] = {"torch": torch.__version__, "device": _device(device)}
    for precision, kind in TYPES.items():
        square = torch.randn(side, side, device=device, dtype=kind)
        out = torch.empty_like(square)
        cost = time_calls(lambda: torch.mm(square, square, out=out), finish=finish, seconds=seconds)  # noqa: B023
        result[f"products_{precision}_gflops"] = 2 * side**3 / cost.wall_s / 1e9
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    cost = time_calls(lambda: target.copy_(source), finish=finish, seconds=seconds)
    result["copy_gb_per_s"] = 2 * nbytes / cost.wall_s / 1e9
    return result


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    print(json.dumps(measure_ceilings() if sys.argv[1:] == ["ceilings"] else measure_torch(*sys.argv[1:3])))

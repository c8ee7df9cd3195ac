"""What torch makes of the GPU proof's models on the same card: `python -m support.gpu_torch NAME PRECISION`, JSON.

Whole windows, and encode-once with a bank of its own, each eager, compiled, and replayed as a CUDA graph of what was
compiled. Torch is spared what the engine pays for: its frames lie on the card, and its probabilities stay there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from support.gpu_models import random_weights, words_of
from support.model_kinds import parse, windows

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
    """Windows/s and predictions/s by mode and batch; a mode that fails says why, and the others go on."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model = random_weights(name, small=small).to(device)
    if precision != "fp32":
        model = model.to(TYPES[precision])  # here, not at each call: autocast would copy all weights every time
    rows = []
    with torch.inference_mode(), _lowered(precision, device):
        for work, sizes in (("whole", WINDOW_BATCHES), ("once", CHUNK_BATCHES)):
            for batch in sizes:
                call = _work(work, model, words_of(name, small=small), batch, device)
                rows += [_row(work, batch, mode, call, device, seconds) for mode in MODES]
    return {"torch": torch.__version__, "device": _device(device), "rows": rows}


def _lowered(precision: str, device: str) -> AbstractContextManager[Any]:
    """Norms in FP32, products in `precision`."""
    return torch.autocast(device, TYPES[precision], enabled=precision != "fp32")


def _work(work: str, model: ClipModel, words: dict[str, Any], batch: int, device: str) -> Callable[[], torch.Tensor]:
    """`batch` whole windows; or as many chunks encoded into a bank, each with a window from there."""
    chunks = parse(words).chunks
    shown = windows(words, count=1).to(device)
    if work == "whole":
        many = shown.expand(batch, *shown.shape[1:]).contiguous()
        return lambda: model(many).softmax(-1)
    frames = shown[0, :1].expand(batch, *shown.shape[2:]).contiguous()
    bank = model.encoder(shown[0]).repeat(1 + batch // chunks, *[1] * (model.encoder(shown[0, :1]).ndim - 1))
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
    except Exception as error:  # torch and its compiler raise all kinds, out of memory among them
        torch.compiler.reset()
        return {**row, "error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {**row, "per_s": batch / cost.wall_s, "spread": cost.wall_spread}


def _run_as(mode: str, call: Call) -> Call:
    if mode == "eager":
        return call
    if mode == "graph" and not torch.cuda.is_available():
        raise RuntimeError("a graph needs CUDA")  # before minutes of compiling
    compiled: Call = torch.compile(call, dynamic=False)
    compiled()
    if mode == "compile":
        return compiled
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated at first use must not be while it is recorded
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
    """Matrix products in GFLOP/s, and copies within the card in GB/s, read and write counted, as torch has them."""
    torch.backends.cuda.matmul.allow_tf32 = False
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    found: dict[str, Any] = {"torch": torch.__version__, "device": _device(device)}
    for precision, kind in TYPES.items():
        square = torch.randn(side, side, device=device, dtype=kind)
        out = torch.empty_like(square)
        cost = time_calls(lambda: torch.mm(square, square, out=out), finish=finish, seconds=seconds)  # noqa: B023
        found[f"products_{precision}_gflops"] = 2 * side**3 / cost.wall_s / 1e9
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    cost = time_calls(lambda: target.copy_(source), finish=finish, seconds=seconds)
    found["copy_gb_per_s"] = 2 * nbytes / cost.wall_s / 1e9
    return found


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    print(json.dumps(measure_ceilings() if sys.argv[1:] == ["ceilings"] else measure_torch(*sys.argv[1:3])))

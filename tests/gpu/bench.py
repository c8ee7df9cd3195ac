"""Figures of one bundle on this GPU, in JSON lines: `PYTHONPATH=tests python tests/gpu/bench.py [BUNDLE] [--torch]`.

Without BUNDLE a ViViT-B/16x2 factorised encoder with random weights is exported first, which needs torch. `--torch`
puts the same model's whole windows through torch eager, torch.compile and a CUDA graph beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines.bundle import Bundle, load_bundle
from engines.engine import Engine, open_engine
from engines.errors import EngineError

SECONDS = 2.0
MAX_BATCH = 256


def show(**figures: Any) -> None:
    """One line of JSON; floats in four digits."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps(rounded), flush=True)


def per_call_s(call: Callable[[], object], finish: Callable[[], object], seconds: float = SECONDS) -> float:
    """Seconds of one call, of many in a row; `finish` waits for the device."""
    call()
    finish()
    rounds, began = 0, time.perf_counter()
    while rounds < 3 or time.perf_counter() - began < seconds:
        call()
        rounds += 1
    finish()
    return (time.perf_counter() - began) / rounds


def bench_engine(engine: Engine, seconds: float = SECONDS) -> None:
    """By batch: encodes, windows, and predictions (one token, one window), with the latency of a prediction."""
    spec = engine.spec
    frames = np.random.default_rng(0).integers(0, 256, (engine.max_batch, *spec.token_shape), np.uint8)
    slots = np.arange(engine.max_batch, dtype=np.int32)
    windows = np.random.default_rng(1).integers(0, engine.bank_slots, (engine.max_batch, spec.tokens)).astype(np.int32)
    batch = 1
    while batch <= engine.max_batch:
        part = slice(0, batch)

        def encode(part: slice = part) -> None:
            engine.encode(frames[part], slots[part])

        def classify(part: slice = part) -> None:
            engine.classify(windows[part])

        taken: list[float] = []

        def predict(taken: list[float] = taken, part: slice = part) -> None:
            began = time.perf_counter()
            engine.encode(frames[part], slots[part])
            engine.classify(windows[part])
            taken.append(1e3 * (time.perf_counter() - began))

        encode_s = per_call_s(encode, classify, seconds)
        classify_s = per_call_s(classify, classify, seconds)
        predict_s = per_call_s(predict, lambda: None, seconds)
        show(
            model=spec.id,
            engine=engine.description,
            batch=batch,
            encodes_per_s=batch / encode_s,
            windows_per_s=batch / classify_s,
            predictions_per_s=batch / predict_s,
            latency_ms_p50=float(np.percentile(taken, 50)),
            latency_ms_p99=float(np.percentile(taken, 99)),
            upload_gb_per_s=batch * frames[0].nbytes / encode_s / 1e9,
        )
        batch *= 2


def bench_copies() -> None:
    """What the card can do at most: pinned upload, and copies within its memory (read and write counted)."""
    from engines.tensorrt.cuda import PyCudaDevice

    device = PyCudaDevice()
    with device.active():
        _bench_copies(device, 256 << 20)
    device.close()


def _bench_copies(device: Any, nbytes: int) -> None:
    host = device.pinned((nbytes,), np.uint8)
    stream, source, target = device.stream(), device.allocate(nbytes), device.allocate(nbytes)

    def finish() -> None:
        device.finish(stream)

    upload_s = per_call_s(lambda: device.upload(source, host, stream), finish)
    copy_s = per_call_s(lambda: device.copy(target, source, nbytes, stream), finish)
    show(gpu=device.gpu.name, upload_gb_per_s=nbytes / upload_s / 1e9, copy_gb_per_s=2 * nbytes / copy_s / 1e9)


def bench_torch(settings: dict[str, Any]) -> None:
    """The same model, whole windows, FP16: eager, compiled, and replayed as a CUDA graph; and the matmul ceiling."""
    import torch
    from support.vivit import random_vivit

    size = 8192
    square = torch.randn(size, size, device="cuda", dtype=torch.float16)
    matmul_s = per_call_s(lambda: square @ square, torch.cuda.synchronize)
    show(gpu=torch.cuda.get_device_name(), matmul_fp16_tflops=2 * size**3 / matmul_s / 1e12)
    model = random_vivit(settings).cuda()
    batch = 8
    shape = (batch, settings["tokens"], settings["frames_per_token"], settings["height"], settings["width"], 3)
    window = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        modes = {"eager": model, "compile": torch.compile(model), "graph": torch.compile(model, mode="reduce-overhead")}
        for name, run in modes.items():
            seconds = per_call_s(lambda run=run: run(window), torch.cuda.synchronize)  # type: ignore[misc]
            show(torch=torch.__version__, mode=name, batch=batch, windows_per_s=batch / seconds)


def main() -> None:
    """Parse, prepare, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "fp32", "int8"])
    parser.add_argument("--max-batch", type=int, default=MAX_BATCH)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = load_bundle(arguments.bundle) if arguments.bundle else _exported(Path(folder))
        bench_copies()
        for precision in arguments.precisions:
            try:
                engine = open_engine(
                    bundle, backend="tensorrt", precision=precision, max_batch=arguments.max_batch, bank_slots=16_384
                )
            except EngineError as error:
                show(precision=precision, error=str(error))
                continue
            bench_engine(engine)
            engine.close()
    if arguments.torch:
        from support.vivit import BASE

        bench_torch(BASE)


def _exported(folder: Path) -> Bundle:
    from support.vivit import BASE, make_vivit_bundle

    return make_vivit_bundle(folder / "vivit-b-16x2", BASE)[1]


if __name__ == "__main__":
    main()

"""`streamclf bench --suite gpu`: bundles proven and measured on this machine's GPU, through TensorRT alone.

What the same models do in torch, and the card's ceiling of matrix products, is `tests/gpu/bench.py`'s, for a machine
that serves has no torch.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from engines.backends import Precision
from engines.bundle import SPEC_FILE, Bundle, load_bundle
from engines.choice import missing_libraries
from engines.engine import Engine, open_engine
from engines.errors import EngineError
from engines.gpu import find_gpus
from engines.parity import TOLERANCE, check_parity
from streamclf.bench.flops import count_flops
from streamclf.bench.latency import percentile
from streamclf.bench.limit import batches, engine_calls, measure
from streamclf.bench.paced import paced_load
from streamclf.builtin import BUNDLES, builtin_models, find_bundle
from streamclf.errors import BenchError

VARIABLE: Final = "STREAMCLF_GPU_BUNDLES"
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "bf16", "int8")
MAX_BATCH: Final = 256
STREAMS: Final = 1000
SECONDS: Final = 5.0
ROUND_S: Final = 0.5
COPY_BYTES: Final = 256 << 20


def bench_gpu(
    target: str | None,
    *,
    precision: Precision | None = None,
    max_batch: int = MAX_BATCH,
    streams: int = STREAMS,
    seconds: float = SECONDS,
    copy_bytes: int = COPY_BYTES,
) -> dict[str, Any]:
    """`target`, or each built-in bundle and each in the folder `$STREAMCLF_GPU_BUNDLES`; every precision, or one.

    Raises `BenchError` where something that it needs is not there, and says what.
    """
    gpus = find_gpus()
    lacking = ["an NVIDIA GPU and its driver"] * (not gpus) + missing_libraries("tensorrt")
    if lacking:
        raise BenchError(
            f"--suite gpu: this machine lacks {', '.join(lacking)}; run it on one with a GPU, after "
            "pip install 'streamclf[tensorrt]'"
        )
    return {
        "gpu": asdict(gpus[0]),
        "ceilings": measure_copies(copy_bytes),
        "models": [
            _prove(bundle, [precision] if precision else PRECISIONS, max_batch, streams, seconds)
            for bundle in _bundles(target)
        ],
    }


def _bundles(target: str | None) -> list[Bundle]:
    if target is not None:
        return [find_bundle(target)]
    folder = os.environ.get(VARIABLE)
    if folder and not Path(folder).is_dir():
        raise BenchError(f"{VARIABLE}={folder}: no such directory; give the one that holds bundles, or unset it")
    more = sorted(Path(folder).glob(f"*/{SPEC_FILE}")) if folder else []
    return [*(load_bundle(BUNDLES / name) for name in builtin_models()), *(load_bundle(path.parent) for path in more)]


def measure_copies(nbytes: int = COPY_BYTES) -> dict[str, float]:
    """GB/s that the card copies at most: from pinned memory to it, and within its own, read and write counted."""
    from engines.tensorrt.requirements import load_platform

    cuda = load_platform().cuda
    try:
        with cuda.active():
            host = cuda.pinned((nbytes,), np.uint8)
            stream, source, target = cuda.stream(), cuda.allocate(nbytes), cuda.allocate(nbytes)

            def finish() -> None:
                cuda.finish(stream)

            upload = measure(lambda: cuda.upload(source, host, stream), finish=finish, seconds=ROUND_S)
            copy = measure(lambda: cuda.copy(target, source, nbytes, stream), finish=finish, seconds=ROUND_S)
    finally:
        cuda.close()
    return {"upload_gb_per_s": nbytes / upload.wall_s / 1e9, "copy_gb_per_s": 2 * nbytes / copy.wall_s / 1e9}


def _prove(
    bundle: Bundle, precisions: Sequence[Precision], max_batch: int, streams: int, seconds: float
) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for precision in precisions:
        began = time.monotonic()
        try:
            engine = open_engine(
                bundle,
                backend="tensorrt",
                precision=precision,
                max_batch=max_batch,
                bank_slots=max(max_batch, streams * (bundle.spec.tokens + 1)),
                streams=streams,
            )
        except EngineError as error:
            results.append({"precision": precision, "error": str(error)})
            continue
        try:
            opened_s = time.monotonic() - began
            results.append({"precision": precision, "open_s": opened_s, **_figures(engine, bundle, streams, seconds)})
        finally:
            engine.close()
    return {"model": bundle.spec.id, "flops": _flops(bundle), "results": results}


def _flops(bundle: Bundle) -> dict[str, int] | None:
    """Of one token, one window's head, and a window without the bank; None without `onnx`."""
    if importlib.util.find_spec("onnx") is None:
        return None
    encoder, head = count_flops(bundle.encoder_path), count_flops(bundle.head_path)
    return {"encode": encoder, "head": head, "whole_window": bundle.spec.tokens * encoder + head}


def _figures(engine: Engine, bundle: Bundle, streams: int, seconds: float) -> dict[str, Any]:
    parity = check_parity(engine, bundle.golden())
    rows = measure_batches(engine, batches(engine.max_batch), seconds=min(ROUND_S, seconds))
    whole = max(row["whole_windows_per_s"] for row in rows)
    best = max(row["predictions_per_s"] for row in rows)
    spec = engine.spec
    return {
        "engine": engine.description,
        "golden": {"max_dp": parity.max_dp, "allowed": TOLERANCE[engine.precision]},
        "batches": rows,
        "encode_once_against_whole_window": best / whole,
        "live": paced_load(engine, streams=streams, tokens_per_s=spec.fps / spec.frames_per_token, seconds=seconds),
    }


def measure_batches(engine: Engine, sizes: Sequence[int], *, seconds: float = ROUND_S) -> list[dict[str, Any]]:
    """By batch: encodes/s, windows/s, predictions/s (a token and a window) with their latency, whole windows/s."""
    rows = []
    for batch in sizes:
        encode, classify = engine_calls(engine, batch)
        taken_ms: list[float] = []

        def predict(encode: Any = encode, classify: Any = classify, taken_ms: list[float] = taken_ms) -> None:
            began = time.perf_counter()
            encode()
            classify()
            taken_ms.append(1e3 * (time.perf_counter() - began))

        encode_s = measure(encode, finish=classify, seconds=seconds).wall_s
        classify_s = measure(classify, seconds=seconds).wall_s
        predict_s = measure(predict, seconds=seconds).wall_s
        whole_s = engine.spec.tokens * encode_s + classify_s
        rows.append(
            {
                "batch": batch,
                "encodes_per_s": batch / encode_s,
                "windows_per_s": batch / classify_s,
                "predictions_per_s": batch / predict_s,
                "whole_windows_per_s": batch / whole_s,
                "latency_ms": {f"p{percent}": percentile(taken_ms, percent) for percent in (50, 99)},
                "upload_gb_per_s": batch * int(np.prod(engine.spec.token_shape)) / encode_s / 1e9,
            }
        )
    return rows


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    ceilings = found["ceilings"]
    text = [
        f"{found['gpu']['name']}: copies {ceilings['upload_gb_per_s']:.1f} GB/s to it, "
        f"{ceilings['copy_gb_per_s']:.0f} GB/s within it"
    ]
    for model in found["models"]:
        text += ["", model["model"]]
        if model["flops"]:
            text.append("  GFLOP: " + ", ".join(f"{key} {value / 1e9:.2f}" for key, value in model["flops"].items()))
        for result in model["results"]:
            text += _result_lines(result)
    return text


def _result_lines(result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [f"  {result['precision']}: {result['error']}"]
    live, golden = result["live"], result["golden"]
    text = [
        f"  {result['engine']}, opened in {result['open_s']:.1f} s; golden clip: max |dp| {golden['max_dp']:.1e}, "
        f"allowed {golden['allowed']:.0e}",
        "  batch  encodes/s  windows/s  predictions/s  p50 ms    p99 ms    whole windows/s  upload GB/s",
    ]
    text += [
        f"  {row['batch']:<5}  {row['encodes_per_s']:<9.0f}  {row['windows_per_s']:<9.0f}  "
        f"{row['predictions_per_s']:<13.0f}  {row['latency_ms']['p50']:<8.3f}  {row['latency_ms']['p99']:<8.3f}  "
        f"{row['whole_windows_per_s']:<15.1f}  {row['upload_gb_per_s']:.2f}"
        for row in result["batches"]
    ]
    return [
        *text,
        f"  encode once against whole windows: {result['encode_once_against_whole_window']:.1f} times",
        f"  {live['streams']} live streams: {live['predictions_per_s']:.0f} of {live['tokens_per_s_wanted']:.0f} "
        f"predictions/s, p50 {live['latency_ms']['p50']} ms, p99 {live['latency_ms']['p99']} ms",
    ]

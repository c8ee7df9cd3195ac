"""Measure one part of the GPU suite, the card itself or one bundle: `python -m streamclf.bench.gpu.part JSON`.

Each part runs in its own process, so that a lost CUDA context or a crash of a library ends only that part.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from engines.backends.names import Precision
from engines.bundle import Bundle, load_bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity
from engines.protocol import Engine
from streamclf.bench.gpu.device_limits import COPY_BYTES, SIDE, measure_device_limits
from streamclf.bench.gpu.live_load import run_live_load
from streamclf.bench.graph_cost import count_flops, weight_bytes
from streamclf.bench.timing import batch_sizes, engine_calls, percentile, time_calls
from streamclf.errors import BenchError

ROUND_S: Final = 0.5
"""Time of each round of a measurement."""
SUSTAINED_P99_MS: Final = 50.0
"""Live streams count as sustained if the 99th percentile of their latency is at most this."""
MAX_LAG_S: Final = 2.0
"""A run with live streams ends early if it falls this far behind."""
RETRY_SHARE: Final = 0.7
"""If the streams are too many, a second try runs as many as need this share of the best measured rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRequest:
    """A request to measure one bundle in one precision, or the card itself if either is None."""

    bundle: str | None = None
    precision: Precision | None = None
    max_batch: int = 256
    streams: int = 1000
    seconds: float = 5.0
    copy_bytes: int = COPY_BYTES
    side: int = SIDE
    round_s: float = ROUND_S


def measure_part(request: PartRequest) -> dict[str, Any]:
    """Return the part's figures, ready for JSON. Raises `BenchError` with the message of the engine or library."""
    try:
        if request.bundle is None or request.precision is None:
            return measure_device_limits(copy_bytes=request.copy_bytes, side=request.side, round_s=request.round_s)
        return _measure_bundle(load_bundle(Path(request.bundle)), request.precision, request)
    except EngineError as error:
        raise BenchError(str(error)) from error


def measure_in_process(request: PartRequest, limit_s: float, *, python: str = sys.executable) -> dict[str, Any]:
    """Run `measure_part` in a process of the interpreter `python` for at most `limit_s`. Raises `BenchError`."""
    command = [python, "-m", "streamclf.bench.gpu.part", json.dumps(asdict(request))]
    return run_in_process(command, limit_s)


def run_in_process(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run `command` and return the JSON object in the last line that it prints.

    Raises `BenchError` if it takes longer than `limit_s`, cannot be started, is ended by a signal, prints no object, or
    prints one with the key `error`.
    """
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=limit_s, errors="replace")
    except subprocess.TimeoutExpired:
        raise BenchError(f"not done after {limit_s:.0f} s") from None
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from error
    last = (done.stderr.strip().splitlines() or ["no output on stderr"])[-1][:500]
    if done.returncode < 0:
        raise BenchError(f"ended by {signal.Signals(-done.returncode).name}: {last}")
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise BenchError(f"exit code {done.returncode}: {last}") from None
    if "error" in result:
        raise BenchError(str(result["error"]))
    return result


def _measure_bundle(bundle: Bundle, precision: Precision, request: PartRequest) -> dict[str, Any]:
    began = time.monotonic()
    engine = open_engine(
        bundle,
        backend="tensorrt",
        precision=precision,
        max_batch=request.max_batch,
        bank_slots=max(request.max_batch, request.streams * (bundle.spec.chunks + 1)),
        streams=request.streams,
    )
    try:
        opened_s = time.monotonic() - began
        return {"precision": precision, "open_s": opened_s, **_engine_figures(engine, bundle, request)}
    finally:
        engine.close()


def _engine_figures(engine: Engine, bundle: Bundle, request: PartRequest) -> dict[str, Any]:
    parity = check_parity(engine, bundle.golden())
    rows = measure_batches(engine, batch_sizes(engine.max_batch), seconds=request.round_s)
    whole = max(row["whole_windows_per_s"] for row in rows)
    best = max(row["predictions_per_s"] for row in rows)
    chunks_per_s = engine.spec.fps / engine.spec.frames_per_chunk
    live = [_measure_live(engine, request.streams, chunks_per_s, request.seconds)]
    fewer = int(RETRY_SHARE * best / chunks_per_s)
    if not live[0]["held"] and 0 < fewer < request.streams:
        live.append(_measure_live(engine, fewer, chunks_per_s, request.seconds))
    return {
        "engine": engine.description,
        "golden": {"max_dp": parity.max_dp, "allowed": TOLERANCE[engine.precision]},
        "batches": rows,
        "encode_once_against_whole_window": best / whole,
        "live": live,
        "work": _least_work(bundle, engine.precision),
    }


def _measure_live(engine: Engine, streams: int, chunks_per_s: float, seconds: float) -> dict[str, Any]:
    result = run_live_load(engine, streams=streams, chunks_per_s=chunks_per_s, seconds=seconds, max_lag_s=MAX_LAG_S)
    return {**result, "held": result["kept_up"] and result["latency_ms"]["p99"] <= SUSTAINED_P99_MS}


def _least_work(bundle: Bundle, precision: str) -> dict[str, int] | None:
    """Return the operations and bytes that no schedule can avoid; None without `onnx`.

    Operations: of a chunk, of a window's head, and of a window without the bank. Bytes that are moved at least once:
    each graph's weights for each batch, a chunk's pixels and feature, and a window's features.
    """
    if importlib.util.find_spec("onnx") is None:
        return None
    spec = bundle.spec
    encoder, head = count_flops(bundle.encoder_path), count_flops(bundle.head_path)
    feature_bytes = 4 * int(np.prod(spec.feature_shape))
    return {
        "encode_flop": encoder,
        "head_flop": head,
        "whole_window_flop": spec.chunks * encoder + head,
        "encoder_weight_bytes": weight_bytes(bundle.encoder_path, precision),
        "head_weight_bytes": weight_bytes(bundle.head_path, precision),
        "chunk_bytes": int(np.prod(spec.chunk_shape)) + feature_bytes,
        "window_bytes": spec.chunks * feature_bytes,
    }


def measure_batches(engine: Engine, sizes: Sequence[int], *, seconds: float = ROUND_S) -> list[dict[str, Any]]:
    """Measure encodes/s, windows/s, predictions/s with their latency, and whole windows/s by batch size.

    A prediction is one encode and one classify, as a live stream needs it. A whole window encodes all its chunks.
    """
    rows = []
    for batch in sizes:
        encode, classify = engine_calls(engine, batch)
        latencies_ms: list[float] = []

        def predict(encode: Any = encode, classify: Any = classify, latencies_ms: list[float] = latencies_ms) -> None:
            began = time.perf_counter()
            encode()
            classify()
            latencies_ms.append(1e3 * (time.perf_counter() - began))

        encode_s = time_calls(encode, finish=classify, seconds=seconds).wall_s
        classify_s = time_calls(classify, seconds=seconds).wall_s
        predict_s = time_calls(predict, seconds=seconds).wall_s
        whole_s = engine.spec.chunks * encode_s + classify_s
        rows.append(
            {
                "batch": batch,
                "encodes_per_s": batch / encode_s,
                "windows_per_s": batch / classify_s,
                "predictions_per_s": batch / predict_s,
                "whole_windows_per_s": batch / whole_s,
                "latency_ms": {f"p{percent}": percentile(latencies_ms, percent) for percent in (50, 99)},
                "upload_gb_per_s": batch * int(np.prod(engine.spec.chunk_shape)) / encode_s / 1e9,
            }
        )
    return rows


def main(arguments: Sequence[str], *, measure: Callable[[PartRequest], dict[str, Any]] = measure_part) -> int:
    """Measure the `PartRequest` in the only argument, JSON; print one JSON object and return the exit code."""
    request = PartRequest(**cast(dict[str, Any], json.loads(arguments[0])))
    try:
        result = measure(request)
    except BenchError as error:
        result = {"error": str(error)}
    print(json.dumps(result))
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

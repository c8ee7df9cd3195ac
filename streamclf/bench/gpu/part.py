"""One part of the GPU suite, the card's ceilings or one bundle: `python -m streamclf.bench.gpu.part JSON`.

Parts run in processes of their own: what a library does to a process, from a lost context to a crash, ends one part.
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
from streamclf.bench.gpu.device_limits import COPY_BYTES, SIDE, measure_ceilings, weight_bytes
from streamclf.bench.gpu.live_load import run_live_load
from streamclf.bench.graph_cost import count_flops
from streamclf.bench.service.latency import percentile
from streamclf.bench.timing import batch_sizes, engine_calls, measure
from streamclf.errors import BenchError

ROUND_S: Final = 0.5
LATE_MS: Final = 50.0
"""A live prediction whose 99th percentile is later than this is not held."""
PATIENCE_S: Final = 2.0
AGAIN: Final = 0.7
"""Of the rate that the card has in a row: what is tried live where the streams wanted are too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRequest:
    """What to measure: without `bundle` and `precision` the card itself."""

    bundle: str | None = None
    precision: Precision | None = None
    max_batch: int = 256
    streams: int = 1000
    seconds: float = 5.0
    copy_bytes: int = COPY_BYTES
    side: int = SIDE
    round_s: float = ROUND_S


def measure_part(request: PartRequest) -> dict[str, Any]:
    """The part's figures. Raises `BenchError`, with the library's own account."""
    try:
        if request.bundle is None or request.precision is None:
            return measure_ceilings(copy_bytes=request.copy_bytes, side=request.side, round_s=request.round_s)
        return _prove(load_bundle(Path(request.bundle)), request.precision, request)
    except EngineError as error:
        raise BenchError(str(error)) from error


def measure_in_process(request: PartRequest, limit_s: float, *, python: str = sys.executable) -> dict[str, Any]:
    """`measure_part` in a process of its own, under `python`, for at most `limit_s`. Raises `BenchError`."""
    command = [python, "-m", "streamclf.bench.gpu.part", json.dumps(asdict(request))]
    return run_in_process(command, limit_s)


def run_in_process(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """The JSON object in the last line that `command` prints. Raises `BenchError` saying how it ended otherwise."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=limit_s, errors="replace")
    except subprocess.TimeoutExpired:
        raise BenchError(f"not done after {limit_s:.0f} s") from None
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from error
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:500]
    if done.returncode < 0:
        raise BenchError(f"ended by {signal.Signals(-done.returncode).name}: {last}")
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise BenchError(f"exit code {done.returncode}: {last}") from None
    if "error" in found:
        raise BenchError(str(found["error"]))
    return found


def _prove(bundle: Bundle, precision: Precision, request: PartRequest) -> dict[str, Any]:
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
        return {"precision": precision, "open_s": opened_s, **_figures(engine, bundle, request)}
    finally:
        engine.close()


def _figures(engine: Engine, bundle: Bundle, request: PartRequest) -> dict[str, Any]:
    parity = check_parity(engine, bundle.golden())
    rows = measure_batches(engine, batch_sizes(engine.max_batch), seconds=request.round_s)
    whole = max(row["whole_windows_per_s"] for row in rows)
    best = max(row["predictions_per_s"] for row in rows)
    rate = engine.spec.fps / engine.spec.frames_per_chunk
    live = [_live(engine, request.streams, rate, request.seconds)]
    fewer = int(AGAIN * best / rate)
    if not live[0]["held"] and 0 < fewer < request.streams:
        live.append(_live(engine, fewer, rate, request.seconds))
    return {
        "engine": engine.description,
        "golden": {"max_dp": parity.max_dp, "allowed": TOLERANCE[engine.precision]},
        "batches": rows,
        "encode_once_against_whole_window": best / whole,
        "live": live,
        "work": _work(bundle, engine.precision),
    }


def _live(engine: Engine, streams: int, rate: float, seconds: float) -> dict[str, Any]:
    found = run_live_load(engine, streams=streams, chunks_per_s=rate, seconds=seconds, patience_s=PATIENCE_S)
    return {**found, "held": found["kept_up"] and found["latency_ms"]["p99"] <= LATE_MS}


def _work(bundle: Bundle, precision: str) -> dict[str, int] | None:
    """What cannot be avoided: operations of a chunk, of a window's head and of a window without the bank, and bytes
    that are moved at least once: each graph's weights for each batch, a chunk's pixels and feature, a window's
    features. None without `onnx`."""
    if importlib.util.find_spec("onnx") is None:
        return None
    spec = bundle.spec
    encoder, head = count_flops(bundle.encoder_path), count_flops(bundle.head_path)
    feature = 4 * int(np.prod(spec.feature_shape))
    return {
        "encode_flop": encoder,
        "head_flop": head,
        "whole_window_flop": spec.chunks * encoder + head,
        "encoder_weight_bytes": weight_bytes(bundle.encoder_path, precision),
        "head_weight_bytes": weight_bytes(bundle.head_path, precision),
        "chunk_bytes": int(np.prod(spec.chunk_shape)) + feature,
        "window_bytes": spec.chunks * feature,
    }


def measure_batches(engine: Engine, sizes: Sequence[int], *, seconds: float = ROUND_S) -> list[dict[str, Any]]:
    """By batch: encodes/s, windows/s, predictions/s (a chunk and a window) with their latency, whole windows/s."""
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
        whole_s = engine.spec.chunks * encode_s + classify_s
        rows.append(
            {
                "batch": batch,
                "encodes_per_s": batch / encode_s,
                "windows_per_s": batch / classify_s,
                "predictions_per_s": batch / predict_s,
                "whole_windows_per_s": batch / whole_s,
                "latency_ms": {f"p{percent}": percentile(taken_ms, percent) for percent in (50, 99)},
                "upload_gb_per_s": batch * int(np.prod(engine.spec.chunk_shape)) / encode_s / 1e9,
            }
        )
    return rows


def main(arguments: Sequence[str], *, measured: Callable[[PartRequest], dict[str, Any]] = measure_part) -> int:
    """Measure what the one argument, a `PartRequest` in JSON, says; one JSON object on stdout."""
    request = PartRequest(**cast(dict[str, Any], json.loads(arguments[0])))
    try:
        found = measured(request)
    except BenchError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
    return 1 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run many live streams on one engine without cameras: chunks arrive by the clock, and each is classified."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from engines.protocol import Engine
from streamclf.bench.timing import percentile


def run_live_load(
    engine: Engine, *, streams: int, chunks_per_s: float, seconds: float, max_lag_s: float = math.inf
) -> dict[str, Any]:
    """Encode each chunk of `streams` streams of `chunks_per_s` chunks each, and classify its window.

    The clocks of the streams are spread evenly. The engine's bank needs `streams * (chunks + 1)` slots. Latency counts
    from the moment at which a chunk is due until its probabilities are there. Nothing is dropped, so a machine that
    cannot keep up shows a growing latency. If it falls `max_lag_s` behind, the run ends, and `kept_up` is false. The
    figures then cover the time until the end. The result is ready for JSON.
    """
    spec, max_batch = engine.spec, engine.max_batch
    slots_per_stream = spec.chunks + 1
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (max_batch, *spec.chunk_shape), np.uint8)
    rounds = max(1, int(seconds * chunks_per_s))
    phases = rng.permutation(streams) / streams
    due_s = ((np.arange(rounds)[:, None] + phases) / chunks_per_s).ravel()
    order = np.argsort(due_s, kind="stable")
    due_s = due_s[order]
    number, stream = np.divmod(order, streams)
    slots = (stream * slots_per_stream + number % slots_per_stream).astype(np.int32)
    ages = np.arange(spec.chunks - 1, -1, -1)
    windows = (stream[:, None] * slots_per_stream + (number[:, None] - ages) % slots_per_stream).astype(np.int32)
    engine.encode(frames, np.arange(max_batch, dtype=np.int32))
    engine.classify(windows[: min(max_batch, len(windows))])

    latencies_ms = np.empty(len(due_s))
    sizes: list[int] = []
    done, began = 0, time.perf_counter()
    while done < len(due_s):
        now = time.perf_counter() - began
        if now - due_s[done] > max_lag_s:
            break
        ready = int(np.searchsorted(due_s, now, side="right"))
        if ready == done:
            time.sleep(due_s[done] - now)
            continue
        # At most `streams` chunks in a row come from as many streams, so no slot appears twice in a batch.
        part = slice(done, min(ready, done + max_batch, done + streams))
        done = part.stop
        engine.encode(frames[: part.stop - part.start], slots[part])
        engine.classify(windows[part])
        latencies_ms[part] = 1e3 * (time.perf_counter() - began - due_s[part])
        sizes.append(part.stop - part.start)
    elapsed_s = time.perf_counter() - began
    samples: list[float] = latencies_ms[:done].tolist()
    return {
        "streams": streams,
        "chunks_per_s_wanted": round(streams * chunks_per_s, 1),
        "predictions_per_s": round(done / elapsed_s, 1),
        "kept_up": done == len(due_s),
        "latency_ms": {
            **{f"p{percent}": round(percentile(samples, percent) or 0.0, 3) for percent in (50, 90, 99)},
            "max": round(max(samples), 3),
        },
        "batch_mean": round(sum(sizes) / len(sizes), 2),
    }

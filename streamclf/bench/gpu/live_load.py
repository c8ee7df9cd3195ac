"""Many live streams on one engine, without cameras: chunks come by the clock, each with a prediction to be made."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from engines.protocol import Engine
from streamclf.bench.service.latency import percentile


def run_live_load(
    engine: Engine, *, streams: int, chunks_per_s: float, seconds: float, patience_s: float = math.inf
) -> dict[str, Any]:
    """`streams` streams of `chunks_per_s` chunks each, their clocks spread: each is encoded and its window classified.

    The engine's bank needs `streams * (chunks + 1)` slots. Latency is from the moment at which a chunk was due to its
    probabilities; a machine that cannot keep up shows in it, for nothing is dropped. One that is `patience_s` behind
    is not waited for: `kept_up` is false, and the figures are those until then.
    """
    spec, most = engine.spec, engine.max_batch
    own = spec.chunks + 1
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (most, *spec.chunk_shape), np.uint8)
    rounds = max(1, int(seconds * chunks_per_s))
    phases = rng.permutation(streams) / streams
    due_s = ((np.arange(rounds)[:, None] + phases) / chunks_per_s).ravel()
    order = np.argsort(due_s, kind="stable")
    due_s = due_s[order]
    number, stream = np.divmod(order, streams)
    slots = (stream * own + number % own).astype(np.int32)
    back = np.arange(spec.chunks - 1, -1, -1)
    windows = (stream[:, None] * own + (number[:, None] - back) % own).astype(np.int32)
    engine.encode(frames, np.arange(most, dtype=np.int32))
    engine.classify(windows[: min(most, len(windows))])

    taken_ms = np.empty(len(due_s))
    sizes: list[int] = []
    done, began = 0, time.perf_counter()
    while done < len(due_s):
        now = time.perf_counter() - began
        if now - due_s[done] > patience_s:
            break
        ready = int(np.searchsorted(due_s, now, side="right"))
        if ready == done:
            time.sleep(due_s[done] - now)
            continue
        # So many chunks in a row are those of as many streams: no slot comes twice in a batch.
        part = slice(done, min(ready, done + most, done + streams))
        done = part.stop
        engine.encode(frames[: part.stop - part.start], slots[part])
        engine.classify(windows[part])
        taken_ms[part] = 1e3 * (time.perf_counter() - began - due_s[part])
        sizes.append(part.stop - part.start)
    took_s = time.perf_counter() - began
    waited_ms: list[float] = taken_ms[:done].tolist()
    return {
        "streams": streams,
        "chunks_per_s_wanted": round(streams * chunks_per_s, 1),
        "predictions_per_s": round(done / took_s, 1),
        "kept_up": done == len(due_s),
        "latency_ms": {
            **{f"p{percent}": round(percentile(waited_ms, percent) or 0.0, 3) for percent in (50, 90, 99)},
            "max": round(max(waited_ms), 3),
        },
        "batch_mean": round(sum(sizes) / len(sizes), 2),
    }

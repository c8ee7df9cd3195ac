"""Live streams on one engine without cameras."""

from __future__ import annotations

from typing import Any

from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.bench.gpu.live_load import run_live_load


def test_every_chunk_of_every_stream_is_classified(bundle: Bundle) -> None:
    streams, seconds, rate = 7, 0.6, bundle.spec.fps / bundle.spec.frames_per_chunk
    engine = open_engine(bundle, backend="onnxruntime", max_batch=4, bank_slots=streams * (bundle.spec.chunks + 1))
    windows = 0
    classify = engine.classify

    def count_windows(slots: Any) -> Any:
        nonlocal windows
        windows += len(slots)
        assert all(len(set(window)) == bundle.spec.chunks for window in slots.tolist())
        assert len({window[0] // (bundle.spec.chunks + 1) for window in slots.tolist()}) == len(slots)
        return classify(slots)

    engine.classify = count_windows  # type: ignore[method-assign]
    result = run_live_load(engine, streams=streams, chunks_per_s=rate, seconds=seconds)
    engine.close()
    assert windows == 4 + streams * int(seconds * rate)  # 4: the warm-up
    assert result["chunks_per_s_wanted"] == streams * rate
    latency = result["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert 1 <= result["batch_mean"] <= 4

"""The least processor time that a service needs."""

from __future__ import annotations

import pytest

from engines.bundle import Bundle
from streamclf.bench.cameras.film import EncodedFilm
from streamclf.bench.service.cpu_limit import measure_cpu_limit
from streamclf.config.engine import EngineConfig


def test_the_limit_is_the_sum_of_decode_encode_and_head(
    bundle: Bundle, film: EncodedFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.bench.service.cpu_limit.ROUND_S", 0.02)
    limit = measure_cpu_limit(bundle, EngineConfig(backend="onnxruntime", max_batch=2), film, streams=2)
    assert min(limit.decode_s, limit.encode_s, limit.head_s) > 0
    total = limit.cpu_s_per_s(frames_per_s=50, chunks_per_s=10, windows_per_s=5)
    assert total == pytest.approx(50 * limit.decode_s + 10 * limit.encode_s + 5 * limit.head_s)

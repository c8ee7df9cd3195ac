"""The least processor time that a service needs."""

from __future__ import annotations

import numpy as np
import pytest

from engines.bundle import Bundle
from streamclf.bench.cameras.film import EncodedFilm
from streamclf.bench.service.cpu_limit import CpuLimit, decode_film, measure_cpu_limit
from streamclf.config.engine import EngineConfig
from streamclf.sources.decoding import WantedDecoding


def test_the_limit_is_the_sum_of_decode_encode_and_head(
    bundle: Bundle, film: EncodedFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.bench.service.cpu_limit.ROUND_S", 0.02)
    limit = measure_cpu_limit(bundle, EngineConfig(backend="onnxruntime", max_batch=2), film, streams=2)
    assert min(limit.exact_s, limit.fast_s, limit.encode_s, limit.head_s) > 0
    limit = CpuLimit(exact_s=2.0, fast_s=1.0, encode_s=10.0, head_s=100.0, spread=0.0)
    work = {"frames_per_s": 50, "chunks_per_s": 10, "windows_per_s": 5}
    assert limit.cpu_s_per_s(**work, fast_share=0.0) == 50 * 2 + 10 * 10 + 5 * 100
    assert limit.cpu_s_per_s(**work, fast_share=1.0) == 50 * 1 + 10 * 10 + 5 * 100
    assert limit.cpu_s_per_s(**work, fast_share=0.5) == 50 * 1.5 + 10 * 10 + 5 * 100


def test_the_decoder_of_the_limit_decodes_as_it_says(film: EncodedFilm) -> None:
    """Without the loop filter, pictures differ from the exact ones."""
    exact, fast = (
        [frame.to_ndarray() for frame in decode_film(film, WantedDecoding(decoding).options("h264"))]
        for decoding in ("exact", "fast")
    )
    assert len(exact) == len(fast) == len(film.units)
    assert any(not np.array_equal(*pair) for pair in zip(exact, fast, strict=True))

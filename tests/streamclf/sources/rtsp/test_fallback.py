"""The cache of streams that our own client does not support."""

from __future__ import annotations

import pytest

from streamclf.sources.rtsp.fallback import MAX_AGE_S, FallbackCache


def test_fallback_reasons_expire_after_an_hour_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("streamclf.sources.rtsp.fallback.time.monotonic", lambda: clock[0])
    cache = FallbackCache()
    for i in range(1000):
        cache.add(f"rtsp://c/{i}", "JPEG")
    assert cache.reason("rtsp://c/0") is None
    assert cache.reason("rtsp://c/999") == "JPEG"
    clock[0] = MAX_AGE_S + 1
    assert cache.reason("rtsp://c/999") is None

"""`streamclf bench BUNDLE`: a row for each backend, precision and batch size."""

from __future__ import annotations

import pytest

from engines.bundle import Bundle
from streamclf.bench.bundle_speed import bench_bundle, format_result
from streamclf.errors import BenchError


def test_a_bundle_is_measured_by_backend_precision_and_batch(bundle: Bundle) -> None:
    result = bench_bundle(bundle, backend="onnxruntime", precision=None, max_batch=4, seconds=0.01)
    assert [(row["backend"], row["precision"], row["batch"]) for row in result["results"]] == [
        ("onnxruntime", "fp32", batch) for batch in (1, 2, 4)
    ]
    for row in result["results"]:
        for part in (row["encode"], row["classify"]):
            assert part["ms"] > 0
            assert part["items_per_s"] == pytest.approx(1000 * row["batch"] / part["ms"], rel=0.05)
            assert part["spread"] >= 0
    assert {each["precision"] for each in result["refused"]} >= {"bf16", "int8"}
    shown = "\n".join(format_result(result))
    assert "brightness@1" in shown
    assert "onnxruntime  fp32      4" in shown


def test_an_error_says_why_no_backend_can_run_a_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.bench.bundle_speed.missing_libraries", lambda backend: [backend])
    with pytest.raises(BenchError, match="no inference library is installed"):
        bench_bundle(bundle, backend=None, precision=None, max_batch=1, seconds=0.01)
    monkeypatch.undo()
    with pytest.raises(BenchError, match=r"no backend on this machine can run it: .*no encoder\.int8\.onnx"):
        bench_bundle(bundle, backend=None, precision="int8", max_batch=1, seconds=0.01)

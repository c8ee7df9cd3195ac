"""`streamclf bench --suite gpu` on a double of GPU and TensorRT: every figure is there and agrees with the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.gpu_double import double_platform

import engines.tensorrt
import engines.tensorrt.requirements
from engines.gpu import Gpu
from streamclf.bench import gpu
from streamclf.bench.gpu import bench_gpu, lines
from streamclf.cli import _main
from streamclf.errors import BenchError


@pytest.fixture
def with_double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu, "find_gpus", lambda: [Gpu(name="Double")])
    monkeypatch.setattr(gpu, "missing_libraries", lambda backend: [])
    monkeypatch.setattr("engines.engine.missing_libraries", lambda backend: [])
    monkeypatch.setattr(gpu, "ROUND_S", 0.01)
    monkeypatch.setattr(gpu, "PRECISIONS", ("fp32", "fp16", "int8"))  # ONNX Runtime in the double has no bf16
    for module in (engines.tensorrt, engines.tensorrt.requirements):
        monkeypatch.setattr(module, "load_platform", double_platform)


@pytest.mark.usefixtures("with_double")
def test_every_precision_is_proven_and_measured(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    found = bench_gpu(str(bundle.path), max_batch=4, streams=6, seconds=0.3, copy_bytes=4096)
    (model,) = found["models"]
    assert model["model"] == "brightness@1"
    by_precision = {result["precision"]: result for result in model["results"]}
    assert list(by_precision) == ["fp32", "fp16", "int8"]
    assert "no encoder.int8.onnx" in by_precision["int8"]["error"]
    result = by_precision["fp32"]
    assert result["golden"]["max_dp"] <= result["golden"]["allowed"]
    assert [row["batch"] for row in result["batches"]] == [1, 2, 4]
    for row in result["batches"]:
        encode_s, classify_s = row["batch"] / row["encodes_per_s"], row["batch"] / row["windows_per_s"]
        whole_s = row["batch"] / row["whole_windows_per_s"]
        assert whole_s == pytest.approx(bundle.spec.tokens * encode_s + classify_s)
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
    best = max(row["predictions_per_s"] for row in result["batches"])
    whole = max(row["whole_windows_per_s"] for row in result["batches"])
    assert result["encode_once_against_whole_window"] == pytest.approx(best / whole)
    assert result["live"]["streams"] == 6
    assert result["live"]["tokens_per_s_wanted"] == 30.0
    assert min(found["ceilings"].values()) > 0
    shown = "\n".join(lines(found))
    assert "6 live streams" in shown
    assert "int8: " in shown


@pytest.mark.usefixtures("with_double")
def test_the_built_in_bundles_and_a_folder_of_others_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_brightness_bundle(tmp_path / "more" / "brightness")
    monkeypatch.setenv("STREAMCLF_GPU_BUNDLES", str(tmp_path / "more"))
    names = [bundle.spec.name for bundle in gpu._bundles(None)]
    assert names[-1] == "brightness"
    assert "camera-events" in names
    monkeypatch.setenv("STREAMCLF_GPU_BUNDLES", str(tmp_path / "nowhere"))
    with pytest.raises(BenchError, match="no such directory"):
        gpu._bundles(None)


def test_without_a_gpu_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "find_gpus", list)
    monkeypatch.setattr(gpu, "missing_libraries", lambda backend: ["tensorrt", "pycuda"])
    assert _main(["bench", "--suite", "gpu", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "an NVIDIA GPU and its driver, tensorrt, pycuda" in told.err
    assert "pip install 'streamclf[tensorrt]'" in told.err

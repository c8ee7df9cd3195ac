"""`streamclf bench --suite gpu` on a double of GPU and TensorRT: which parts run, and whether the figures agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle

from streamclf.bench.gpu import suite
from streamclf.bench.gpu.part import PartRequest, measure_part
from streamclf.bench.gpu.suite import add_shares, bench_gpu, format_result
from streamclf.cli import _main
from streamclf.errors import BenchError


def measure_here(request: PartRequest, limit_s: float) -> dict[str, object]:
    """Measure in this process: another one would not have the double."""
    assert limit_s > 0
    return measure_part(request)


@pytest.mark.usefixtures("with_double")
def test_every_precision_is_checked_and_measured(tmp_path: Path, small: PartRequest) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    report = bench_gpu(str(bundle.path), request=small, measure=measure_here)
    assert report["left"] == []
    (model,) = report["models"]
    assert model["model"] == "brightness"
    by_precision = {result["precision"]: result for result in model["results"]}
    assert list(by_precision) == ["fp16", "fp32", "int8"]
    assert "no encoder.int8.onnx" in by_precision["int8"]["error"]
    result = by_precision["fp32"]
    assert result["golden"]["max_dp"] <= result["golden"]["allowed"]
    assert [row["batch"] for row in result["batches"]] == [1, 2, 4]
    ceilings = report["ceilings"]
    assert {name for name in ceilings if name.startswith("products")} == {
        "products_fp16_gflops", "products_fp32_gflops", "products_int8_gflops",
    }  # fmt: skip
    assert min(ceilings.values()) > 0
    for row in result["batches"]:
        encode_s, classify_s = row["batch"] / row["encodes_per_s"], row["batch"] / row["windows_per_s"]
        whole_s = row["batch"] / row["whole_windows_per_s"]
        assert whole_s == pytest.approx(bundle.spec.chunks * encode_s + classify_s)
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert row["head_gflops"] == pytest.approx(row["windows_per_s"] * result["work"]["head_flop"] / 1e9)
    best = max(row["predictions_per_s"] for row in result["batches"])
    whole = max(row["whole_windows_per_s"] for row in result["batches"])
    assert result["encode_once_against_whole_window"] == pytest.approx(best / whole)
    assert result["live"][0]["streams"] == 6
    assert result["live"][0]["chunks_per_s_wanted"] == 30.0
    text = "\n".join(format_result(report))
    assert "6 live streams" in text
    assert "int8: " in text
    assert "matrix products in TFLOP/s: fp16 " in text


def test_the_share_of_the_limit_is_of_the_tighter_limit() -> None:
    """1 GFLOP at 100 GFLOP/s takes 10 ms, 0.2 GB at 10 GB/s 20 ms: an encode of 40 ms takes twice the least time."""
    work = {
        "encode_flop": 10**9, "head_flop": 10**9, "whole_window_flop": 0, "encoder_weight_bytes": 10**8,
        "head_weight_bytes": 0, "chunk_bytes": 10**8, "window_bytes": 0,
    }  # fmt: skip
    result = {"work": work, "batches": [{"batch": 1, "encodes_per_s": 25.0, "windows_per_s": 50.0}]}
    ceilings = {"products_fp16_gflops": 100.0, "copy_gb_per_s": 10.0}
    (row,) = add_shares(result, "fp16", ceilings)["batches"]
    assert row["encode_of_limit"] == pytest.approx(0.5)
    assert row["head_of_limit"] == pytest.approx(0.5)
    assert add_shares(result, "fp32", ceilings) is result  # the rate of fp32 products was not measured


@pytest.mark.usefixtures("with_double")
def test_a_killed_suite_continues_where_it_ended(tmp_path: Path, small: PartRequest) -> None:
    bundle, keep = make_brightness_bundle(tmp_path / "brightness"), tmp_path / "kept.jsonl"
    begun: list[str] = []

    def die_at_fp32(request: PartRequest, limit_s: float) -> dict[str, object]:
        begun.append(request.precision or "ceilings")
        if request.precision == "fp32":
            raise KeyboardInterrupt
        return measure_part(request)

    with pytest.raises(KeyboardInterrupt):
        bench_gpu(str(bundle.path), keep=keep, request=small, measure=die_at_fp32)
    assert begun == ["ceilings", "fp16", "fp32"]
    begun.clear()
    with pytest.raises(KeyboardInterrupt):
        bench_gpu(str(bundle.path), keep=keep, request=small, measure=die_at_fp32)
    assert begun == ["int8", "fp32"]  # the part that was never tried comes first
    begun.clear()
    report = bench_gpu(str(bundle.path), keep=keep, request=small, measure=die_at_fp32)
    assert begun == []  # fp32 has had its two tries
    assert [result["precision"] for result in report["models"][0]["results"]] == ["fp16", "int8"]


@pytest.mark.usefixtures("with_double")
def test_the_option_only_selects_parts_by_name(tmp_path: Path, small: PartRequest) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    report = bench_gpu(str(bundle.path), only="*/fp32", request=small, measure=measure_here)
    assert [result["precision"] for result in report["models"][0]["results"]] == ["fp32"]
    assert "the card's own limits are not known" in format_result(report)[0]
    with pytest.raises(BenchError, match="--only nothing: matches no part"):
        bench_gpu(str(bundle.path), only="nothing", request=small, measure=measure_here)


@pytest.mark.usefixtures("with_double")
def test_built_in_bundles_and_those_of_a_folder_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: PartRequest
) -> None:
    make_brightness_bundle(tmp_path / "more" / "brightness")
    monkeypatch.setenv("STREAMCLF_GPU_BUNDLES", str(tmp_path / "more"))
    names: list[str] = []

    def record_name(request: PartRequest, limit_s: float) -> dict[str, object]:
        names.append(Path(request.bundle or "").name)
        raise BenchError("not measured")

    bench_gpu(None, only="*/fp16", request=small, measure=record_name)
    assert names[-1] == "brightness"
    assert "camera-events" in names
    monkeypatch.setenv("STREAMCLF_GPU_BUNDLES", str(tmp_path / "nowhere"))
    with pytest.raises(BenchError, match="no such directory"):
        bench_gpu(None, request=small, measure=record_name)


def test_without_a_gpu_the_error_names_all_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "find_gpus", list)
    monkeypatch.setattr(suite, "missing_libraries", lambda backend: ["tensorrt", "pycuda"])
    assert _main(["bench", "--suite", "gpu", "--json"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "an NVIDIA GPU and its driver, tensorrt, pycuda" in output.err
    assert "pip install '.[tensorrt-cu12]' in a clone" in output.err
    assert _main(["bench", "--keep", "kept.jsonl"]) == 2
    assert "add --suite gpu" in capsys.readouterr().err

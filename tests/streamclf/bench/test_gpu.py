"""`streamclf bench --suite gpu` on a double of GPU and TensorRT: every figure is there and agrees with the others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support.bundles import make_brightness_bundle
from support.gpu_double import double_platform

import engines.backends.tensorrt
import engines.backends.tensorrt.requirements
from engines.backends.gpu import Gpu
from streamclf.bench.gpu import suite as gpu
from streamclf.bench.gpu.device_limits import PRODUCTS, products_graph, weight_bytes
from streamclf.bench.gpu.part import PartRequest, main, measure_in_process, measure_part, run_in_process
from streamclf.bench.gpu.suite import bench_gpu, lines, with_shares
from streamclf.cli import _main
from streamclf.errors import BenchError

SMALL = PartRequest(max_batch=4, streams=6, seconds=0.3, copy_bytes=4096, side=16, round_s=0.01)


@pytest.fixture
def with_double(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu, "find_gpus", lambda: [Gpu(name="Double")])
    monkeypatch.setattr(gpu, "missing_libraries", lambda backend: [])
    monkeypatch.setattr("engines.opening.missing_libraries", lambda backend: [])
    monkeypatch.setattr(gpu, "PRECISIONS", ("fp16", "fp32", "int8"))  # ONNX Runtime in the double has no bf16
    for module in (engines.backends.tensorrt, engines.backends.tensorrt.requirements):
        monkeypatch.setattr(module, "load_platform", double_platform)


def here(request: PartRequest, limit_s: float) -> dict[str, object]:
    """A process of its own would have no double."""
    assert limit_s > 0
    return measure_part(request)


@pytest.mark.usefixtures("with_double")
def test_every_precision_is_proven_and_measured(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    found = bench_gpu(str(bundle.path), request=SMALL, measured=here)
    assert found["left"] == []
    (model,) = found["models"]
    assert model["model"] == "brightness"
    by_precision = {result["precision"]: result for result in model["results"]}
    assert list(by_precision) == ["fp16", "fp32", "int8"]
    assert "no encoder.int8.onnx" in by_precision["int8"]["error"]
    result = by_precision["fp32"]
    assert result["golden"]["max_dp"] <= result["golden"]["allowed"]
    assert [row["batch"] for row in result["batches"]] == [1, 2, 4]
    ceilings = found["ceilings"]
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
    shown = "\n".join(lines(found))
    assert "6 live streams" in shown
    assert "int8: " in shown
    assert "matrix products in TFLOP/s: fp16 " in shown


def test_how_near_the_limit_is_the_nearer_of_both() -> None:
    """1 GFLOP at 100 GFLOP/s takes 10 ms, 0.2 GB at 10 GB/s 20 ms: an encode of 40 ms is twice the limit."""
    work = {
        "encode_flop": 10**9, "head_flop": 10**9, "whole_window_flop": 0, "encoder_weight_bytes": 10**8,
        "head_weight_bytes": 0, "chunk_bytes": 10**8, "window_bytes": 0,
    }  # fmt: skip
    result = {"work": work, "batches": [{"batch": 1, "encodes_per_s": 25.0, "windows_per_s": 50.0}]}
    ceilings = {"products_fp16_gflops": 100.0, "copy_gb_per_s": 10.0}
    (row,) = with_shares(result, "fp16", ceilings)["batches"]
    assert row["encode_of_limit"] == pytest.approx(0.5)
    assert row["head_of_limit"] == pytest.approx(0.5)
    assert with_shares(result, "fp32", ceilings) is result  # nobody knows that ceiling


@pytest.mark.usefixtures("with_double")
def test_what_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    bundle, keep = make_brightness_bundle(tmp_path / "brightness"), tmp_path / "kept.jsonl"
    seen: list[str] = []

    def dies_at_fp32(request: PartRequest, limit_s: float) -> dict[str, object]:
        seen.append(request.precision or "ceilings")
        if request.precision == "fp32":
            raise KeyboardInterrupt
        return measure_part(request)

    with pytest.raises(KeyboardInterrupt):
        bench_gpu(str(bundle.path), keep=keep, request=SMALL, measured=dies_at_fp32)
    assert seen == ["ceilings", "fp16", "fp32"]
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        bench_gpu(str(bundle.path), keep=keep, request=SMALL, measured=dies_at_fp32)
    assert seen == ["int8", "fp32"]  # what was never tried goes first
    seen.clear()
    found = bench_gpu(str(bundle.path), keep=keep, request=SMALL, measured=dies_at_fp32)
    assert seen == []  # it has had its two tries
    assert [result["precision"] for result in found["models"][0]["results"]] == ["fp16", "int8"]


@pytest.mark.usefixtures("with_double")
def test_only_some_parts(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    found = bench_gpu(str(bundle.path), only="*/fp32", request=SMALL, measured=here)
    assert [result["precision"] for result in found["models"][0]["results"]] == ["fp32"]
    assert "its own limits are not known" in lines(found)[0]
    with pytest.raises(BenchError, match="--only nothing: no part is called so"):
        bench_gpu(str(bundle.path), only="nothing", request=SMALL, measured=here)


@pytest.mark.usefixtures("with_double")
def test_a_card_that_cannot_hold_the_streams_says_how_many_it_holds(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "brightness")
    many = replace(SMALL, bundle=str(bundle.path), precision="fp32", streams=200_000, seconds=0.2)
    first, second = measure_part(many)["live"]
    assert not first["held"]
    assert second["streams"] < 200_000


def test_a_part_in_a_process_of_its_own_fails_alone(tmp_path: Path) -> None:
    """Here without a GPU: what the library says is the error, and no traceback."""
    bundle = make_brightness_bundle(tmp_path / "brightness")
    with pytest.raises(BenchError, match=r"tensorrt"):
        measure_in_process(replace(SMALL, bundle=str(bundle.path), precision="fp32"), 60)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV: it said nothing"),
        ("import time; time.sleep(60)", "not done after 1 s"),
        ("import sys; sys.exit('no such thing')", "exit code 1: no such thing"),
        ('print(\'{"error": "too small"}\')', "too small"),
    ],
)
def test_how_a_part_ended_is_said(code: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        run_in_process([sys.executable, "-c", code], 1 if "sleep" in code else 60)


def test_a_part_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(request: PartRequest) -> dict[str, object]:
        raise BenchError(f"no {request.precision}")

    assert main(['{"precision": "fp16"}'], measured=refuse) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "no fp16"}
    assert main(["{}"], measured=lambda request: {"side": request.side}) == 0
    assert json.loads(capsys.readouterr().out) == {"side": 8192}


@pytest.mark.parametrize("quantised", [False, True])
def test_the_products_that_the_ceiling_is_measured_with(quantised: bool, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(products_graph(8, quantised=quantised))
    kinds = [node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node]
    assert kinds.count("MatMul") == PRODUCTS
    assert kinds.count("QuantizeLinear") == (PRODUCTS + 1 if quantised else 0)
    if not quantised:
        assert weight_bytes(tmp_path / "g.onnx", "fp16") == 8 * 8 * 2


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
    assert _main(["bench", "--keep", "kept.jsonl"]) == 2
    assert "give --suite gpu" in capsys.readouterr().err

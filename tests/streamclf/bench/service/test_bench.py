"""`streamclf bench --streams N` with a real service and real cameras: keys, consistency, and nothing left behind.

No test here asserts a speed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.service import wait_gone

from streamclf.bench.cameras.film import FilmSpec
from streamclf.bench.service.cpu_limit import CpuLimit
from streamclf.bench.service.process_usage import UsageSampler, descendants
from streamclf.bench.service.report import build_report, format_result
from streamclf.bench.service.run import ServiceLoad, ServiceRun
from streamclf.builtin_models import find_bundle
from streamclf.config.engine import EngineConfig

DEADLINE_S = 250.0
SHORT_ROUNDS = """
import streamclf.bench.service.bench as bench, streamclf.bench.service.cpu_limit as cpu_limit
bench.MAX_STREAMS, cpu_limit.ROUND_S = 2, 0.01
from streamclf.cli import main
main()
"""
"""The command line with short rounds for the processor time limit, and a capacity search of at most two streams."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", SHORT_ROUNDS, "bench", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "STREAMCLF_CACHE": str(folder / "cache")}


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def processes_of(folder: Path) -> list[int]:
    """Return the processes that have `folder` as TMPDIR."""
    mark = f"TMPDIR={folder}\0".encode()
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                pids.append(int(path.parent.name))
        except OSError:  # noqa: PERF203 - each may have ended
            continue
    return pids


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    small = ("--streams", "2", "--size", "320x180", "--seconds", "1", "--json")
    done = bench(*small, "--backend", "onnxruntime", "--precision", "fp32", "--decode", "fast", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert processes_of(folder) == []
    assert list(folder.glob("streamclf-*")) == []
    return json.loads(done.stdout)


def test_the_rates_of_a_further_model_count_the_measured_seconds() -> None:
    bundle = find_bundle("camera-events")  # 5 chunks a second
    film = FilmSpec(width=320, height=180, fps=25)
    load = ServiceLoad(
        bundle=bundle, further={"again": bundle}, engine=EngineConfig(), streams=2, film=film, hop=2, seconds=1
    )
    run = ServiceRun(engine="", usage=UsageSampler(os.getpid()), seconds=1.0, began_ns=100, ended_ns=200)
    run.received_further["again"] = [99, 100, 150, 199, 200]
    limit = CpuLimit(exact_s=1.0, fast_s=1.0, encode_s=1.0, head_s=1.0, spread=0.0)
    run.engine = "model, again: openvino 2026.4.1 bf16, EPYC; other: onnxruntime 1.20 fp32, EPYC"
    report = build_report(load, run, limit)
    assert report["further_models"] == {
        "again": {"model": bundle.spec.id, "wanted_per_s": 5.0, "predictions_per_s": 3.0}
    }
    assert (report["backend"], report["precision"]) == ("openvino", "bf16")
    assert (report["missed"], report["held"]) == (5 + 2, False)
    assert report["efficiency"] is report["limit_cpu_s_per_s"] is None  # the limit is measured for one model
    assert any("again" in line and "wanted 5" in line for line in format_result(report))


def test_the_report_has_all_documented_keys(report: dict[str, Any]) -> None:
    assert report.keys() >= {
        "streams", "predictions_per_s", "cpu_s_per_s", "limit_cpu_s_per_s", "efficiency", "latency_ms", "rss_mb",
        "dropped", "backend", "precision",
    }  # fmt: skip
    assert (report["streams"], report["size"], report["fps"]) == (2, "320x180", 25.0)
    model = find_bundle("camera-events").spec.id
    assert (report["backend"], report["precision"], report["model"]) == ("onnxruntime", "fp32", model)
    assert (report["decode"], report["fast_share"]) == ("fast", 1.0)
    assert report["limit"]["decode_ms_per_picture"] == report["limit"]["fast_ms_per_picture"]
    assert report["latency_ms"].keys() >= {"p50", "p90", "p99", "max"}
    assert report["stages_cpu_s_per_s"].keys() == {
        "decode", "convert", "ring", "encode", "head", "publish", "other",
    }  # fmt: skip


def test_the_figures_agree_with_each_other(report: dict[str, Any]) -> None:
    """Each figure is rounded to four digits, hence the tolerance."""
    rates = report["predictions_per_s_by_stream"]
    assert rates["wanted"] == 5.0
    assert 0 < rates["lowest"] <= rates["median"]
    total = sum(each["cpu_s_per_s"] for each in report["processes"])
    assert total == pytest.approx(report["cpu_s_per_s"], rel=0.01)
    assert sum(report["stages_cpu_s_per_s"].values()) >= 0.99 * total
    assert report["efficiency"] == pytest.approx(report["limit_cpu_s_per_s"] / report["cpu_s_per_s"], rel=0.01)
    per_item = report["limit"]
    parts = (
        ("decode", "decode_ms_per_picture"),
        ("encode", "encode_ms_per_chunk"),
        ("head", "head_ms_per_window"),
    )
    limit = sum(report["items_per_s"][stage] * per_item[key] / 1000 for stage, key in parts)
    assert limit == pytest.approx(report["limit_cpu_s_per_s"], rel=0.01)
    for key in ("rss_mb", "pss_mb"):
        assert report[key] == pytest.approx(sum(each[key] for each in report["processes"]), rel=0.01)
    assert report["pss_mb"] < report["rss_mb"]  # the processes share their libraries
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert latency["matched"] == pytest.approx(report["predictions_per_s"] * report["seconds"], abs=1)
    assert report["dropped"] == sum(report["drops"].values())


def test_every_process_of_the_service_is_measured(report: dict[str, Any]) -> None:
    names = [each["name"] for each in report["processes"]]
    assert sorted(names) == ["capture", "capture", "classifier", "hub", "supervisor"]
    assert all(each["rss_mb"] > 10 for each in report["processes"])
    assert all(
        [at_s for at_s, *_ in each["memory"]] == sorted(at_s for at_s, *_ in each["memory"])
        for each in report["processes"]
    )
    assert report["items_per_s"]["encode"] >= report["items_per_s"]["head"] > 0
    assert report["items_per_s"]["decode"] > 2 * report["items_per_s"]["encode"]
    assert report["bench"]["cameras_cpu_s_per_s"] >= 0
    assert report["states"] == {}


@pytest.mark.alone  # a capacity search uses all cores
def test_capacity_measures_the_service_of_a_configuration(tmp_path: Path) -> None:
    """`test_capacity.py` tests the search; this test runs real services until it ends, at two streams at most."""
    config = {
        "model": "camera-events",
        "engine": {"backend": "onnxruntime"},
        "streams": {"door": {"url": "rtsp://10.0.0.1/x", "hop": 2}},
    }
    (tmp_path / "s.yaml").write_text(json.dumps(config))
    done = bench("s.yaml", "--capacity", "--size", "128x96", "--seconds", "0.6", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["hop"] == 2
    assert report["predictions_per_s_by_stream"]["wanted"] == 2.5
    assert report["capacity"] in (0, 1, 2)
    assert report["streams"] == max(1, report["capacity"])
    sustained = [probe["streams"] for probe in report["probes"] if probe["held"]]
    assert sustained[-1:] == ([report["capacity"]] if report["capacity"] else [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with running_bench(tmp_path) as process:
        pids = wait_for_capture(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        assert out == ""
        assert err.splitlines()[-1] == "streamclf: interrupted: nothing was measured"
    wait_gone(pids)
    assert list(tmp_path.glob("streamclf-*")) == []


def test_the_service_ends_when_the_bench_is_killed(tmp_path: Path) -> None:
    with running_bench(tmp_path) as process:
        pids = wait_for_capture(process)
        process.kill()
        wait_gone(pids)
    assert processes_of(tmp_path) == []


def test_the_error_of_a_service_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    done = bench("--streams", "1", "--size", "128x96", "--backend", "tensorrt", cwd=tmp_path)
    assert done.returncode == 1
    assert "tensorrt" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert processes_of(tmp_path) == []


@contextmanager
def running_bench(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a bench of one stream that would take a minute; kill the process on exit."""
    arguments = ("--streams", "1", "--size", "128x96", "--seconds", "60", "--backend", "onnxruntime", "--json")
    with subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_capture(process: subprocess.Popen[str]) -> list[int]:
    """Wait for a capture process below `process`; return the ids of all its descendants."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        pids = list(descendants(process.pid))
        if any("streamclf.capture" in command_line(pid) for pid in pids):
            return pids
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""

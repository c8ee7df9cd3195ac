"""`streamclf bench` with a real service and real cameras: the shape and consistency of what it says, never a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.service import Service, wait_gone

DEADLINE_S = 100.0


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamclf", "bench", *arguments],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd), "STREAMCLF_CACHE": str(cwd / "cache")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def left_in(folder: Path) -> list[int]:
    """Processes whose temporary files were to go to `folder`."""
    mark = f"TMPDIR={folder}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # noqa: PERF203 - each may have ended
            continue
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    small = ("--streams", "2", "--size", "320x180", "--seconds", "2", "--json")
    done = bench(*small, "--backend", "onnxruntime", "--precision", "fp32", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert left_in(folder) == []
    assert list(folder.glob("streamclf-*")) == []
    return json.loads(done.stdout)


def test_all_that_was_promised_is_there(found: dict[str, Any]) -> None:
    assert found.keys() >= {
        "streams", "predictions_per_s", "cpu_s_per_s", "limit_cpu_s_per_s", "efficiency", "latency_ms", "rss_mb",
        "dropped", "backend", "precision",
    }  # fmt: skip
    assert (found["streams"], found["size"], found["fps"]) == (2, "320x180", 25.0)
    assert (found["backend"], found["precision"], found["model"]) == ("onnxruntime", "fp32", "camera-events@1")
    assert found["latency_ms"].keys() >= {"p50", "p90", "p99", "max"}
    assert found["stages_cpu_s_per_s"].keys() == {
        "decode", "convert", "ring", "encode", "head", "publish", "other",
    }  # fmt: skip


def test_the_figures_agree_with_each_other(found: dict[str, Any]) -> None:
    rates = found["predictions_per_s_by_stream"]
    assert rates["wanted"] == 5.0
    assert 0 < rates["lowest"] <= rates["median"]
    # Rounded to four digits, each of them.
    total = sum(each["cpu_s_per_s"] for each in found["processes"])
    assert total == pytest.approx(found["cpu_s_per_s"], rel=0.01)
    assert sum(found["stages_cpu_s_per_s"].values()) >= 0.99 * total
    assert found["efficiency"] == pytest.approx(found["limit_cpu_s_per_s"] / found["cpu_s_per_s"], rel=0.01)
    per_item = found["limit"]
    parts = (
        ("decode", "decode_ms_per_picture"),
        ("encode", "encode_ms_per_chunk"),
        ("head", "head_ms_per_window"),
    )
    limit = sum(found["items_per_s"][stage] * per_item[key] / 1000 for stage, key in parts)
    assert limit == pytest.approx(found["limit_cpu_s_per_s"], rel=0.01)
    assert found["rss_mb"] == pytest.approx(sum(each["rss_mb"] for each in found["processes"]), rel=0.01)
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert latency["matched"] == pytest.approx(found["predictions_per_s"] * found["seconds"], abs=1)
    assert found["dropped"] == sum(found["drops"].values())


def test_the_whole_service_was_measured(found: dict[str, Any]) -> None:
    names = [each["name"] for each in found["processes"]]
    assert sorted(names) == ["capture", "capture", "classifier", "hub", "supervisor"]
    assert all(each["rss_mb"] > 10 for each in found["processes"])
    assert found["items_per_s"]["encode"] >= found["items_per_s"]["head"] > 0
    assert found["items_per_s"]["decode"] > 2 * found["items_per_s"]["encode"]
    assert found["bench"]["cameras_cpu_s_per_s"] >= 0
    assert found["states"] == {}


def test_capacity_measures_a_configurations_service_until_it_knows(tmp_path: Path) -> None:
    """The search itself is `test_bench`'s; here that its end, at most two streams, is found by real services."""
    config = {
        "model": "camera-events",
        "engine": {"backend": "onnxruntime"},
        "streams": {"door": {"url": "rtsp://10.0.0.1/x", "hop": 2}},
    }
    (tmp_path / "s.yaml").write_text(json.dumps(config))
    program = (
        "import streamclf.bench.command as command, streamclf.bench.service.cpu_limit as limit\n"
        "command.MAX_STREAMS, limit.ROUND_S = 2, 0.02\n"
        "from streamclf.cli import main; main()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "bench",
            "s.yaml",
            "--capacity",
            "--size",
            "128x96",
            "--seconds",
            "1",
            "--json",
        ],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "STREAMCLF_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["hop"] == 2
    assert found["predictions_per_s_by_stream"]["wanted"] == 2.5
    assert found["capacity"] in (0, 1, 2)
    assert found["streams"] == max(1, found["capacity"])
    held = {probe["streams"]: probe["held"] for probe in found["probes"]}
    assert [streams for streams, well in held.items() if well][-1:] == (
        [found["capacity"]] if found["capacity"] else []
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    env = {"TMPDIR": str(tmp_path)}
    arguments = ("bench", "--streams", "1", "--size", "128x96", "--seconds", "60", "--backend", "onnxruntime", "--json")
    with Service(*arguments, cwd=tmp_path, env=env) as running:
        pids = _captures(running)
        running.process.send_signal(number)
        assert running.wait() == 1
        assert running.process.stdout is not None
        assert running.process.stdout.read() == ""
        assert running.lines[-1] == "streamclf: ended before the end: nothing was measured"
    wait_gone(pids)
    assert list(tmp_path.glob("streamclf-*")) == []


def test_a_killed_bench_takes_its_service_with_it(tmp_path: Path) -> None:
    arguments = ("bench", "--streams", "1", "--size", "128x96", "--seconds", "60", "--backend", "onnxruntime")
    with Service(*arguments, cwd=tmp_path, env={"TMPDIR": str(tmp_path)}) as running:
        pids = _captures(running)
        running.process.kill()
        wait_gone(pids)
    assert left_in(tmp_path) == []


def test_a_service_that_cannot_start_is_told_in_one_line(tmp_path: Path) -> None:
    done = bench("--streams", "1", "--size", "128x96", "--backend", "tensorrt", cwd=tmp_path)
    assert done.returncode == 1
    assert "tensorrt" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert left_in(tmp_path) == []


def _captures(running: Service) -> list[int]:
    """All processes below it, once a capture is among them."""
    deadline = time.monotonic() + DEADLINE_S
    while not running.children("streamclf.capture"):
        assert time.monotonic() < deadline, running.lines
        time.sleep(0.05)
    return running.descendants()

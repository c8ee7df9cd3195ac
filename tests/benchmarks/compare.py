"""Compare streamclf with its peers on the same weights and cameras, one after the other, measured the same way.

    PYTHONPATH=tests python -m benchmarks.compare --bundle FOLDER/hybrid --streams 1 4 8

For each number of streams, it measures each peer and then streamclf, and prints a row of the table. `--json FILE`
writes all rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.peer import Job

from engines.bundle import load_bundle
from streamclf.bench.cameras.camera_process import CamerasJob
from streamclf.bench.cameras.film import FilmSpec, make_film, save_film
from streamclf.bench.cameras.rtsp_server import HOST
from streamclf.bench.helper_process import HelperProcess
from streamclf.bench.machine import describe_machine
from streamclf.bench.service.cpu_limit import CpuLimit, measure_cpu_limit
from streamclf.bench.service.process_usage import UsageSampler
from streamclf.bench.service.report import build_report
from streamclf.bench.service.run import ServiceLoad, measure_service
from streamclf.bench.timing import percentile
from streamclf.config.engine import EngineConfig
from streamclf.errors import BenchError

PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "opencv-onnxruntime": ("benchmarks.opencv_onnxruntime", {}),
    "torch-eager": ("benchmarks.torch_eager", {}),
    "openvino-split": ("benchmarks.openvino_split", {}),
    "openvino-split-bf16": ("benchmarks.openvino_split", {"precision": "bf16"}),
    "openvino-split-bf16-1": ("benchmarks.openvino_split", {"precision": "bf16", "threads": 1}),
    "openvino-split-bf16-1-fast": ("benchmarks.openvino_split", {"precision": "bf16", "threads": 1, "fast": True}),
    "roboflow": ("benchmarks.roboflow_pipeline", {}),
}
"""By name: the module of the peer, and its settings beside the job."""
START_TIMEOUT_S = 300.0
WARM_UP_S = 3.0
SAMPLE_S = 0.5


def run_peer(name: str, job: dict[str, Any], film: Path, seconds: float, python: str) -> dict[str, Any]:
    """Run one peer with its own cameras; return the figures of the measured seconds."""
    module, settings = PEERS[name]
    spec, streams = job["spec"], job["streams"]
    with tempfile.TemporaryDirectory(prefix="peer-") as directory:
        folder = Path(directory)
        cameras_job = CamerasJob(film=film, cameras=streams).model_dump_json().encode()
        with HelperProcess(
            "streamclf.bench.cameras.camera_process", cameras_job, log=folder / "cameras.log"
        ) as cameras:
            port = cameras.receive(START_TIMEOUT_S)["port"]
            urls = [f"rtsp://{HOST}:{port}/cam{i}" for i in range(streams)]
            cameras.send_line(b"begin")
            peer_job = Job(bundle=job["bundle"], urls=urls, fps=job["fps"], hop=job["hop"], spec=spec, **settings)
            with HelperProcess(
                module, json.dumps(asdict(peer_job)).encode(), log=folder / "log", python=python
            ) as peer:
                peer.receive(START_TIMEOUT_S)
                window_s = spec["chunks"] * spec["frames_per_chunk"] / spec["fps"]
                time.sleep(window_s + WARM_UP_S)
                sampler, began_ns = UsageSampler(peer.pid), time.monotonic_ns()
                sampler.sample()
                while time.monotonic_ns() - began_ns < seconds * 1e9:
                    time.sleep(SAMPLE_S)
                    sampler.sample()
                ended_ns = time.monotonic_ns()
                sampler.sample_memory()
                if not peer.running:
                    raise BenchError(f"{module} ended{peer.log_tail()}")
                received = peer.receive_waiting()
            sent = cameras.finish(START_TIMEOUT_S)["sent"]
    return _figures(received, sent, sampler, began_ns, ended_ns, job)


def _figures(
    received: list[Any], sent: dict[str, Any], sampler: UsageSampler, began_ns: int, ended_ns: int, job: dict[str, Any]
) -> dict[str, Any]:
    elapsed_s = (ended_ns - began_ns) / 1e9
    counted = [(stream, number, at_ns) for stream, number, at_ns in received if began_ns <= at_ns < ended_ns]
    wanted = job["streams"] * job["spec"]["fps"] / (job["spec"]["frames_per_chunk"] * job["hop"]) * elapsed_s
    # A client that probes the stream first connects twice; it reads from the last connection.
    sent_ns = {stream: connections[-1]["sent_ns"] for stream, connections in sent.items() if connections}
    latencies_ms = [
        (at_ns - sent_ns[f"cam{stream}"][number]) / 1e6
        for stream, number, at_ns in counted
        if number < len(sent_ns.get(f"cam{stream}", ()))
    ]
    cpu_s = sum(usage.cpu_s_per_s for usage in sampler.usages)
    return {
        "predictions_per_s": len(counted) / elapsed_s,
        "missed": max(0.0, 1 - len(counted) / wanted),
        "cpu_s_per_s": cpu_s,
        "cpu_ms_per_prediction": 1e3 * cpu_s * elapsed_s / len(counted) if counted else None,
        "latency_ms": {f"p{percent}": percentile(latencies_ms, percent) for percent in (50, 99)},
        "rss_mb": sum(usage.memory[-1].rss_mb for usage in sampler.usages),
        "pss_mb": sum(usage.memory[-1].pss_mb for usage in sampler.usages),
    }


def run_streamclf(load: ServiceLoad, limit: CpuLimit, film: Path) -> dict[str, Any]:
    """Measure the service with the parts of `streamclf bench`."""
    with tempfile.TemporaryDirectory(prefix="streamclf-bench-") as folder:
        report = build_report(load, measure_service(load, film, Path(folder)), limit)
    wanted, rate = report["predictions_per_s_by_stream"]["wanted"] * load.streams, report["predictions_per_s"]
    keys = ("predictions_per_s", "cpu_s_per_s", "cpu_ms_per_prediction", "rss_mb", "pss_mb", "efficiency", "fast_share")
    return {
        **{key: report[key] for key in (*keys, "held", "stages_cpu_s_per_s")},
        "missed": max(0.0, 1 - rate / wanted),
        "latency_ms": {key: report["latency_ms"][key] for key in ("p50", "p99")},
        "limit_ms_per_prediction": 1e3 * report["limit_cpu_s_per_s"] / rate if rate else None,
    }


def main() -> None:
    """Measure all peers and streamclf; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--hop", type=int, default=1, help="chunks between two predictions")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--peers", nargs="*", default=[name for name in PEERS if name != "roboflow"], choices=PEERS)
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32", "bf16"], help="precisions in which streamclf is measured"
    )
    parser.add_argument(
        "--roboflow-python", default="", help="Python of the environment in which `inference` is installed"
    )
    parser.add_argument(
        "--decode", nargs="+", default=["exact", "fast"], help="decodings with which streamclf is measured"
    )
    parser.add_argument(
        "--hold", type=int, nargs="*", default=[], help="numbers of streams that streamclf is to sustain, measured last"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    width, height = (int(part) for part in arguments.size.split("x"))
    film_spec = FilmSpec(width=width, height=height, fps=arguments.fps)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="film-") as folder:
        film, path = make_film(film_spec), Path(folder) / "film"
        save_film(film, path)
        print(f"{bundle.spec.id}, {describe_machine()}", flush=True)
        print(
            f"{'':28} K  predictions/s  missed  CPU ms  p50 ms  p99 ms  RSS MB  PSS MB  limit ms  efficiency",
            flush=True,
        )
        for streams in arguments.streams:
            for name in arguments.peers:
                job = {
                    "bundle": str(arguments.bundle), "fps": arguments.fps, "hop": arguments.hop, "streams": streams,
                    "spec": bundle.spec.model_dump(mode="json"),
                }  # fmt: skip
                python = arguments.roboflow_python if name == "roboflow" else sys.executable
                if not python:
                    parser.error("roboflow: give --roboflow-python, see README.md")
                try:
                    rows.append(
                        {"name": name, "streams": streams, **run_peer(name, job, path, arguments.seconds, python)}
                    )
                    print(_row(rows[-1]), flush=True)
                except BenchError as error:
                    print(f"{name}: {error}", flush=True)
            for precision in arguments.precisions:
                engine = EngineConfig(precision=precision)
                limit = measure_cpu_limit(bundle, engine, film, streams=streams)
                for decode in arguments.decode:
                    load = ServiceLoad(
                        bundle=bundle, engine=engine, streams=streams, film=film_spec, hop=arguments.hop,
                        seconds=arguments.seconds, decode=decode,
                    )  # fmt: skip
                    name = f"streamclf {precision} {decode}"
                    try:
                        rows.append({"name": name, "streams": streams, **run_streamclf(load, limit, path)})
                        print(_row(rows[-1]), flush=True)
                    except BenchError as error:
                        print(f"{name}: {error}", flush=True)
        for streams in arguments.hold:
            load = replace(load, streams=streams)
            try:
                rows.append({"name": f"{name}, held?", "streams": streams, **run_streamclf(load, limit, path)})
                print(_row(rows[-1]), "sustained" if rows[-1]["held"] else "NOT SUSTAINED", flush=True)
            except BenchError as error:
                print(f"{streams} streams: NOT SUSTAINED: {error}", flush=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": describe_machine(), "model": bundle.spec.id, "rows": rows}, indent=1)
        )


def _row(row: dict[str, Any]) -> str:
    def shown(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return (
        f"{row['name']:28} {row['streams']:<2} {row['predictions_per_s']:<14.1f} {row['missed']:<7.0%} "
        f"{shown(row['cpu_ms_per_prediction']):7} {shown(row['latency_ms']['p50']):7} "
        f"{shown(row['latency_ms']['p99']):7} {row['rss_mb']:<7.0f} {row['pss_mb']:<7.0f} "
        f"{shown(row.get('limit_ms_per_prediction')):9} "
        f"{shown(row.get('efficiency'), 2)}"
    )


if __name__ == "__main__":
    main()

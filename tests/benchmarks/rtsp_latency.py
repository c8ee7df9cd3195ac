"""Compare our RTSP client with FFmpeg's demuxer: latency from last packet sent to frame decoded, and processor time.

    PYTHONPATH=.:tests python tests/benchmarks/rtsp_latency.py [--seconds 10] [--rounds 3] [--json]

The server has its own process. The two readers run in turn, `rounds` times, so that other load on the machine slows
both. Times are CLOCK_MONOTONIC, which processes share.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from support.clips import Film, film
from support.rtsp_server import RtspServer

from streamclf.config.stream import StreamConfig
from streamclf.sources import open_source

DEMUXERS = ("rtp", "ffmpeg")
WARM_UP = 10
ANSWER_S = 60.0


def main() -> None:
    """Measure and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each demuxer in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec", choices=("libx264", "libx265"), default="libx264")
    parser.add_argument("--transport", choices=("tcp", "udp"), default="tcp")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    movie = film(frames=100, width=1280, height=720, codec=given.codec)
    found: dict[str, dict[str, Any]] = {name: {"latencies_ms": [], "cpu_s": 0.0, "pictures": 0} for name in DEMUXERS}
    with serving(movie) as server:
        for _ in range(given.rounds):
            for name in DEMUXERS:
                measure(server, name, round(given.seconds * movie.fps), given.transport, movie.fps, found[name])
    summaries = {name: summary(result) for name, result in found.items()}
    if given.json:
        print(json.dumps(summaries))
        return
    print("| demuxer | p50 | p90 | p99 | max | CPU per frame | frames |\n|---|---|---|---|---|---|---|")
    for name, row in summaries.items():
        times = " | ".join(f"{row[key]:.1f} ms" for key in ("p50", "p90", "p99", "max", "cpu_ms"))
        print(f"| {name} | {times} | {row['pictures']} |")


def measure(server: Connection, demuxer: str, count: int, transport: str, fps: float, into: dict[str, Any]) -> None:
    """Read `count` frames; add their latencies and the processor time of all threads to `into`."""
    server.send("url")
    keys = {"url": server.recv(), "demuxer": demuxer, "transport": transport, "open_timeout_s": 30}
    captured: dict[int, int] = {}
    with open_source(StreamConfig.model_validate(keys)) as source:
        for _ in range(WARM_UP):
            next(source)
        began_s = time.process_time()
        for _ in range(count):
            frame = next(source)
            captured[round(frame.pts_ns * fps / 1e9)] = frame.captured_ns
        into["cpu_s"] += time.process_time() - began_s
    server.send("sent")
    if not server.poll(ANSWER_S):
        raise SystemExit("the server does not answer")
    sent: dict[int, float] = server.recv()
    # A frame can be decoded before the server notes its last packet as sent: its latency counts as 0.
    into["latencies_ms"] += [
        max(0.0, at / 1e6 - sent[number] * 1e3) for number, at in captured.items() if number in sent
    ]
    into["pictures"] += count


def summary(result: dict[str, Any]) -> dict[str, float]:
    """Return quantiles of the latency, and processor time per frame, in milliseconds."""
    times = sorted(result["latencies_ms"])
    quantiles = {f"p{q}": times[min(len(times) - 1, len(times) * q // 100)] for q in (50, 90, 99)}
    cpu_ms = 1e3 * result["cpu_s"] / result["pictures"]
    return {**quantiles, "max": times[-1], "cpu_ms": cpu_ms, "pictures": result["pictures"]}


@contextmanager
def serving(movie: Film) -> Iterator[Connection]:
    """Start the process that serves `movie`; yield the pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(theirs, movie), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join(10)


def serve(pipe: Connection, movie: Film) -> None:
    """Answer requests with the URL of the film or the send times of its frames, until the request `end`."""
    with RtspServer({"cam": movie}) as server:
        while (request := pipe.recv()) != "end":
            pipe.send(server.url("cam") if request == "url" else dict(server.mounts["cam"].sent_at))


if __name__ == "__main__":
    main()

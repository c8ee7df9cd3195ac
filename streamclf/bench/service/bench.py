"""Measure a service once, with exact and fast decoding, or with as many streams as the machine sustains."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from streamclf.bench.cameras.film import make_film, save_film
from streamclf.bench.service.capacity import find_capacity
from streamclf.bench.service.cpu_limit import CpuLimit, measure_cpu_limit
from streamclf.bench.service.decoding import ORDER, compare_reports
from streamclf.bench.service.report import build_report
from streamclf.bench.service.run import ServiceLoad, measure_service
from streamclf.errors import BenchError
from streamclf.net.names import MAX_STREAMS

PROBE_KEYS: Final = ("streams", "held", "missed", "dropped", "cpu_s_per_s", "efficiency", "latency_ms", "error")
"""The keys of a report that the result of a capacity search keeps for each run."""


def bench_service(load: ServiceLoad, *, capacity: bool = False, compare: bool = False) -> dict[str, Any]:
    """Measure `load` and return the report of `build_report`, ready for JSON.

    With `capacity`, search the largest number of streams that the machine sustains, beginning with `load.streams`. The
    result is then the report of that number (of one stream if it sustains none), with the keys `capacity` and `probes`.
    With `compare`, measure exact and fast decoding in turn with the same film, each for `load.seconds` in all, and
    return the result of `compare_reports`. Raises `BenchError` if a service cannot be started or ends.
    """
    with tempfile.TemporaryDirectory(prefix="streamclf-bench-") as name:
        folder = Path(name)
        _print_progress(f"rendering a film of {load.film.width}x{load.film.height} for the cameras")
        film = make_film(load.film)
        save_film(film, folder / "film")

        def find_limit(load: ServiceLoad) -> CpuLimit:
            _print_progress(f"{load.streams} streams: measuring the least processor time")
            return measure_cpu_limit(load.bundle, load.engine, film, streams=load.streams)

        def measure(load: ServiceLoad, limit: CpuLimit) -> dict[str, Any]:
            _print_progress(
                f"{load.streams} streams: measuring {load.seconds:g} s of the service, decode {load.decode}"
            )
            run = measure_service(load, folder / "film", Path(tempfile.mkdtemp(dir=folder)))
            return build_report(load, run, limit)

        if compare:
            limit = find_limit(load)
            rounds = [replace(load, decode=decode, seconds=load.seconds / 2) for decode in ORDER]
            return compare_reports([measure(each, limit) for each in rounds])
        if not capacity:
            return measure(load, find_limit(load))

        reports: dict[int, dict[str, Any]] = {}
        probes: list[dict[str, Any]] = []

        def is_sustained(streams: int) -> bool:
            wanted = replace(load, streams=streams)
            try:
                report = reports[streams] = measure(wanted, find_limit(wanted))
            except BenchError as error:
                if streams == 1:
                    raise
                report = {"streams": streams, "held": False, "error": str(error)}  # with this many it does not start
            _print_progress(f"{streams} streams: {'sustained' if report['held'] else 'not sustained'}")
            probes.append({key: report[key] for key in PROBE_KEYS if key in report})
            return bool(report["held"])

        found = find_capacity(is_sustained, first=load.streams, maximum=MAX_STREAMS)
        return {**reports[found or 1], "capacity": found, "probes": probes}


def _print_progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)

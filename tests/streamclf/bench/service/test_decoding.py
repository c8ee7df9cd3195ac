"""`streamclf bench --decode both`: the rounds alternate, and the figures of both decodings are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.bundle import Bundle
from streamclf.bench.cameras.film import FilmSpec
from streamclf.bench.service import bench
from streamclf.bench.service.decoding import FIGURES, ORDER, compare_reports, format_comparison
from streamclf.bench.service.run import ServiceLoad
from streamclf.config.engine import EngineConfig


def report(decode: str, cpu_s: float, *, p99: float | None = 20.0, held: bool = True) -> dict[str, Any]:
    return {
        "model": "m@1", "engine": "e", "backend": "b", "precision": "p", "streams": 2, "size": "64x64", "fps": 25.0,
        "hop": 1, "limit": {}, "machine": {}, "decode": decode, "held": held, "seconds": 1.0, "missed": 1, "dropped": 2,
        "cpu_s_per_s": cpu_s, "cpu_ms_per_prediction": 100 * cpu_s, "limit_cpu_s_per_s": 0.1, "efficiency": None,
        "stages_cpu_s_per_s": {"decode": cpu_s / 2}, "items_per_s": {"decode": 50.0},
        "latency_ms": {"p50": 10.0, "p99": p99}, "pss_mb": 300.0,
    }  # fmt: skip


def test_each_figure_is_the_mean_of_the_rounds_of_its_decoding() -> None:
    reports = [report("exact", 0.5), report("fast", 0.2), report("fast", 0.4, p99=None), report("exact", 0.7)]
    result = compare_reports(reports)
    assert result["rounds"] == reports
    assert (result["decode"], result["held"], result["model"]) == ("both", True, "m@1")
    assert (result["exact"]["cpu_s_per_s"], result["fast"]["cpu_s_per_s"]) == (0.6, 0.3)
    assert result["exact"]["decode_ms_per_picture"] == 6.0
    assert result["fast_over_exact"]["cpu_s_per_s"] == 0.5
    assert result["fast"]["latency_p99_ms"] is None
    assert result["fast_over_exact"].keys() == FIGURES.keys() - {"latency_p99_ms", "efficiency"}
    lines = format_comparison(result)
    assert any(line.split() == ["cpu_s_per_s", "0.6", "0.3", "0.5"] for line in lines)
    assert lines[-1].endswith("4, 8: sustained")
    overloaded = compare_reports([*reports[:3], report("exact", 1.0, held=False)])
    assert not overloaded["held"]
    assert format_comparison(overloaded)[-1].endswith("NOT SUSTAINED")


def test_the_rounds_alternate_with_one_film_and_one_limit(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, runs = [], []

    def measure(load: ServiceLoad, film: Path, _: Path) -> ServiceLoad:
        runs.append((load.decode, load.seconds, film.read_bytes()))
        return load

    monkeypatch.setattr(bench, "measure_cpu_limit", lambda *_, **__: limits.append(object()) or limits[-1])
    monkeypatch.setattr(bench, "measure_service", measure)
    monkeypatch.setattr(bench, "build_report", lambda load, run, limit: report(load.decode, 0.5))
    film = FilmSpec(width=64, height=64, fps=5)
    load = ServiceLoad(bundle=bundle, engine=EngineConfig(), streams=1, film=film, hop=1, seconds=10)
    result = bench.bench_service(load, compare=True)
    assert [decode for decode, *_ in runs] == [each["decode"] for each in result["rounds"]] == list(ORDER)
    assert {(seconds, data) for _, seconds, data in runs} == {(5, runs[0][2])}
    assert len(limits) == 1

"""What a measured run says, as one JSON object and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any, Final

from engines.backends.cores import usable_cores
from streamclf.bench.service.cpu_limit import CpuLimit
from streamclf.bench.service.latency import latencies_ms, percentile
from streamclf.bench.service.run import ServiceLoad, ServiceRun
from streamclf.runtime.profiling import STAGES
from streamclf.windows.sampling import exact_fps

NOISY: Final = 0.2
"""Where the limit's own rounds differ by more than this, the machine was busy."""
HELD_P99_MS: Final = 500.0
"""A service whose predictions come later than this falls behind, even if it has not dropped anything yet."""
PERCENTILES: Final = (50, 90, 99)


def figures(load: ServiceLoad, run: ServiceRun, limit: CpuLimit) -> dict[str, Any]:
    """All figures of one run; times and counts are of its measured seconds."""
    wanted = wanted_per_s(load)
    rates = [
        sum(run.began_ns <= each.at_ns < run.ended_ns for each in run.heard.get(f"cam{i}", ())) / run.seconds
        for i in range(load.streams)
    ]
    predictions_per_s = sum(rates)
    missed = max(0, round((wanted * load.streams - predictions_per_s) * run.seconds))
    items = {stage: run.stages.get(stage, (0, 0))[1] / run.seconds for stage in STAGES}
    processes = _processes(run)
    cpu_s_per_s = sum(each["cpu_s_per_s"] for each in processes)
    limit_cpu_s_per_s = limit.cpu_s_per_s(
        pictures_per_s=items["decode"], chunks_per_s=items["encode"], windows_per_s=items["head"]
    )
    latencies = _latencies(load, run)
    p99 = percentile(latencies, 99)
    dropped = sum(run.drops.values())
    held = not dropped and missed <= load.streams and p99 is not None and p99 <= HELD_P99_MS
    backend, _, precision = run.engine.partition(",")[0].split()[:3]
    return {
        "model": load.bundle.spec.id,
        "engine": run.engine,
        "backend": backend,
        "precision": precision,
        "streams": load.streams,
        "size": f"{load.film.width}x{load.film.height}",
        "fps": load.film.fps,
        "hop": load.hop,
        "seconds": _short(run.seconds),
        "predictions_per_s": _short(predictions_per_s),
        "predictions_per_s_by_stream": {
            "wanted": _short(wanted),
            "lowest": _short(min(rates)),
            "median": _short(statistics.median(rates)),
        },
        "missed": missed,
        "dropped": dropped,
        "drops": dict(+run.drops),
        "states": dict(+run.states),
        "held": held,
        "cpu_s_per_s": _short(cpu_s_per_s),
        "cpu_ms_per_prediction": _short(1e3 * cpu_s_per_s / predictions_per_s) if predictions_per_s else None,
        "limit_cpu_s_per_s": _short(limit_cpu_s_per_s),
        "efficiency": _short(limit_cpu_s_per_s / cpu_s_per_s) if cpu_s_per_s else None,
        "limit": {
            "decode_ms_per_picture": _short(1e3 * limit.decode_s),
            "encode_ms_per_chunk": _short(1e3 * limit.encode_s),
            "head_ms_per_window": _short(1e3 * limit.head_s),
            "spread": _short(limit.spread),
        },
        "stages_cpu_s_per_s": _stages(run, processes, cpu_s_per_s),
        "items_per_s": {stage: _short(items[stage]) for stage in ("decode", "encode", "head")},
        "latency_ms": {
            **{f"p{percent}": _optional(percentile(latencies, percent)) for percent in PERCENTILES},
            "max": _optional(max(latencies, default=None)),
            "matched": len(latencies),
        },
        "rss_mb": _short(sum(each["rss_mb"] for each in processes)),
        "processes": processes,
        "bench": {
            "cameras_cpu_s_per_s": _short(run.cameras_cpu_s / run.seconds),
            "subscriber_cpu_s_per_s": _short(run.own_cpu_s / run.seconds),
            "cameras_late_ms_p99": _optional(_late_ms(run)),
        },
        "machine": machine(),
    }


def wanted_per_s(load: ServiceLoad) -> float:
    """Predictions of one stream in a second, by the model's own rate."""
    spec = load.bundle.spec
    return spec.fps / (spec.frames_per_chunk * load.hop)


def machine() -> dict[str, Any]:
    """Where it was measured, and what else was going on there."""
    return {
        "cores": usable_cores(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_1_min": _short(os.getloadavg()[0]),
    }


def _processes(run: ServiceRun) -> list[dict[str, Any]]:
    return [
        {
            "name": usage.name,
            "pid": usage.pid,
            "cpu_s_per_s": _short(usage.cpu_s_per_s),
            "rss_mb": _short(usage.rss_mb[-1]),
            "slope_mb_per_h": _optional(usage.slope_mb_per_h),
        }
        for usage in run.meter.usages
    ]


def _stages(run: ServiceRun, processes: list[dict[str, Any]], total: float) -> dict[str, float]:
    """The hub does nothing but publish; `other` is what no stage accounts for."""
    spent = {stage: run.stages.get(stage, (0, 0))[0] / 1e9 / run.seconds for stage in STAGES}
    spent["publish"] += sum(each["cpu_s_per_s"] for each in processes if each["name"] == "hub")
    spent["other"] = max(0.0, total - sum(spent.values()))
    return {stage: _short(value) for stage, value in spent.items()}


def _latencies(load: ServiceLoad, run: ServiceRun) -> list[float]:
    rates = {"model_rate": exact_fps(load.bundle.spec.fps), "rate": load.film.rate}
    found: list[float] = []
    for stream, connections in run.played.items():
        if connections:
            own = latencies_ms(
                run.heard.get(stream, []),
                connections[0]["sent_ns"],
                lost_first=stream in run.lost_first,
                since_ns=run.began_ns,
                until_ns=run.ended_ns,
                **rates,
            )
            # A negative latency: the source counts media time from another frame than the camera's first.
            found += own if min(own, default=0) >= 0 else []
    return found


def _late_ms(run: ServiceRun) -> float | None:
    late = [
        late_ns / 1e6
        for connections in run.played.values()
        for connection in connections
        for sent_ns, late_ns in zip(connection["sent_ns"], connection["late_ns"], strict=True)
        if run.began_ns <= sent_ns < run.ended_ns
    ]
    return percentile(late, 99)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _optional(value: float | None) -> float | None:
    return None if value is None else _short(value)


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    rates, latency, own = found["predictions_per_s_by_stream"], found["latency_ms"], found["bench"]
    spent, least = f"{found['cpu_s_per_s']:g} s/s", f"{found['limit_cpu_s_per_s']:g} s/s"
    drops = ", ".join(f"{cause} {count}" for cause, count in found["drops"].items())
    text = [
        f"{found['model']} on {found['engine']}",
        f"{found['streams']} streams of {found['size']}, {found['fps']:g} pictures/s each, for {found['seconds']:g} s",
        "",
        f"predictions/s     {found['predictions_per_s']:g}; of one stream {rates['median']:g}, the lowest "
        f"{rates['lowest']:g}, wanted {rates['wanted']:g}",
        f"missed, dropped   {found['missed']}, {found['dropped']}{f' ({drops})' if drops else ''}: "
        f"{'held' if found['held'] else 'NOT HELD'}",
        "latency           "
        + ", ".join(f"{key} {_shown(latency[key])}" for key in ("p50", "p90", "p99", "max"))
        + " ms from picture sent to event received",
        f"processor time    {spent}, {_shown(found['cpu_ms_per_prediction'])} ms a prediction; limit {least}; "
        f"efficiency {_shown(found['efficiency'])}",
        "",
        "stage             s/s",
    ]
    text += [f"  {stage:15} {value:.4f}" for stage, value in found["stages_cpu_s_per_s"].items()]
    text += ["", "process           s/s      RSS MB   MB/h"]
    text += [
        f"  {each['name']:15} {each['cpu_s_per_s']:<8.4f} {each['rss_mb']:<8.1f} {_shown(each['slope_mb_per_h'])}"
        for each in found["processes"]
    ]
    text += [
        "",
        f"the bench's own   cameras {own['cameras_cpu_s_per_s']:g} s/s "
        f"(p99 {_shown(own['cameras_late_ms_p99'])} ms late), subscriber {own['subscriber_cpu_s_per_s']:g} s/s",
    ]
    if found["limit"]["spread"] > NOISY:
        text.append(
            f"doubtful          the limit's own rounds differ by {found['limit']['spread']:.0%}: this machine is busy "
            f"(load {found['machine']['load_1_min']:g})"
        )
    if found["states"]:
        text.append(f"not live          {', '.join(f'{key} {count}' for key, count in found['states'].items())}")
    return text


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"

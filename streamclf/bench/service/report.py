"""Turn a measured run of a service into figures: an object for JSON, and a table."""

from __future__ import annotations

import statistics
from typing import Any, Final

from streamclf.bench.machine import describe_machine
from streamclf.bench.service.cpu_limit import CpuLimit
from streamclf.bench.service.latency import latencies_ms
from streamclf.bench.service.run import ServiceLoad, ServiceRun
from streamclf.bench.timing import percentile
from streamclf.runtime.profiling import STAGES
from streamclf.windows.time_grid import exact_fps

BUSY_SPREAD: Final = 0.2
"""If the rounds of the processor time limit differ by more than this, other programs kept the machine busy."""
SUSTAINED_P99_MS: Final = 500.0
"""A service with a later 99th percentile is falling behind, even if it has not dropped anything yet."""
PERCENTILES: Final = (50, 90, 99)


def build_report(load: ServiceLoad, run: ServiceRun, limit: CpuLimit) -> dict[str, Any]:
    """Return all figures of one run, ready for JSON; times and counts cover the measured seconds."""
    wanted = wanted_per_s(load)
    measured = [
        [each for each in run.received.get(f"cam{i}", ()) if run.began_ns <= each.received_ns < run.ended_ns]
        for i in range(load.streams)
    ]
    rates = [len(predictions) / run.seconds for predictions in measured]
    predictions_per_s = sum(rates)
    further = {name: _further(load, run, name) for name in load.further}
    pairs = [(wanted * load.streams, predictions_per_s)]
    pairs += [(each["wanted_per_s"], each["predictions_per_s"]) for each in further.values()]
    missed = sum(max(0, round((due - done) * run.seconds)) for due, done in pairs)
    items = {stage: run.stages.get(stage, (0, 0))[1] / run.seconds for stage in STAGES}
    processes = _processes(run)
    cpu_s_per_s = sum(each["cpu_s_per_s"] for each in processes)
    fast_share = sum(each.fast for stream in measured for each in stream) / max(1, sum(map(len, measured)))
    limit_cpu_s_per_s: float | None = limit.cpu_s_per_s(
        frames_per_s=items["decode"],
        chunks_per_s=items["encode"],
        windows_per_s=items["head"],
        fast_share=fast_share,
    )
    latencies = _latencies(load, run)
    p99 = percentile(latencies, 99)
    dropped = sum(run.drops.values())
    # A run may cut off one prediction of each stream and model at its end.
    sustained = not dropped and missed <= load.streams * len(pairs) and p99 is not None and p99 <= SUSTAINED_P99_MS
    backend, _, precision = run.engine.partition("; ")[0].rpartition(": ")[2].partition(",")[0].split()[:3]
    if load.further:
        limit_cpu_s_per_s = None  # it is measured for one model
    return {
        "model": load.bundle.spec.id,
        "engine": run.engine,
        "backend": backend,
        "precision": precision,
        "streams": load.streams,
        "size": f"{load.film.width}x{load.film.height}",
        "fps": load.film.fps,
        "hop": load.hop,
        "decode": load.decode,
        "fast_share": _rounded(fast_share),
        "seconds": _rounded(run.seconds),
        "predictions_per_s": _rounded(predictions_per_s),
        "predictions_per_s_by_stream": {
            "wanted": _rounded(wanted),
            "lowest": _rounded(min(rates)),
            "median": _rounded(statistics.median(rates)),
        },
        "further_models": further,
        "missed": missed,
        "dropped": dropped,
        "drops": dict(+run.drops),
        "states": dict(+run.states),
        "held": sustained,
        "cpu_s_per_s": _rounded(cpu_s_per_s),
        "cpu_ms_per_prediction": _rounded(1e3 * cpu_s_per_s / predictions_per_s) if predictions_per_s else None,
        "limit_cpu_s_per_s": _rounded_or_none(limit_cpu_s_per_s),
        "efficiency": _rounded(limit_cpu_s_per_s / cpu_s_per_s) if cpu_s_per_s and limit_cpu_s_per_s else None,
        "limit": {
            "decode_ms_per_picture": _rounded(1e3 * limit.decode_s(fast_share)),
            "exact_ms_per_picture": _rounded(1e3 * limit.exact_s),
            "fast_ms_per_picture": _rounded(1e3 * limit.fast_s),
            "encode_ms_per_chunk": _rounded(1e3 * limit.encode_s),
            "head_ms_per_window": _rounded(1e3 * limit.head_s),
            "spread": _rounded(limit.spread),
        },
        "stages_cpu_s_per_s": _stages(run, processes, cpu_s_per_s),
        "items_per_s": {stage: _rounded(items[stage]) for stage in ("decode", "encode", "head")},
        "latency_ms": {
            **{f"p{percent}": _rounded_or_none(percentile(latencies, percent)) for percent in PERCENTILES},
            "max": _rounded_or_none(max(latencies, default=None)),
            "matched": len(latencies),
        },
        "rss_mb": _rounded(sum(each["rss_mb"] for each in processes)),
        "pss_mb": _rounded(sum(each["pss_mb"] for each in processes)),
        "processes": processes,
        "bench": {
            "cameras_cpu_s_per_s": _rounded(run.cameras_cpu_s / run.seconds),
            "subscriber_cpu_s_per_s": _rounded(run.own_cpu_s / run.seconds),
            "cameras_late_ms_p99": _rounded_or_none(_cameras_late_ms(run)),
        },
        "machine": describe_machine(),
    }


def _further(load: ServiceLoad, run: ServiceRun, name: str) -> dict[str, Any]:
    """Return the rates of a further model, of all streams together."""
    spec = load.further[name].spec
    count = sum(run.began_ns <= received_ns < run.ended_ns for received_ns in run.received_further[name])
    return {
        "model": spec.id,
        "wanted_per_s": _rounded(load.streams * spec.fps / (spec.frames_per_chunk * load.hop)),
        "predictions_per_s": _rounded(count / run.seconds),
    }


def wanted_per_s(load: ServiceLoad) -> float:
    """Return the predictions per second of one stream at the model's own rate."""
    spec = load.bundle.spec
    return spec.fps / (spec.frames_per_chunk * load.hop)


def _processes(run: ServiceRun) -> list[dict[str, Any]]:
    return [
        {
            "name": usage.name,
            "pid": usage.pid,
            "cpu_s_per_s": _rounded(usage.cpu_s_per_s),
            "rss_mb": _rounded(usage.memory[-1].rss_mb),
            "pss_mb": _rounded(usage.memory[-1].pss_mb),
            "slope_mb_per_h": _rounded_or_none(usage.slope_mb_per_h),
            "memory": [
                [_rounded(each.at_s - run.began_ns / 1e9), _rounded(each.rss_mb), _rounded(each.pss_mb)]
                for each in usage.memory
            ],
        }
        for usage in run.usage.usages
    ]


def _stages(run: ServiceRun, processes: list[dict[str, Any]], total: float) -> dict[str, float]:
    """Return seconds of processor time per second by stage; `other` is the time outside all stages.

    The hub only publishes, so all its time counts as `publish`.
    """
    spent = {stage: run.stages.get(stage, (0, 0))[0] / 1e9 / run.seconds for stage in STAGES}
    spent["publish"] += sum(each["cpu_s_per_s"] for each in processes if each["name"] == "hub")
    spent["other"] = max(0.0, total - sum(spent.values()))
    return {stage: _rounded(value) for stage, value in spent.items()}


def _latencies(load: ServiceLoad, run: ServiceRun) -> list[float]:
    rates = {"model_rate": exact_fps(load.bundle.spec.fps), "rate": load.film.rate}
    latencies: list[float] = []
    for stream, connections in run.sent.items():
        if connections:
            of_stream = latencies_ms(
                run.received.get(stream, []),
                connections[0]["sent_ns"],
                lost_first=stream in run.lost_first,
                since_ns=run.began_ns,
                until_ns=run.ended_ns,
                **rates,
            )
            # A negative latency: the source counts media time from another frame than the camera's first.
            latencies += of_stream if min(of_stream, default=0) >= 0 else []
    return latencies


def _cameras_late_ms(run: ServiceRun) -> float | None:
    """Return the 99th percentile of how much later than due the cameras sent their frames."""
    late = [
        late_ns / 1e6
        for connections in run.sent.values()
        for connection in connections
        for sent_ns, late_ns in zip(connection["sent_ns"], connection["late_ns"], strict=True)
        if run.began_ns <= sent_ns < run.ended_ns
    ]
    return percentile(late, 99)


def _rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def format_result(result: dict[str, Any]) -> list[str]:
    """Format a report as lines of text; s/s is seconds of processor time per second."""
    rates, latency, bench = result["predictions_per_s_by_stream"], result["latency_ms"], result["bench"]
    spent, least = f"{result['cpu_s_per_s']:g} s/s", f"{_number(result['limit_cpu_s_per_s'])} s/s"
    drops = ", ".join(f"{cause} {count}" for cause, count in result["drops"].items())
    lines = [
        f"{result['model']} on {result['engine']}",
        f"{result['streams']} streams of {result['size']} at {result['fps']:g} frames/s, for {result['seconds']:g} s; "
        f"decode {result['decode']}: {result['fast_share']:.0%} of the predictions decoded fast",
        "",
        f"predictions/s     {result['predictions_per_s']:g}; per stream: median {rates['median']:g}, lowest "
        f"{rates['lowest']:g}, wanted {rates['wanted']:g}",
        *(
            f"  {name:15} {each['predictions_per_s']:g} of {each['model']}, wanted {each['wanted_per_s']:g}"
            for name, each in result["further_models"].items()
        ),
        f"missed, dropped   {result['missed']}, {result['dropped']}{f' ({drops})' if drops else ''}: "
        f"{'sustained' if result['held'] else 'NOT SUSTAINED'}",
        "latency           "
        + ", ".join(f"{key} {_number(latency[key])}" for key in ("p50", "p90", "p99", "max"))
        + " ms from frame sent to event received",
        f"processor time    {spent}, {_number(result['cpu_ms_per_prediction'])} ms per prediction; at least {least} "
        f"are needed; efficiency {_number(result['efficiency'])}",
        "",
        "stage             s/s",
    ]
    lines += [f"  {stage:15} {value:.4f}" for stage, value in result["stages_cpu_s_per_s"].items()]
    lines += ["", "process           s/s      RSS MB   PSS MB   MB/h"]
    lines += [
        f"  {each['name']:15} {each['cpu_s_per_s']:<8.4f} {each['rss_mb']:<8.1f} {each['pss_mb']:<8.1f} "
        f"{_number(each['slope_mb_per_h'])}"
        for each in result["processes"]
    ]
    lines += [f"  {'sum':15} {result['cpu_s_per_s']:<8.4f} {result['rss_mb']:<8.1f} {result['pss_mb']:<8.1f}"]
    lines += [
        "",
        f"bench itself      cameras {bench['cameras_cpu_s_per_s']:g} s/s "
        f"(p99 {_number(bench['cameras_late_ms_p99'])} ms late), subscriber {bench['subscriber_cpu_s_per_s']:g} s/s",
    ]
    if result["limit"]["spread"] > BUSY_SPREAD:
        lines.append(
            f"doubtful          rounds of the limit differ by {result['limit']['spread']:.0%}; this machine is busy "
            f"(load {result['machine']['load_1_min']:g})"
        )
    if result["states"]:
        lines.append(f"not live          {', '.join(f'{key} {count}' for key, count in result['states'].items())}")
    if "capacity" in result:
        lines.append(f"capacity          {result['capacity']} streams")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"

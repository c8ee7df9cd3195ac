"""Compare the reports of a service that decodes exactly with those of one that decodes fast."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

from streamclf.sources.decoding import Decoding

ORDER: Final[tuple[Decoding, ...]] = ("exact", "fast", "fast", "exact")
"""The decoding of each round. A machine that becomes slower or faster meanwhile affects both alike."""
SHARED_KEYS: Final = ("model", "engine", "backend", "precision", "streams", "size", "fps", "hop", "limit", "machine")
"""The keys that all reports share."""
FIGURES: Final[dict[str, Callable[[dict[str, Any]], float | None]]] = {
    "cpu_s_per_s": lambda report: report["cpu_s_per_s"],
    "cpu_ms_per_prediction": lambda report: report["cpu_ms_per_prediction"],
    "decode_ms_per_picture": lambda report: (
        1e3 * report["stages_cpu_s_per_s"]["decode"] / report["items_per_s"]["decode"]
        if report["items_per_s"]["decode"]
        else None
    ),
    "limit_cpu_s_per_s": lambda report: report["limit_cpu_s_per_s"],
    "efficiency": lambda report: report["efficiency"],
    "latency_p50_ms": lambda report: report["latency_ms"]["p50"],
    "latency_p99_ms": lambda report: report["latency_ms"]["p99"],
    "pss_mb": lambda report: report["pss_mb"],
}
"""The figures to compare, each computed from a report of `build_report`."""


def compare_reports(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each figure for both decodings, their ratio, and all reports, in the order of `ORDER`.

    A figure is None if a report lacks it; `fast_over_exact` then lacks it, too.
    """
    means: dict[str, dict[str, float | None]] = {
        decode: {
            key: _mean([find(report) for report in reports if report["decode"] == decode])
            for key, find in FIGURES.items()
        }
        for decode in dict.fromkeys(ORDER)
    }
    pairs = {key: (means["fast"][key], means["exact"][key]) for key in FIGURES}
    return {
        **{key: reports[0][key] for key in SHARED_KEYS},
        "decode": "both",
        "held": all(report["held"] for report in reports),
        **means,
        "fast_over_exact": {
            key: _rounded(fast / exact) for key, (fast, exact) in pairs.items() if fast is not None and exact
        },
        "rounds": list(reports),
    }


def format_comparison(result: dict[str, Any]) -> list[str]:
    """Format the result of `compare_reports` as lines of text; s/s is seconds of processor time per second."""
    rounds = result["rounds"]
    lines = [
        f"{result['model']} on {result['engine']}",
        f"{result['streams']} streams of {result['size']} at {result['fps']:g} frames/s; rounds of "
        f"{rounds[0]['seconds']:g} s: {', '.join(each['decode'] for each in rounds)}",
        "",
        f"{'':24} {'exact':<10} {'fast':<10} fast/exact",
    ]
    for key in FIGURES:
        values = [result["exact"][key], result["fast"][key], result["fast_over_exact"].get(key)]
        shown = ["-" if value is None else f"{value:.4g}" for value in values]
        lines.append(f"{key:24} {shown[0]:<10} {shown[1]:<10} {shown[2]}")
    missed, dropped = (sum(each[key] for each in rounds) for key in ("missed", "dropped"))
    lines += ["", f"missed, dropped          {missed}, {dropped}: {'sustained' if result['held'] else 'NOT SUSTAINED'}"]
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(statistics.mean(known)) if known and len(known) == len(values) else None


def _rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")

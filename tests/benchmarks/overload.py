"""Measure eight streams on an engine that is too slow for them: `PYTHONPATH=.:tests python -m benchmarks.overload`.

Rings, feeds and classifier are real; the engine is simulated and only advances a clock. The mode `fixed` has only the
limits in chunks: no longer hops, no streams in turn, and no stream that catches up.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from support.slow_engine import Rig

from streamclf.classifier.feed import Feed
from streamclf.classifier.overload import LoadShedder

STREAMS: Final = 8
SETTLE_S: Final = 30.0
SECONDS: Final = 300.0
LOADS: Final[dict[str, dict[str, Any]]] = {
    "encodes, 2 times what fits": {"chunks": 16, "encode_s": 0.05, "head_s": 0.001},
    "encodes, 1.1 times": {"chunks": 16, "encode_s": 0.0275, "head_s": 0.0005},
    "heads, 2 times": {"chunks": 20, "encode_s": 0.002, "head_s": 0.05},
}
MODES: Final[dict[str, dict[str, Any]]] = {
    "fixed": {},
    "no key": {},
    "`max_staleness_ms: 250`": {"max_staleness_ms": 250},
    "`adaptive: true`": {"adaptive": True},
}


def measure(load: dict[str, Any], change: dict[str, Any]) -> str:
    """Return one row: predictions/s of all streams, of the slowest and fastest stream, and their age, p50 and p99."""
    with Rig(streams=STREAMS, **load, settings=lambda _: change) as rig:
        rig.run(SETTLE_S)
        events = rig.run(SECONDS)
        found = Counter(stream for _, stream, _ in events)
        counts = [found[camera.name] / SECONDS for camera in rig.cameras]
        ages = sorted(body["age_s"] * 1e3 for _, _, body in events) or [float("nan")]
        return (
            f"{sum(counts):.1f} | {min(counts):.2f} to {max(counts):.2f} | "
            f"{ages[len(ages) // 2]:.0f} / {ages[int(0.99 * len(ages))]:.0f}"
        )


def main() -> None:
    """Print a table."""
    print("overload by | | predictions/s | of one stream | age p50 / p99, ms")
    update, is_late = LoadShedder.update, Feed.is_late
    for name, load in LOADS.items():
        for mode, change in MODES.items():
            is_fixed = mode == "fixed"
            LoadShedder.update = (lambda *_: None) if is_fixed else update  # type: ignore[method-assign]
            Feed.is_late = False if is_fixed else is_late  # type: ignore[assignment, method-assign]
            print(f"{name} | {mode} | {measure(load, change)}", flush=True)


if __name__ == "__main__":
    main()

"""Measure six architectures on a GPU: `PYTHONPATH=tests python tests/gpu/bench.py --keep kept.jsonl` prints JSON.

For each architecture it makes a bundle with random weights, measures the engine in FP16, INT8 and FP32, and measures
torch on the same GPU. Every part runs in its own process, and its result is written to the file at once. After an
interruption, the same command continues. `--only 'vivit-encoder/*'` selects parts, `--within 560` begins no part after
that time, and `--trt-python PATH` runs the engine's parts under a Python that has TensorRT but no torch.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders with the names of the packages

from support.gpu_models import MODELS

from streamclf.bench.gpu.part import measure_in_process, run_in_process
from streamclf.bench.gpu.part_log import PartLog
from streamclf.bench.gpu.suite import CEILINGS, DEFAULTS, PART_S, build_report

FIRST_PRECISIONS, LATER_PRECISIONS = ("fp16",), ("int8", "fp32")
GOAL = {"model": "vivit-encoder", "precision": "fp16", "per_s": 6250.0, "p99_ms": 50.0, "times_compile": 12.0}
"""The goal on one H200: predictions/s of live streams, their p99 latency, and the factor over torch.compile on whole
windows."""
IMPORTS = "import sys; from pathlib import Path; from support.gpu_models import gpu_bundle; "


def parts() -> list[str]:
    """List all parts, the most important first: FP16 of each model and of torch, then the other precisions."""
    first = [[f"{name}/bundle", *(f"{name}/{p}" for p in FIRST_PRECISIONS), f"{name}/torch-fp16"] for name in MODELS]
    later = [[*(f"{name}/{p}" for p in LATER_PRECISIONS), f"{name}/torch-fp32"] for name in MODELS]
    return [CEILINGS, "torch-ceilings", *(part for group in (*first, *later) for part in group)]


def measure(
    part: str, limit_s: float, *, bundles: Path, trt_python: str, streams: int, seconds: float
) -> dict[str, Any]:
    """Measure one part in its own process. Raises `BenchError`."""
    name, _, what = part.partition("/")
    request = replace(DEFAULTS, streams=streams, seconds=seconds)
    if part == CEILINGS:
        return measure_in_process(request, limit_s, python=trt_python)
    if part == "torch-ceilings":
        return run_in_process([sys.executable, "-m", "support.gpu_torch", "ceilings"], limit_s)
    if what == "bundle":
        code = f"{IMPORTS}gpu_bundle(Path(sys.argv[1]), sys.argv[2]); print('{{}}')"
        return run_in_process([sys.executable, "-c", code, str(bundles), name], limit_s)
    if what.startswith("torch-"):
        return run_in_process([sys.executable, "-m", "support.gpu_torch", name, what.removeprefix("torch-")], limit_s)
    part_request = replace(request, bundle=str(bundles / name), precision=what)  # type: ignore[arg-type]
    return measure_in_process(part_request, limit_s, python=trt_python)


def compare_with_torch(results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Make a row for each model and precision: the engine's best predictions/s, torch's figures, and the factor."""
    rows = []
    for part, result in results.items():
        name, _, precision = part.partition("/")
        if precision not in (*FIRST_PRECISIONS, *LATER_PRECISIONS) or "error" in result:
            continue
        best = max(row["predictions_per_s"] for row in result["batches"])
        torch = results.get(f"{name}/torch-{'fp32' if precision == 'fp32' else 'fp16'}", {})
        row: dict[str, Any] = {"model": name, "precision": precision, "predictions_per_s": best}
        for torch_row in torch.get("rows", []):
            key = f"torch_{torch_row['work']}_{torch_row['mode']}_per_s"
            row[key] = max(row.get(key, 0.0), torch_row.get("per_s", 0.0))
        whole = row.get("torch_whole_compile_per_s", 0.0)
        row["times_whole_compile"] = best / whole if whole else None
        live = result["live"][0]
        row["live"] = {key: live[key] for key in ("streams", "held", "predictions_per_s")} | live["latency_ms"]
        rows.append(row)
    return rows


def check_goal(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Compare the row of the goal's model with the goal; return None if it was not measured."""
    for row in rows:
        if (row["model"], row["precision"]) == (GOAL["model"], GOAL["precision"]):
            live, times = row["live"], row["times_whole_compile"]
            met = {
                # The last predictions are not finished when the measurement ends, so 1 % may be missing.
                "per_s": live["held"] and live["predictions_per_s"] >= 0.99 * GOAL["per_s"],
                "p99_ms": live["p99"] < GOAL["p99_ms"],
                "times_compile": None if times is None else times >= GOAL["times_compile"],
            }
            return {"aim": GOAL, "live": live, "times_compile": times, "met": met}
    return None


def main() -> int:
    """Measure the parts that are not in the file yet, and print all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, help="file for the results of the parts, JSON lines")
    parser.add_argument("--bundles", type=Path, default=Path("runs/gpu-bundles"), help="folder for the bundles")
    parser.add_argument("--only", default="*", help="only parts whose names match, such as 'vivit-encoder/*'")
    parser.add_argument(
        "--again", action="store_true", help="also measure parts that failed, or that were killed twice"
    )
    parser.add_argument("--within", type=float, help="seconds after which no part begins")
    parser.add_argument("--trt-python", default=sys.executable, help="Python for the engine's parts")
    parser.add_argument("--streams", type=int, default=DEFAULTS.streams)
    parser.add_argument("--seconds", type=float, default=DEFAULTS.seconds)
    arguments = parser.parse_args()
    log = PartLog(arguments.keep)
    left = log.measure(
        [part for part in parts() if fnmatch.fnmatch(part, arguments.only)],
        lambda part, limit_s: measure(
            part,
            limit_s,
            bundles=arguments.bundles.resolve(),
            trt_python=arguments.trt_python,
            streams=arguments.streams,
            seconds=arguments.seconds,
        ),
        part_s=PART_S,
        within_s=arguments.within,
        retry_failed=arguments.again,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    engines = {part: found for part, found in log.results.items() if "torch" not in part and "/bundle" not in part}
    rows = compare_with_torch(log.results)
    print(json.dumps({**build_report(engines), "compared": rows, "aim": check_goal(rows), "left": left}, indent=1))
    failed = {part: found["error"] for part, found in log.results.items() if "error" in found}
    for part, error in failed.items():
        print(f"{part}: {error}", file=sys.stderr)
    return 1 if left or failed else 0


if __name__ == "__main__":
    sys.exit(main())

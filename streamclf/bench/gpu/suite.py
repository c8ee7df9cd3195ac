"""Run `streamclf bench --suite gpu`: check and measure bundles on this machine's GPU, through TensorRT alone.

`tests/gpu/bench.py` compares with PyTorch, which a serving machine does not have.
"""

from __future__ import annotations

import fnmatch
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from engines.backends.choice import missing_libraries
from engines.backends.gpu import find_gpus
from engines.backends.names import Precision
from engines.bundle import SPEC_FILE, Bundle, load_bundle
from streamclf.bench.gpu.part import PartRequest, measure_in_process
from streamclf.bench.gpu.part_log import PartLog
from streamclf.builtin_models import BUNDLES, builtin_models, find_bundle
from streamclf.errors import BenchError

BUNDLES_VARIABLE: Final = "STREAMCLF_GPU_BUNDLES"
PRECISIONS: Final[tuple[Precision, ...]] = ("fp16", "fp32", "int8", "bf16")
"""In the order of importance for serving, because a run can be killed."""
CEILINGS: Final = "ceilings"
"""The part that measures the card itself."""
PART_S: Final = 540.0
"""Longest time of one part."""
DEFAULTS: Final = PartRequest()

MeasureRequest = Callable[[PartRequest, float], dict[str, Any]]
"""(request, seconds that it may take) -> its figures; raises `BenchError`."""


def bench_gpu(
    target: str | None,
    *,
    precision: Precision | None = None,
    only: str | None = None,
    keep: Path | None = None,
    request: PartRequest = DEFAULTS,
    measure: MeasureRequest = measure_in_process,
) -> dict[str, Any]:
    """Measure `target`, or all built-in bundles and those in the folder `$STREAMCLF_GPU_BUNDLES`; ready for JSON.

    `precision`: only this one instead of all. `only`: a pattern for the names of the parts, which are
    "BUNDLE/PRECISION" and "ceilings". `keep`: the file that logs each part; a part with a result there is not measured
    again. Raises `BenchError` with the name of the missing library, GPU or
    folder. A part that fails has an error in the result.
    """
    gpus = find_gpus()
    missing = ["an NVIDIA GPU and its driver"] * (not gpus) + missing_libraries("tensorrt")
    if missing:
        raise BenchError(
            f"--suite gpu: this machine lacks {', '.join(missing)}; run it on a machine with a GPU, after "
            "pip install '.[tensorrt-cu12]' in a clone of this repository"
        )
    requests = plan_parts(_find_bundles(target), (precision,) if precision else PRECISIONS, request)
    if only is not None:
        requests = {part: wanted for part, wanted in requests.items() if fnmatch.fnmatch(part, only)}
        if not requests:
            raise BenchError(f"--only {only}: matches no part; parts are named BUNDLE/PRECISION and {CEILINGS}")
    log = PartLog(keep)
    left = log.measure(
        list(requests),
        lambda part, limit_s: measure(requests[part], limit_s),
        part_s=PART_S,
        progress=lambda text: print(f"bench: {text}", file=sys.stderr, flush=True),
    )
    return {"gpu": asdict(gpus[0]), **build_report(log.results), "left": left}


def plan_parts(
    bundles: list[Bundle], precisions: tuple[Precision, ...], request: PartRequest
) -> dict[str, PartRequest]:
    """Return a request for each part, in the order of measurement: the card, then all bundles by precision."""
    parts = {CEILINGS: request}
    for wanted in precisions:
        for bundle in bundles:
            name = f"{bundle.spec.name}/{wanted}"
            if name in parts:
                raise BenchError(f"{bundle.path}: another bundle has the same name, {bundle.spec.name}; leave one out")
            parts[name] = replace(request, bundle=str(bundle.path), precision=wanted)
    return parts


def build_report(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Group the results by model, and add to each rate its share of the card's own limit."""
    ceilings = results.get(CEILINGS, {})
    models: dict[str, list[dict[str, Any]]] = {}
    for part, result in results.items():
        model, _, precision = part.partition("/")
        if precision:
            models.setdefault(model, []).append({"precision": precision, **add_shares(result, precision, ceilings)})
    return {
        "ceilings": ceilings,
        "models": [{"model": model, "results": of_model} for model, of_model in models.items()],
    }


def add_shares(result: dict[str, Any], precision: str, ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """Add to each row of a part the speed of encode and head as a share of the card's own limit; 1 is the limit.

    The least time is the larger of operations / (rate of matrix products) and bytes / (rate of copies). No schedule is
    faster. No real schedule reaches it, because values between two products are read and written, too.
    """
    work = result.get("work")
    products = ceilings.get(f"products_{'fp16' if precision == 'bf16' else precision}_gflops")
    copies = ceilings.get("copy_gb_per_s")
    if not (work and products and copies):
        return result

    def share(rate: float, batch: int, flop: int, nbytes: int, weights: int) -> float:
        least_s: float = max(batch * flop / products, (weights + batch * nbytes) / copies) / 1e9
        return least_s * rate / batch

    rows = [
        {
            **row,
            "encode_of_limit": share(
                row["encodes_per_s"],
                row["batch"],
                work["encode_flop"],
                work["chunk_bytes"],
                work["encoder_weight_bytes"],
            ),
            "head_of_limit": share(
                row["windows_per_s"], row["batch"], work["head_flop"], work["window_bytes"], work["head_weight_bytes"]
            ),
            "encode_gflops": row["encodes_per_s"] * work["encode_flop"] / 1e9,
            "head_gflops": row["windows_per_s"] * work["head_flop"] / 1e9,
        }
        for row in result["batches"]
    ]
    return {**result, "batches": rows}


def _find_bundles(target: str | None) -> list[Bundle]:
    if target is not None:
        return [find_bundle(target)]
    folder = os.environ.get(BUNDLES_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise BenchError(
            f"{BUNDLES_VARIABLE}={folder}: no such directory; set it to the directory that holds bundles, or unset it"
        )
    more = sorted(Path(folder).glob(f"*/{SPEC_FILE}")) if folder else []
    return [*(load_bundle(BUNDLES / name) for name in builtin_models()), *(load_bundle(path.parent) for path in more)]


def format_result(result: dict[str, Any]) -> list[str]:
    """Format the result of `bench_gpu` as lines of text."""
    lines = [f"{result['gpu']['name']}: {_format_ceilings(result['ceilings'])}"]
    for model in result["models"]:
        lines += ["", model["model"]]
        for part in model["results"]:
            lines += _format_part(part)
    if result["left"]:
        lines += ["", f"not measured, because the time ran out: {', '.join(result['left'])}"]
    return lines


def _format_ceilings(ceilings: Mapping[str, Any]) -> str:
    if "error" in ceilings or not ceilings:
        return f"the card's own limits are not known ({ceilings.get('error', 'not measured')})"
    products = [
        f"{precision} {ceilings[key] / 1e3:.1f}"
        for precision in ("fp16", "int8", "fp32")
        if (key := f"products_{precision}_gflops") in ceilings
    ]
    return (
        f"copies {ceilings['upload_gb_per_s']:.1f} GB/s to the card, {ceilings['copy_gb_per_s']:.0f} GB/s within it; "
        f"matrix products in TFLOP/s: {', '.join(products) or 'none'}"
    )


def _format_part(part: dict[str, Any]) -> list[str]:
    if "error" in part:
        return [f"  {part['precision']}: {part['error']}"]
    golden, work = part["golden"], part["work"]
    lines = [
        f"  {part['engine']}, opened in {part['open_s']:.1f} s; golden clip: max |dp| {golden['max_dp']:.1e}, "
        f"allowed {golden['allowed']:.0e}",
    ]
    if work:
        lines.append(
            f"  GFLOP: encode {work['encode_flop'] / 1e9:.2f}, head {work['head_flop'] / 1e9:.2f}, whole window "
            f"{work['whole_window_flop'] / 1e9:.2f}"
        )
    lines.append(
        "  batch  encodes/s  of limit  windows/s  of limit  predictions/s  p50 ms    p99 ms    whole windows/s  "
        "upload GB/s"
    )
    lines += [
        f"  {row['batch']:<5}  {row['encodes_per_s']:<9.0f}  {row.get('encode_of_limit', math.nan):<8.1%}  "
        f"{row['windows_per_s']:<9.0f}  {row.get('head_of_limit', math.nan):<8.1%}  {row['predictions_per_s']:<13.0f}  "
        f"{row['latency_ms']['p50']:<8.3f}  {row['latency_ms']['p99']:<8.3f}  {row['whole_windows_per_s']:<15.1f}  "
        f"{row['upload_gb_per_s']:.2f}"
        for row in part["batches"]
    ]
    lines.append(
        f"  encode once: {part['encode_once_against_whole_window']:.1f} times the predictions/s of whole windows"
    )
    lines += [
        f"  {live['streams']} live streams, {'sustained' if live['held'] else 'not sustained'}: "
        f"{live['predictions_per_s']:.0f} of {live['chunks_per_s_wanted']:.0f} predictions/s, "
        f"p50 {live['latency_ms']['p50']} ms, p99 {live['latency_ms']['p99']} ms"
        for live in part["live"]
    ]
    return lines

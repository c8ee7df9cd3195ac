"""`streamclf bench --suite gpu`: bundles proven and measured on this machine's GPU, through TensorRT alone.

What the same models do in torch is `tests/gpu/bench.py`'s, for a machine that serves has no torch.
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

VARIABLE: Final = "STREAMCLF_GPU_BUNDLES"
PRECISIONS: Final[tuple[Precision, ...]] = ("fp16", "fp32", "int8", "bf16")
"""The one that serves first: a run may be killed."""
CEILINGS: Final = "ceilings"
PART_S: Final = 540.0
DEFAULTS: Final = PartRequest()

MeasurePart = Callable[[PartRequest, float], dict[str, Any]]


def bench_gpu(
    target: str | None,
    *,
    precision: Precision | None = None,
    only: str | None = None,
    keep: Path | None = None,
    within_s: float | None = None,
    request: PartRequest = DEFAULTS,
    measured: MeasurePart = measure_in_process,
) -> dict[str, Any]:
    """`target`, or each built-in bundle and each in the folder `$STREAMCLF_GPU_BUNDLES`; every precision, or one.

    `only`: parts whose name, "BUNDLE/PRECISION" or "ceilings", matches this pattern. `keep`: the file in which every
    part is kept as it is made; what is there already is not measured again. `within_s`: begin no part after that.
    Raises `BenchError` where something that it needs is not there, and says what; a part that fails is in the result.
    """
    gpus = find_gpus()
    lacking = ["an NVIDIA GPU and its driver"] * (not gpus) + missing_libraries("tensorrt")
    if lacking:
        raise BenchError(
            f"--suite gpu: this machine lacks {', '.join(lacking)}; run it on one with a GPU, after "
            "pip install 'streamclf[tensorrt]'"
        )
    requests = plan_parts(_bundles(target), (precision,) if precision else PRECISIONS, request)
    if only is not None:
        requests = {part: wanted for part, wanted in requests.items() if fnmatch.fnmatch(part, only)}
        if not requests:
            raise BenchError(f"--only {only}: no part is called so; they are BUNDLE/PRECISION and {CEILINGS}")
    ledger = PartLog(keep)
    left = ledger.measure(
        list(requests),
        lambda part, limit_s: measured(requests[part], limit_s),
        part_s=PART_S,
        within_s=within_s,
        told=lambda text: print(f"bench: {text}", file=sys.stderr, flush=True),
    )
    return {"gpu": asdict(gpus[0]), **report(ledger.results), "left": left}


def plan_parts(
    bundles: list[Bundle], precisions: tuple[Precision, ...], request: PartRequest
) -> dict[str, PartRequest]:
    """By part, in the order in which they are to be measured: the card, then all bundles, precision by precision."""
    parts = {CEILINGS: request}
    for wanted in precisions:
        for bundle in bundles:
            name = f"{bundle.spec.name}/{wanted}"
            if name in parts:
                raise BenchError(f"{bundle.path}: another bundle is called {bundle.spec.name}, too; leave one out")
            parts[name] = replace(request, bundle=str(bundle.path), precision=wanted)
    return parts


def report(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What was measured, by model, each rate beside what the card allows."""
    ceilings = results.get(CEILINGS, {})
    models: dict[str, list[dict[str, Any]]] = {}
    for part, result in results.items():
        model, _, precision = part.partition("/")
        if precision:
            models.setdefault(model, []).append({"precision": precision, **with_shares(result, precision, ceilings)})
    return {
        "ceilings": ceilings,
        "models": [{"model": model, "results": found} for model, found in models.items()],
    }


def with_shares(result: dict[str, Any], precision: str, ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """The part's figures, and in each row how near encode and head are to the card's own limit (1: as fast as it can).

    The limit is the larger of operations over the rate of matrix products and bytes over the rate of copies: no
    schedule is faster, and no real one is as fast, for what lies between two products is read and written, too.
    """
    work = result.get("work")
    products = ceilings.get(f"products_{'fp16' if precision == 'bf16' else precision}_gflops")
    copies = ceilings.get("copy_gb_per_s")
    if not (work and products and copies):
        return result

    def share(rate: float, batch: int, flop: int, nbytes: int, weights: int) -> float:
        limit_s: float = max(batch * flop / products, (weights + batch * nbytes) / copies) / 1e9
        return limit_s * rate / batch

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


def _bundles(target: str | None) -> list[Bundle]:
    if target is not None:
        return [find_bundle(target)]
    folder = os.environ.get(VARIABLE)
    if folder and not Path(folder).is_dir():
        raise BenchError(f"{VARIABLE}={folder}: no such directory; give the one that holds bundles, or unset it")
    more = sorted(Path(folder).glob(f"*/{SPEC_FILE}")) if folder else []
    return [*(load_bundle(BUNDLES / name) for name in builtin_models()), *(load_bundle(path.parent) for path in more)]


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    text = [f"{found['gpu']['name']}: {_ceilings_line(found['ceilings'])}"]
    for model in found["models"]:
        text += ["", model["model"]]
        for result in model["results"]:
            text += _result_lines(result)
    if found["left"]:
        text += ["", f"not measured, for want of time: {', '.join(found['left'])}"]
    return text


def _ceilings_line(ceilings: Mapping[str, Any]) -> str:
    if "error" in ceilings or not ceilings:
        return f"its own limits are not known ({ceilings.get('error', 'not measured')})"
    products = [
        f"{precision} {ceilings[key] / 1e3:.1f}"
        for precision in ("fp16", "int8", "fp32")
        if (key := f"products_{precision}_gflops") in ceilings
    ]
    return (
        f"copies {ceilings['upload_gb_per_s']:.1f} GB/s to it, {ceilings['copy_gb_per_s']:.0f} GB/s within it; "
        f"matrix products in TFLOP/s: {', '.join(products) or 'none'}"
    )


def _result_lines(result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [f"  {result['precision']}: {result['error']}"]
    golden, work = result["golden"], result["work"]
    text = [
        f"  {result['engine']}, opened in {result['open_s']:.1f} s; golden clip: max |dp| {golden['max_dp']:.1e}, "
        f"allowed {golden['allowed']:.0e}",
    ]
    if work:
        text.append(
            f"  GFLOP: encode {work['encode_flop'] / 1e9:.2f}, head {work['head_flop'] / 1e9:.2f}, whole window "
            f"{work['whole_window_flop'] / 1e9:.2f}"
        )
    text.append(
        "  batch  encodes/s  of limit  windows/s  of limit  predictions/s  p50 ms    p99 ms    whole windows/s  "
        "upload GB/s"
    )
    text += [
        f"  {row['batch']:<5}  {row['encodes_per_s']:<9.0f}  {row.get('encode_of_limit', math.nan):<8.1%}  "
        f"{row['windows_per_s']:<9.0f}  {row.get('head_of_limit', math.nan):<8.1%}  {row['predictions_per_s']:<13.0f}  "
        f"{row['latency_ms']['p50']:<8.3f}  {row['latency_ms']['p99']:<8.3f}  {row['whole_windows_per_s']:<15.1f}  "
        f"{row['upload_gb_per_s']:.2f}"
        for row in result["batches"]
    ]
    text.append(f"  encode once against whole windows: {result['encode_once_against_whole_window']:.1f} times")
    text += [
        f"  {live['streams']} live streams, {'held' if live['held'] else 'not held'}: {live['predictions_per_s']:.0f} "
        f"of {live['chunks_per_s_wanted']:.0f} predictions/s, p50 {live['latency_ms']['p50']} ms, "
        f"p99 {live['latency_ms']['p99']} ms"
        for live in result["live"]
    ]
    return text

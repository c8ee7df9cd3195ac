"""Measure a bundle alone: encode and classify, by backend, precision and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

from engines.backends.choice import missing_libraries
from engines.backends.names import SERVER_BACKEND, Backend, Precision
from engines.bundle import Bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.bench.machine import describe_machine
from streamclf.bench.timing import CallCost, batch_sizes, engine_calls, time_calls
from streamclf.errors import BenchError

MANY_STREAMS_BATCH: Final = 4
"""From this batch size on, open the engine as for a service of many streams: backends then choose other options."""
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "fp16", "int8")


def bench_bundle(
    bundle: Bundle, *, backend: Backend | None, precision: Precision | None, max_batch: int, seconds: float
) -> dict[str, Any]:
    """Measure every backend and precision that this machine can run, or only the given ones.

    Each round takes `seconds`. The result is ready for JSON; `refused` lists what could not run, with the reason.
    Raises `BenchError` if nothing can run the bundle, and the engine's own error if both are given.
    """
    backends = (
        [backend]
        if backend
        else [name for name in get_args(Backend) if name not in ("auto", SERVER_BACKEND) and _is_installed(name)]
    )
    results: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for each in backends:
        for wanted in [precision] if precision else PRECISIONS:
            try:
                results += _measure(bundle, each, wanted, max_batch, seconds)
            except EngineError as error:  # noqa: PERF203 - each one may fail
                if backend and precision:
                    raise
                refused.append({"backend": each, "precision": wanted, "reason": str(error)})
    if not results:
        reasons = "; ".join(each["reason"] for each in refused) or "no inference library is installed"
        raise BenchError(f"{bundle.spec.id}: no backend on this machine can run it: {reasons}")
    return {"model": bundle.spec.id, "results": results, "refused": refused, "machine": describe_machine()}


def _is_installed(backend: str) -> bool:
    return not missing_libraries(backend)


def _measure(
    bundle: Bundle, backend: Backend, precision: Precision, max_batch: int, seconds: float
) -> list[dict[str, Any]]:
    """Open the engine once for small batches and once for large ones; return a row for each batch size."""
    sizes = batch_sizes(max_batch)
    small = [size for size in sizes if size < MANY_STREAMS_BATCH]
    large = [size for size in sizes if size >= MANY_STREAMS_BATCH]
    rows: list[dict[str, Any]] = []
    for streams, part in ((1, small), (max_batch, large)):
        if part:
            engine = open_engine(bundle, backend=backend, precision=precision, max_batch=max(part), streams=streams)
            try:
                rows += _rows(engine, [size for size in part if size <= engine.max_batch], seconds)
            finally:
                engine.close()
    return rows


def _rows(engine: Engine, sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    rows = []
    for batch in sizes:
        encode, classify = engine_calls(engine, batch)
        rows.append(
            {
                "backend": engine.description.split()[0],
                "precision": engine.precision,
                "engine": engine.description,
                "batch": batch,
                "encode": _figures(time_calls(encode, finish=classify, seconds=seconds), batch),
                "classify": _figures(time_calls(classify, seconds=seconds), batch),
            }
        )
    return rows


def _figures(cost: CallCost, batch: int) -> dict[str, float]:
    return {
        "ms": round(1e3 * cost.wall_s, 4),
        "items_per_s": round(batch / cost.wall_s, 1),
        "cpu_ms_per_item": round(1e3 * cost.cpu_s / batch, 4),
        "spread": round(cost.wall_spread, 3),
    }


def format_result(result: dict[str, Any]) -> list[str]:
    """Format the result of `bench_bundle` as lines of a table."""
    lines = [
        f"{result['model']}, {result['machine']['cores']} cores, load {result['machine']['load_1_min']:g}",
        "",
        f"{'':30}{'encode':<37}classify",
        "backend      precision batch  ms       chunks/s   CPU ms   spread  ms       windows/s  CPU ms   spread",
    ]
    lines += [
        f"{row['backend']:12} {row['precision']:9} {row['batch']:<5}  {_columns(row['encode'])}  "
        f"{_columns(row['classify'])}"
        for row in result["results"]
    ]
    lines += [f"cannot run: {each['backend']} {each['precision']}: {each['reason']}" for each in result["refused"]]
    return lines


def _columns(part: dict[str, float]) -> str:
    return f"{part['ms']:<7g}  {part['items_per_s']:<9g}  {part['cpu_ms_per_item']:<7g}  {part['spread']:<6.0%}"

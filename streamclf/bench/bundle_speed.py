"""A bundle alone: encode and classify, by backend, precision and batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

from engines.backends.choice import missing_libraries
from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.bench.service.report import machine
from streamclf.bench.timing import CallCost, batch_sizes, engine_calls, measure
from streamclf.errors import BenchError

MANY: Final = 4
"""Batches from here on are what a service of many streams makes, which engines are opened for in another way."""
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "fp16", "int8")


def bench_bundle(
    bundle: Bundle, *, backend: Backend | None, precision: Precision | None, max_batch: int, seconds: float
) -> dict[str, Any]:
    """Every backend and precision that can run here, or the one asked for. Raises `BenchError` where none can."""
    backends = [backend] if backend else [name for name in get_args(Backend) if name != "auto" and _is_here(name)]
    results: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for each in backends:
        for wanted in [precision] if precision else PRECISIONS:
            try:
                results += _bench(bundle, each, wanted, max_batch, seconds)
            except EngineError as error:  # noqa: PERF203 - each one may fail
                if backend and precision:
                    raise
                refused.append({"backend": each, "precision": wanted, "reason": str(error)})
    if not results:
        reasons = "; ".join(each["reason"] for each in refused) or "no inference library is installed"
        raise BenchError(f"{bundle.spec.id}: nothing here can run it: {reasons}")
    return {"model": bundle.spec.id, "results": results, "refused": refused, "machine": machine()}


def _is_here(backend: str) -> bool:
    return not missing_libraries(backend)


def _bench(
    bundle: Bundle, backend: Backend, precision: Precision, max_batch: int, seconds: float
) -> list[dict[str, Any]]:
    sizes = batch_sizes(max_batch)
    rows: list[dict[str, Any]] = []
    for streams, part in ((1, [n for n in sizes if n < MANY]), (max_batch, [n for n in sizes if n >= MANY])):
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
                "encode": _figures(measure(encode, finish=classify, seconds=seconds), batch),
                "classify": _figures(measure(classify, seconds=seconds), batch),
            }
        )
    return rows


def _figures(cost: CallCost, batch: int) -> dict[str, float]:
    """Of one call, the medians of some rounds; `spread` is (slowest - fastest) / median of them."""
    return {
        "ms": round(1e3 * cost.wall_s, 4),
        "items_per_s": round(batch / cost.wall_s, 1),
        "cpu_ms_per_item": round(1e3 * cost.cpu_s / batch, 4),
        "spread": round(cost.wall_spread, 3),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    text = [
        f"{found['model']}, {found['machine']['cores']} cores, load {found['machine']['load_1_min']:g}",
        "",
        f"{'':30}{'encode':<37}classify",
        "backend      precision batch  ms       chunks/s   CPU ms   spread  ms       windows/s  CPU ms   spread",
    ]
    text += [
        f"{row['backend']:12} {row['precision']:9} {row['batch']:<5}  {_columns(row['encode'])}  "
        f"{_columns(row['classify'])}"
        for row in found["results"]
    ]
    text += [f"not here: {each['backend']} {each['precision']}: {each['reason']}" for each in found["refused"]]
    return text


def _columns(part: dict[str, float]) -> str:
    return f"{part['ms']:<7g}  {part['items_per_s']:<9g}  {part['cpu_ms_per_item']:<7g}  {part['spread']:<6.0%}"

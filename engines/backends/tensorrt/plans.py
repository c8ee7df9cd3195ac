"""Load the plan of one of a bundle's graphs: from the cache if this machine has built it before, else build it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engines.backends.tensorrt.interface import Plan, PlanRequest, Platform
from engines.backends.tensorrt.memory import prepared_batches
from engines.bundle import ModelSpec
from engines.cache import CacheKey, open_cache
from engines.errors import NotBuiltError

if TYPE_CHECKING:
    from engines.graphs.profiles import PreparedGraph

REPORT_INTERVAL_S: Final = 10.0

log = logging.getLogger("engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    """Describe how to compile one graph."""

    name: str
    path: Path
    spec: ModelSpec
    precision: str
    max_batch: int
    keep_fp32: tuple[str, ...] = ()


def load_plan(platform: Platform, plan_spec: PlanSpec, *, may_build: bool = True) -> Plan:
    """Load the plan from the cache, or build it if `may_build`.

    Raises `CompileError`, `BackendMissingError`, `AllocationError`, `NotBuiltError`.
    """
    from engines.graphs.profiles import prepare_for_tensorrt

    compiler = platform.compiler
    graph = prepare_for_tensorrt(
        plan_spec.path.read_bytes(),
        name=plan_spec.path.name,
        traits=compiler.traits,
        precision=plan_spec.precision,
        keep_fp32=plan_spec.keep_fp32,
    )

    def build() -> bytes:
        return _build(platform, plan_spec, graph)

    def restore(blob: memoryview) -> Plan:
        return compiler.load(bytes(blob))

    cache = open_cache(plan_key(platform, plan_spec, graph), subject=("graph", "precision"))
    name = f"{plan_spec.name}.plan"
    if may_build:
        return cache.get_or_build(name, restore=restore, build=build)
    plan = cache.get(name, restore)
    if plan is None:
        raise NotBuiltError(
            f"{plan_spec.spec.id}: no {plan_spec.precision} plan of its {plan_spec.name} for this GPU yet"
        )
    return plan


def plan_key(platform: Platform, plan_spec: PlanSpec, graph: PreparedGraph) -> CacheKey:
    """Return the cache key of a plan: everything that the compiled plan depends on.

    The graph is hashed as prepared, so a change in the preparation builds the plan again.
    """
    kept_fp32 = hashlib.sha256("\n".join(graph.keep_fp32).encode()).hexdigest()[:12] if graph.keep_fp32 else "none"
    return {
        "graph": hashlib.sha256(graph.onnx).hexdigest(),
        "precision": plan_spec.precision,
        "tensorrt": platform.compiler.version,
        **_device_key(platform),
        "max_batch": plan_spec.max_batch,
        "shapes": f"{plan_spec.spec.chunk_shape} {plan_spec.spec.chunks} {plan_spec.spec.feature_shape}",
        "kept_fp32": kept_fp32,
    }


def _build(platform: Platform, plan_spec: PlanSpec, graph: PreparedGraph) -> bytes:
    compiler = platform.compiler
    timing_cache = open_cache({"tensorrt": compiler.version, **_device_key(platform)}, subject=("gpu",))
    subject = f"{plan_spec.spec.id} {plan_spec.name} for {platform.cuda.gpu.name} in {plan_spec.precision}"
    with _BuildProgress(subject) as progress:
        plan, timings = compiler.build(
            PlanRequest(
                name=plan_spec.path.name,
                onnx=graph.onnx,
                precision=plan_spec.precision,
                strongly_typed=graph.strongly_typed,
                keep_fp32=graph.keep_fp32,
                max_batch=plan_spec.max_batch,
                executions=len(prepared_batches(plan_spec.max_batch)),
                workspace_bytes=platform.cuda.free_bytes() // 2,
                timing_cache=timing_cache.load("timing") or b"",
                progress=progress.set_phase,
            )
        )
    timing_cache.store("timing", timings)
    return plan


def _device_key(platform: Platform) -> dict[str, str | int]:
    gpu = platform.cuda.gpu
    return {"driver": gpu.driver, "gpu": gpu.name, "compute_capability": gpu.compute_capability}


class _BuildProgress(contextlib.AbstractContextManager["_BuildProgress"]):
    """Log every few seconds how long a build has taken, and its phase if TensorRT reports it."""

    def __init__(self, subject: str) -> None:
        self._subject, self._phase = subject, ""
        self._began = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report, name="build-progress", daemon=True)

    def set_phase(self, name: str) -> None:
        """Note the phase that the build is in; TensorRT calls this."""
        self._phase = f", {name}"

    def __enter__(self) -> _BuildProgress:
        log.info("compiling %s; this may take minutes, but only once", self._subject)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join(5)
        if kind is None:
            log.info("compiled %s in %.1f s", self._subject, time.monotonic() - self._began)

    def _report(self) -> None:
        while not self._done.wait(REPORT_INTERVAL_S):
            log.info("compiling %s: %.0f s%s", self._subject, time.monotonic() - self._began, self._phase)

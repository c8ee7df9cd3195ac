"""Run bundles with TensorRT and PyCUDA, the default on an NVIDIA GPU; needs neither torch nor the CUDA toolkit."""

from __future__ import annotations

import logging
from typing import Final

from engines.backends.signature import TensorView, check_signature
from engines.backends.tensorrt.engine import TensorRtEngine
from engines.backends.tensorrt.interface import AllocationError, Plan, Platform
from engines.backends.tensorrt.memory import MIB, MemoryLayout
from engines.backends.tensorrt.plans import PlanSpec, load_plan
from engines.backends.tensorrt.requirements import load_platform
from engines.bundle import GRAPH_NAMES, Bundle
from engines.errors import BackendMissingError, DeviceMemoryError
from engines.graphs.fp32_layers import load_fp32_layers
from engines.protocol import EngineOptions

SLOW_TO_BUILD: Final = True

log = logging.getLogger("engine")


def open_adapter(bundle: Bundle, options: EngineOptions) -> TensorRtEngine:
    """Load or build both plans; halve `options.max_batch` until the engine fits into the GPU's memory.

    Raises `BackendMissingError`, `CompileError`, `DeviceMemoryError`, `NotBuiltError`.
    """
    platform = load_platform(options.device)
    try:
        with platform.cuda.active():
            return _open(platform, bundle, options)
    except BaseException:
        platform.cuda.close()
        raise


def _open(platform: Platform, bundle: Bundle, options: EngineOptions) -> TensorRtEngine:
    supported = platform.compiler.traits.precisions
    precision: str = options.precision
    if precision == "auto":
        precision = "fp16" if "fp16" in supported else "fp32"
    if precision not in supported:
        raise BackendMissingError(
            f"precision={precision}: TensorRT {platform.compiler.version} computes in {', '.join(supported)}; "
            "choose one of them, or auto"
        )
    batch = options.max_batch
    while True:
        plans: dict[str, Plan] = {}
        try:
            for name, path in zip(GRAPH_NAMES, bundle.graphs(precision), strict=True):
                lowered = name != options.fp32_graph
                plan_spec = PlanSpec(
                    name=name,
                    path=path,
                    spec=bundle.spec,
                    precision=precision if lowered else "fp32",
                    max_batch=batch,
                    keep_fp32=load_fp32_layers(bundle, precision)[name] if lowered else (),
                )
                plans[name] = load_plan(platform, plan_spec, may_build=options.may_build)
                _check_tensors(plans[name], plan_spec)
            layout = _layout(bundle, options, batch, plans)
            precision_text = options.describe_precision(precision)
            return TensorRtEngine(
                platform, plans, layout, precision, precision_text=precision_text, device=options.device
            )
        except AllocationError as error:
            failed = "" if error.nbytes is None else f", {error.nbytes / MIB:,.1f} MiB in the allocation that failed"
            figures = (
                f"{platform.cuda.gpu.name}: {_layout(bundle, options, batch, plans).describe()}{failed}; "
                f"{platform.cuda.free_bytes() / MIB:,.1f} of {platform.cuda.gpu.memory_bytes / MIB:,.0f} MiB are free"
            )
            if batch == 1:
                raise DeviceMemoryError(
                    f"{figures}: give each GPU fewer streams, stop other programs that use it, or use backend openvino"
                ) from error
            batch //= 2
            log.warning("%s; trying batch %d", figures, batch)


def _layout(bundle: Bundle, options: EngineOptions, batch: int, plans: dict[str, Plan]) -> MemoryLayout:
    return MemoryLayout(
        spec=bundle.spec,
        max_batch=batch,
        bank_slots=options.bank_slots,
        scratch_bytes=max((plan.scratch_bytes for plan in plans.values()), default=0),
    )


def _check_tensors(plan: Plan, plan_spec: PlanSpec) -> None:
    """Raise `BundleError` if the plan's inputs and outputs differ from the bundle's spec."""
    found = {name: TensorView(shape=tensor.shape, dtype=tensor.dtype.name) for name, tensor in plan.tensors.items()}
    check_signature(plan_spec.spec, plan_spec.name, plan_spec.path, found)

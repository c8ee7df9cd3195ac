"""The `Engine` protocol and the only place that chooses a backend."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from typing import get_args

from engines.backends.choice import choose_backend, missing_libraries
from engines.backends.names import INSTALL, Backend, Precision
from engines.bundle import Bundle
from engines.errors import BackendMissingError, DeviceMemoryError, ParityError
from engines.parity import check_parity
from engines.protocol import FP32_TRIAL_ORDER, Engine, EngineOptions

log = logging.getLogger("engine")


def open_engine(
    bundle: Bundle,
    *,
    backend: Backend = "auto",
    precision: Precision = "auto",
    max_batch: int = 16,
    bank_slots: int | None = None,
    threads: int = 0,
    streams: int = 1,
    may_build: bool = True,
) -> Engine:
    """Load `bundle` on the best backend that this machine has, or on the one asked for, and check its numbers.

    `bank_slots` defaults to one window. `threads`: at most, 0 for all cores; a small graph takes one. The engine's
    `max_batch` may be smaller than the one asked for, where the device's memory holds no more. With `backend="auto"` a
    backend that cannot run here is left for the next best; with `precision="auto"` a reduced precision that fails the
    golden clip is left for fp32 in one of the two graphs, or both; each with a notice. Without `may_build` what is not
    in the cache and would take minutes is not compiled. Raises `BackendMissingError`, `BundleError`,
    `DeviceMemoryError`, `ParityError`, `NotBuiltError`.
    """
    options = EngineOptions(
        precision=precision,
        max_batch=max_batch,
        bank_slots=max(bank_slots or 0, bundle.spec.chunks, max_batch),
        threads=threads,
        streams=streams,
        may_build=may_build,
    )
    if backend != "auto":
        return _open_with_fallback(bundle, backend, options)
    choice = choose_backend()
    log.info("auto: %s (%s)", choice.order[0] if choice.order else "no backend", choice.reason)
    for first, after in zip(choice.order, choice.order[1:], strict=False):
        try:
            return _open_with_fallback(bundle, first, options)
        except (BackendMissingError, DeviceMemoryError) as error:  # noqa: PERF203 - each one may fail
            log.warning("%s: %s; trying %s", first, error, after)
    if not choice.order:
        raise BackendMissingError(f"backend auto: no inference library is installed; pip install {INSTALL['openvino']}")
    return _open_with_fallback(bundle, choice.order[-1], options)


def _open_with_fallback(bundle: Bundle, backend: str, options: EngineOptions) -> Engine:
    """With `auto`: lowered as a whole, else all but one graph, else not at all."""
    try:
        return _open_verified(bundle, backend, options)
    except ParityError as error:
        if options.precision != "auto" or error.precision == "fp32":
            raise
        log.warning("%s; trying it with one of its two graphs in fp32", error)
    for part in FP32_TRIAL_ORDER:
        try:
            return _open_verified(bundle, backend, replace(options, fp32_graph=part))
        except ParityError as error:  # noqa: PERF203 - each one may fail
            log.info("%s", error)
    log.warning("%s: continuing in fp32", bundle.spec.id)
    return _open_verified(bundle, backend, replace(options, precision="fp32"))


def _open_verified(bundle: Bundle, backend: str, options: EngineOptions) -> Engine:
    engine = open_unverified(bundle, backend, options)
    try:
        report = check_parity(engine, bundle.golden())
    except BaseException:
        engine.close()
        raise
    log.info("%s on %s; golden clip: max |dp| %.1e", bundle.spec.id, engine.description, report.max_dp)
    return engine


def open_unverified(bundle: Bundle, backend: str, options: EngineOptions) -> Engine:
    """An engine that has not passed the golden clip: for one who asks how far off it is, never for serving."""
    if backend not in get_args(Backend):
        raise BackendMissingError(f"backend={backend!r}: one of {', '.join(get_args(Backend))}")
    if missing := missing_libraries(backend):
        raise BackendMissingError(
            f"backend {backend}: {' and '.join(missing)} not installed; pip install '{INSTALL[backend]}'"
        )
    engine: Engine = importlib.import_module(f"engines.backends.{backend}").open_adapter(bundle, options)
    return engine

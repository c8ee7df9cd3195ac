"""Open a bundle on an inference backend; this is the only module that chooses one."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from typing import cast, get_args

from engines.backends.choice import choose_backend, missing_libraries
from engines.backends.names import GPU_BACKEND, INSTALL, Backend, Precision
from engines.bundle import Bundle
from engines.errors import BackendMissingError, DeviceMemoryError, ParityError
from engines.freed_memory import return_freed_memory
from engines.parity import check_parity
from engines.protocol import FP32_TRIAL_ORDER, BackendModule, EngineOptions, SharingEngine

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
    device: int | None = None,
    url: str | None = None,
    may_build: bool = True,
) -> SharingEngine:
    """Load `bundle` on the best backend of this machine, or on the given one, and check its numbers.

    `bank_slots` defaults to one window. `threads` is an upper limit, 0 for all cores; a small graph uses one core. The
    engine's `max_batch` is smaller than the given one if the device's memory holds no more.

    `device` is the number of a GPU, as `nvidia-smi` shows it: the engine runs there on TensorRT, or is not opened.
    `url` is the address of the server for the backend `triton`.

    With `backend="auto"`, a backend that cannot run here is replaced by the next best. With `precision="auto"`, an
    engine whose reduced precision fails the golden clip is opened again with one graph, or both, in fp32. The log
    reports each of these steps. Without `may_build`, an engine that is not in the cache and takes minutes to compile
    is not opened.

    Raises `BackendMissingError`, `BundleError`, `DeviceMemoryError`, `ParityError`, `NotBuiltError`.
    """
    options = EngineOptions(
        precision=precision,
        max_batch=max_batch,
        bank_slots=max(bank_slots or 0, bundle.spec.chunks, max_batch),
        threads=threads,
        streams=streams,
        may_build=may_build,
        device=device,
        url=url,
    )
    if device is not None:
        if backend not in ("auto", GPU_BACKEND):
            raise BackendMissingError(f"device={device}: only {GPU_BACKEND} has numbered GPUs, not {backend}")
        backend = GPU_BACKEND
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


def open_beside(
    bundle: Bundle,
    owner: SharingEngine,
    *,
    backend: Backend,
    precision: Precision,
    may_lift_head: bool,
    threads: int = 0,
    streams: int = 1,
    device: int | None = None,
    url: str | None = None,
    may_build: bool = True,
) -> SharingEngine:
    """Open a bundle that has the encoder of `owner`, and check its numbers; `share_bank` may then join the two.

    `backend` and `precision` are those of `owner`, which another thread may use meanwhile. Where the backend can, the
    encoder is not loaded again. With `may_lift_head`, a head that fails the golden clip is tried in fp32.

    Raises what `open_engine` raises.
    """
    options = EngineOptions(
        precision=precision,
        max_batch=owner.max_batch,
        bank_slots=max(bundle.spec.chunks, owner.max_batch),
        threads=threads,
        streams=streams,
        may_build=may_build,
        device=device,
        url=url,
        beside=owner,
    )
    try:
        return _open_verified(bundle, backend, options)
    except ParityError as error:
        if not may_lift_head or precision == "fp32":
            raise
        log.warning("%s; trying it with its head in fp32", error)
        return _open_verified(bundle, backend, replace(options, fp32_graph="head"))


def load_backend(backend: str) -> BackendModule:
    """Import the backend's module, and with it the backend's library. Raises `ImportError` if that is not installed."""
    return cast("BackendModule", importlib.import_module(f"engines.backends.{backend}"))


def open_unverified(bundle: Bundle, backend: str, options: EngineOptions) -> SharingEngine:
    """Open an engine without the check against the golden clip: for measuring its error, never for serving."""
    if backend not in get_args(Backend):
        raise BackendMissingError(f"backend={backend!r}: one of {', '.join(get_args(Backend))}")
    if missing := missing_libraries(backend):
        raise BackendMissingError(
            f"backend {backend}: {' and '.join(missing)} not installed; pip install {INSTALL[backend]}"
        )
    return load_backend(backend).open_adapter(bundle, options)


def _open_with_fallback(bundle: Bundle, backend: str, options: EngineOptions) -> SharingEngine:
    """Open the engine; if precision `auto` fails the golden clip, keep one graph in fp32, then both."""
    try:
        return _open_verified(bundle, backend, options)
    except ParityError as error:
        if options.precision != "auto" or error.precision == "fp32":
            raise
        log.warning("%s; trying it with one of its two graphs in fp32", error)
    for graph in FP32_TRIAL_ORDER:
        try:
            return _open_verified(bundle, backend, replace(options, fp32_graph=graph))
        except ParityError as error:  # noqa: PERF203 - each one may fail
            log.info("%s", error)
    log.warning("%s: continuing in fp32", bundle.spec.id)
    return _open_verified(bundle, backend, replace(options, precision="fp32"))


def _open_verified(bundle: Bundle, backend: str, options: EngineOptions) -> SharingEngine:
    engine = open_unverified(bundle, backend, options)
    try:
        report = check_parity(engine, bundle.golden())
    except BaseException:
        engine.close()
        raise
    return_freed_memory()
    log.info("%s on %s; golden clip: max |dp| %.1e", bundle.spec.id, engine.description, report.max_dp)
    return engine

"""The `Engine` protocol and the only place that chooses a backend."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, replace
from typing import Final, Protocol, get_args

import numpy as np
import numpy.typing as npt

from engines.backends import INSTALL, Backend, Precision
from engines.bundle import Bundle, ModelSpec
from engines.choice import choose_backend, missing_libraries
from engines.errors import BackendMissingError, DeviceMemoryError, ParityError
from engines.parity import check_parity

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]

FP32_PARTS: Final = ("head", "encoder")
"""What is tried first to stay in fp32: most of the work is the encoder's."""

log = logging.getLogger("engine")


class Engine(Protocol):
    """A loaded, verified model with a bank of features on its own device.

    One thread at a time may call it; a second one at the same moment gets `EngineInputError`.
    """

    spec: ModelSpec
    max_batch: int
    bank_slots: int
    description: str
    """Backend, device and precision in words, as logs and `doctor` show them."""
    precision: str

    def encode(self, frames: U8, slots: I32) -> None:
        """(N, t, H, W, 3) uint8 RGB; writes the N features into bank slots `slots` (N,). N <= max_batch."""

    def classify(self, windows: I32) -> F32:
        """(N, T) bank slots, oldest first -> probabilities (N, K). The array is the caller's. N <= max_batch."""

    def read_features(self, slots: I32) -> F32:
        """(N,) bank slots -> (N, *F) features. The array is the caller's. N <= max_batch."""

    def write_features(self, features: F32, slots: I32) -> None:
        """(N, *F) of another engine of the same bundle, into bank slots `slots` (N,). N <= max_batch."""

    def close(self) -> None:
        """Free the device; any later call raises `EngineInputError`. May be called twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an adapter is told; `bank_slots` is at least `max_batch` and one window."""

    precision: Precision
    max_batch: int
    bank_slots: int
    threads: int
    streams: int = 1
    """How many streams it will serve: one wants each answer soon, many want the most answers."""
    fp32_part: str | None = None
    """The graph, `encoder` or `head`, that stays in fp32 whatever `precision` says."""
    may_build: bool = True
    """False: what would take minutes to compile is not; `NotBuiltError` instead."""

    def computes(self, precision: str) -> str:
        """`precision`, and which graph is excepted, as an engine's description says it."""
        return precision if self.fp32_part is None else f"{precision} ({self.fp32_part} fp32)"


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
        bank_slots=max(bank_slots or 0, bundle.spec.tokens, max_batch),
        threads=threads,
        streams=streams,
        may_build=may_build,
    )
    if backend != "auto":
        return _open_precise(bundle, backend, options)
    choice = choose_backend()
    log.info("auto: %s (%s)", choice.order[0] if choice.order else "no backend", choice.reason)
    for first, after in zip(choice.order, choice.order[1:], strict=False):
        try:
            return _open_precise(bundle, first, options)
        except (BackendMissingError, DeviceMemoryError) as error:  # noqa: PERF203 - each one may fail
            log.warning("%s: %s; trying %s", first, error, after)
    if not choice.order:
        raise BackendMissingError(f"backend auto: no inference library is installed; pip install {INSTALL['openvino']}")
    return _open_precise(bundle, choice.order[-1], options)


def _open_precise(bundle: Bundle, backend: str, options: EngineOptions) -> Engine:
    """With `auto`: lowered as a whole, else all but one graph, else not at all."""
    try:
        return _open_checked(bundle, backend, options)
    except ParityError as error:
        if options.precision != "auto" or error.precision == "fp32":
            raise
        log.warning("%s; trying it with one of its two graphs in fp32", error)
    for part in FP32_PARTS:
        try:
            return _open_checked(bundle, backend, replace(options, fp32_part=part))
        except ParityError as error:  # noqa: PERF203 - each one may fail
            log.info("%s", error)
    log.warning("%s: continuing in fp32", bundle.spec.id)
    return _open_checked(bundle, backend, replace(options, precision="fp32"))


def _open_checked(bundle: Bundle, backend: str, options: EngineOptions) -> Engine:
    engine = open_unproven(bundle, backend, options)
    try:
        report = check_parity(engine, bundle.golden())
    except BaseException:
        engine.close()
        raise
    log.info("%s on %s; golden clip: max |dp| %.1e", bundle.spec.id, engine.description, report.max_dp)
    return engine


def open_unproven(bundle: Bundle, backend: str, options: EngineOptions) -> Engine:
    """An engine that has not passed the golden clip: for one who asks how far off it is, never for serving."""
    if backend not in get_args(Backend):
        raise BackendMissingError(f"backend={backend!r}: one of {', '.join(get_args(Backend))}")
    if missing := missing_libraries(backend):
        raise BackendMissingError(
            f"backend {backend}: {' and '.join(missing)} not installed; pip install '{INSTALL[backend]}'"
        )
    engine: Engine = importlib.import_module(f"engines.{backend}").open_adapter(bundle, options)
    return engine

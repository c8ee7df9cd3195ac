"""Run bundles with ONNX Runtime, the portable backend: fp32 on any CPU and on the GPUs of the installed build."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from engines.activation import activate
from engines.arrays import F32, I32, U8
from engines.backends import cores
from engines.backends.base import CheckedEngine, HostBank
from engines.backends.signature import TensorView, check_signature
from engines.bundle import GRAPH_NAMES, Bundle, ModelSpec
from engines.errors import BackendMissingError, CompileError
from engines.protocol import EngineOptions

SLOW_TO_BUILD: Final = False
NUMPY_TYPES: Final = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
"""NumPy's name by ONNX Runtime's name, for the element types that a bundle may have."""
CPU: Final = "CPUExecutionProvider"
PROVIDERS: Final[dict[str, tuple[str, dict[str, dict[str, Any]]]]] = {
    # By provider: its usual name, and its options for each precision. The preferred provider comes first.
    "CUDAExecutionProvider": ("CUDA", {"fp32": {"use_tf32": "0"}, "int8": {}}),
    "TensorrtExecutionProvider": (
        "TensorRT",
        {"fp32": {}, "fp16": {"trt_fp16_enable": "True"}, "int8": {"trt_int8_enable": "True"}},
    ),
    "DmlExecutionProvider": ("DirectML", {"fp32": {}}),
    "CoreMLExecutionProvider": ("CoreML", {"fp32": {}}),
    CPU: (f"{platform.machine()} CPU", {"fp32": {}, "int8": {}}),
}

log = logging.getLogger("engine")


def open_adapter(bundle: Bundle, options: EngineOptions) -> OnnxRuntimeEngine:
    """Load both graphs on the best provider that works on this machine; the engine's description names it.

    Raises `CompileError` if ONNX Runtime cannot load a graph, and `BackendMissingError` if no installed provider
    computes in the precision.
    """
    precision: str = "fp32" if options.precision == "auto" else options.precision
    providers = usable_providers(ort.get_available_providers(), precision)
    if not providers:
        raise BackendMissingError(
            f"precision={precision}: no provider of this onnxruntime computes in it "
            f"(installed: {', '.join(ort.get_available_providers())}); use fp32 or auto"
        )
    for provider in providers[:-1]:
        try:
            return OnnxRuntimeEngine(bundle, options, provider, precision)
        except BackendMissingError as error:  # noqa: PERF203 - each one may fail
            log.warning("onnxruntime: %s; trying the next provider", error)
    return OnnxRuntimeEngine(bundle, options, providers[-1], precision)


def usable_providers(installed: Sequence[str], precision: str) -> list[str]:
    """List the installed providers that compute in `precision`, best first."""
    return [name for name, (_, options) in PROVIDERS.items() if name in installed and precision in options]


class OnnxRuntimeEngine(CheckedEngine):
    """Two sessions, whose worker threads sleep between calls instead of spinning."""

    def __init__(self, bundle: Bundle, options: EngineOptions, provider: str, precision: str) -> None:
        device, settings = PROVIDERS[provider]
        super().__init__(
            bundle.spec,
            max_batch=options.max_batch,
            bank_slots=options.bank_slots,
            description=f"onnxruntime {ort.__version__} {precision}, {device}",
            precision=precision,
        )
        providers = [(provider, settings[precision]), *([] if provider == CPU else [CPU])]
        sessions = {}
        if isinstance(options.beside, OnnxRuntimeEngine):
            sessions["encoder"] = options.beside._encoder  # a session may run in several threads
        for name, path in zip(GRAPH_NAMES, bundle.graphs(precision), strict=True):
            if name in sessions:
                continue
            session = _open_session(path, provider, providers, 1 if provider == CPU else options.threads)
            check_signature(bundle.spec, name, path, _describe_tensors(session))
            may_use_more = provider == CPU and (options.threads or cores.usable_cores()) > 1
            if may_use_more and _needs_more_cores(session, bundle.spec, name, options):
                session = _open_session(path, provider, providers, options.threads)
            sessions[name] = session
        self._encoder: ort.InferenceSession | None = sessions["encoder"]
        self._head: ort.InferenceSession | None = sessions["head"]
        self._bank = HostBank(bundle.spec, slots=options.bank_slots, max_batch=options.max_batch)

    def _encode(self, frames: U8, slots: I32) -> None:
        assert self._encoder is not None
        self._bank.store(self._encoder.run(None, {"frames": frames})[0], slots)

    def _submit(self, windows: I32) -> Callable[[], F32]:
        assert self._head is not None
        probabilities = activate(self.spec, self._head.run(None, {"features": self._bank.gather(windows)})[0])
        return lambda: probabilities

    def _read_features(self, slots: I32) -> F32:
        return self._bank.read(slots)

    def _write_features(self, features: F32, slots: I32) -> None:
        self._bank.store(features, slots)

    def _share_bank(self, owner: OnnxRuntimeEngine) -> None:
        self._bank, self._encoder = owner._bank, None

    def _drop_head(self) -> None:
        self._head = None

    def _close(self) -> None:
        del self._encoder, self._head, self._bank


def _open_session(path: Path, provider: str, providers: list[Any], threads: int) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors only: the exceptions below report the rest in one line
    settings.intra_op_num_threads = threads
    # A spinning worker wastes a core that capture needs: twice the CPU time per prediction.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompileError(f"{path}: ONNX Runtime cannot load it: {reason}") from error
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back to the CPU without an error
        raise BackendMissingError(f"{provider} is installed but does not start on this machine")
    return session


def _needs_more_cores(session: ort.InferenceSession, spec: ModelSpec, graph: str, options: EngineOptions) -> bool:
    """Tell whether the one core that `session` has is too slow for this graph."""
    feed = {session.get_inputs()[0].name: cores.blank_input(spec, graph)}
    item_s = cores.measure_call_s(lambda: session.run(None, feed))
    return cores.needs_more_cores(item_s, streams=options.streams, max_batch=options.max_batch)


def _describe_tensors(session: ort.InferenceSession) -> dict[str, TensorView]:
    return {
        item.name: TensorView(
            shape=[size if isinstance(size, int) else None for size in item.shape],
            dtype=NUMPY_TYPES.get(item.type, item.type),
        )
        for item in (*session.get_inputs(), *session.get_outputs())
    }

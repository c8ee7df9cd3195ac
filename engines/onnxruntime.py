"""ONNX Runtime: the portable backend, fp32 on any CPU."""

from __future__ import annotations

import platform

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from engines.base import CheckedEngine, HostBank
from engines.bundle import Bundle
from engines.engine import EngineOptions
from engines.errors import BackendMissingError, BundleError
from engines.parity import softmax

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


def open_adapter(bundle: Bundle, options: EngineOptions) -> OnnxRuntimeEngine:
    """Load both graphs. Raises `BundleError` for a graph that ONNX Runtime does not take."""
    if options.precision not in ("auto", "fp32"):
        raise BackendMissingError(
            f"precision={options.precision}: the onnxruntime backend computes in fp32; use fp32 or auto"
        )
    return OnnxRuntimeEngine(bundle, options)


class OnnxRuntimeEngine(CheckedEngine):
    """Two sessions over one thread-pool size; workers sleep between calls instead of spinning."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        super().__init__(
            bundle.spec,
            max_batch=options.max_batch,
            bank_slots=options.bank_slots,
            description=f"onnxruntime {ort.__version__} fp32, {platform.machine()} CPU",
            precision="fp32",
        )
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        # A spinning worker takes a whole core from capture for nothing (twice the CPU time per prediction).
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._encoder, self._head = (
                ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
                for path in (bundle.encoder_path, bundle.head_path)
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
            raise BundleError(f"{bundle.path}: ONNX Runtime cannot load its graphs: {reason}") from error
        self._bank = HostBank(bundle.spec, slots=options.bank_slots, max_batch=options.max_batch)

    def _encode(self, frames: U8, slots: I32) -> None:
        self._bank.store(self._encoder.run(None, {"frames": frames})[0], slots)

    def _classify(self, windows: I32) -> F32:
        return softmax(self._head.run(None, {"features": self._bank.gather(windows)})[0])

    def _close(self) -> None:
        del self._encoder, self._head, self._bank

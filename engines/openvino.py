"""OpenVINO: the default on a CPU, in bf16 where the CPU has it, else fp32."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from engines.base import CheckedEngine, HostBank
from engines.bundle import Bundle
from engines.cache import engine_directory
from engines.engine import EngineOptions
from engines.errors import BackendMissingError, BundleError
from engines.parity import softmax

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names of the precisions that its CPU plugin computes in."""


def open_adapter(bundle: Bundle, options: EngineOptions) -> OpenVinoEngine:
    """Compile both graphs. Raises `BundleError` for a graph that OpenVINO does not take."""
    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision: str = options.precision
    if precision == "auto":
        precision = "bf16" if "BF16" in capabilities else "fp32"
    if precision not in HINTS:
        raise BackendMissingError(
            f"precision={precision}: the openvino backend computes in {' or '.join(HINTS)}; choose one of them"
        )
    if precision == "bf16" and "BF16" not in capabilities:
        raise BackendMissingError("precision=bf16: this CPU has no bfloat16 arithmetic; use fp32 or auto")
    return OpenVinoEngine(core, bundle, options, precision)


class OpenVinoEngine(CheckedEngine):
    """Two compiled graphs, one request each; inputs are read where they lie, without a copy."""

    def __init__(self, core: ov.Core, bundle: Bundle, options: EngineOptions, precision: str) -> None:
        device = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        super().__init__(
            bundle.spec,
            max_batch=options.max_batch,
            bank_slots=options.bank_slots,
            description=f"openvino {ov.get_version().split('-')[0]} {precision}, {device}",
            precision=precision,
        )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        cache = engine_directory(
            {
                "encoder": bundle.spec.files["encoder.onnx"],
                "head": bundle.spec.files["head.onnx"],
                "backend": f"openvino {ov.get_version()}",
                "device": f"{platform.machine()} {device}",
                "precision": precision,
            }
        )
        if cache:
            settings["CACHE_DIR"] = str(cache)
        try:
            self._encoder = core.compile_model(bundle.encoder_path, "CPU", settings).create_infer_request()
            self._head = core.compile_model(bundle.head_path, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BundleError(f"{bundle.path}: OpenVINO cannot compile its graphs: {reason}") from error
        self._bank = HostBank(bundle.spec, slots=options.bank_slots, max_batch=options.max_batch)

    def _encode(self, frames: U8, slots: I32) -> None:
        self._bank.store(self._infer(self._encoder, frames), slots)

    def _classify(self, windows: I32) -> F32:
        return softmax(self._infer(self._head, self._bank.gather(windows)))

    def _close(self) -> None:
        del self._encoder, self._head, self._bank

    @staticmethod
    def _infer(request: ov.InferRequest, array: npt.NDArray[Any]) -> F32:
        """The result is OpenVINO's own memory, good until the next call of the same request."""
        request.set_input_tensor(ov.Tensor(array, shared_memory=True))
        request.infer()
        result: F32 = request.get_output_tensor().data
        return result

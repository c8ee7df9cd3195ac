"""Run bundles on a Triton Inference Server, over HTTP. `engines.triton_repository` writes the server's models."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from engines.activation import activate
from engines.arrays import F32, I32, U8
from engines.backends.base import CheckedEngine, HostBank
from engines.bundle import ENCODER_FILE, HEAD_FILE, Bundle
from engines.errors import BackendMissingError, CompileError, DeviceError
from engines.protocol import EngineOptions
from engines.triton_repository import DIGEST, triton_name

SLOW_TO_BUILD: Final = False
TIMEOUT_S: Final = 10.0
"""Longest time for the server to answer. A classifier that gets no answer ends, and is started again later."""
URL: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[^/@\s]+)/?")
_TYPES: Final = {"UINT8": np.uint8, "FP32": np.float32}


def open_adapter(bundle: Bundle, options: EngineOptions) -> TritonEngine:
    """Connect to the server at `options.url`, and check that it has the bundle's graphs.

    Raises `BackendMissingError` where no server answers or a model is missing, and `CompileError` for a model that was
    made from another bundle.
    """
    return TritonEngine(bundle, options)


class TritonEngine(CheckedEngine):
    """Two models of a server. The feature bank is in this process, so any number of processes share one server."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        found = URL.fullmatch(options.url or "")
        if found is None:
            raise BackendMissingError(
                "backend triton: only for a service; give the server as engine.url, like http://10.0.0.5:8000"
            )
        self._server = found["host"]
        self._client: Any = InferenceServerClient(
            self._server, ssl=found["scheme"] == "https", connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
        )
        self._encoder, self._head = (triton_name(bundle.spec, file) for file in (ENCODER_FILE, HEAD_FILE))
        limits = [
            self._largest_batch(name, bundle.spec.files[file], options.max_batch)
            for name, file in ((self._encoder, ENCODER_FILE), (self._head, HEAD_FILE))
        ]
        # The precision is the server's. `engine.precision` says which one it is, for the check with the golden clip.
        precision = "fp32" if options.precision == "auto" else options.precision
        super().__init__(
            bundle.spec,
            max_batch=min(limits),
            bank_slots=options.bank_slots,
            description=f"triton at {self._server} {precision}",
            precision=precision,
        )
        self._bank = HostBank(bundle.spec, slots=options.bank_slots, max_batch=options.max_batch)

    def _encode(self, frames: U8, slots: I32) -> None:
        self._bank.store(self._infer(self._encoder, "frames", "UINT8", frames, "features"), slots)

    def _submit(self, windows: I32) -> Callable[[], F32]:
        logits = self._infer(self._head, "features", "FP32", self._bank.gather(windows), "logits")
        probabilities = activate(self.spec, logits)
        return lambda: probabilities

    def _read_features(self, slots: I32) -> F32:
        return self._bank.read(slots)

    def _write_features(self, features: F32, slots: I32) -> None:
        self._bank.store(features, slots)

    def _share_bank(self, owner: TritonEngine) -> None:
        self._bank = owner._bank

    def _drop_head(self) -> None: ...

    def _close(self) -> None:
        self._client.close()
        del self._bank

    def _infer(self, model: str, name: str, dtype: str, values: Any, output: str) -> F32:
        given = InferInput(name, list(values.shape), dtype)
        given.set_data_from_numpy(np.ascontiguousarray(values, _TYPES[dtype]), binary_data=True)
        wanted = InferRequestedOutput(output, binary_data=True)
        result = self._ask(lambda: self._client.infer(model, [given], outputs=[wanted]).as_numpy(output), model)
        if result is None or result.dtype != np.float32 or len(result) != len(values):
            raise DeviceError(f"{self._server}: model {model} returns no {output} in float32 for each input")
        return np.asarray(result, np.float32)

    def _largest_batch(self, model: str, sha256: str, wanted: int) -> int:
        """Check that the server's model was made from the graph with `sha256`; return the largest batch for it."""
        try:
            config: dict[str, Any] = self._ask(lambda: self._client.get_model_config(model), model)
        except DeviceError as error:
            raise BackendMissingError(
                f"backend triton: {error}; write its models with `streamclf compile BUNDLE --triton DIRECTORY`, and "
                "load them"
            ) from error
        found = config.get("parameters", {}).get(DIGEST, {}).get("string_value")
        if found != sha256:
            raise CompileError(
                f"{self._server}: model {model} was made from another bundle; write it again with `streamclf compile "
                "BUNDLE --triton DIRECTORY`"
            )
        return max(1, min(wanted, int(config.get("max_batch_size", wanted))))

    def _ask(self, call: Callable[[], Any], model: str) -> Any:
        try:
            return call()
        except (InferenceServerException, OSError, ValueError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise DeviceError(f"{self._server}: model {model}: {text:.300}") from error

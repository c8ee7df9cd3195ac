"""OpenVINO: the default on a CPU, in bf16 where the CPU has it, else fp32."""

from __future__ import annotations

import io
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov

from engines.arrays import F32, I32, U8
from engines.backends import cores
from engines.backends.base import CheckedEngine, HostBank
from engines.backends.signature import TensorView, check_signature
from engines.bundle import GRAPH_NAMES, Bundle
from engines.cache import CompiledCache, StaleBlobError, open_cache
from engines.errors import BackendMissingError, CompileError
from engines.parity import softmax
from engines.protocol import EngineOptions

HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""OpenVINO's name of the precision that its CPU plugin computes in; an INT8 graph says itself what is quantised."""
CAPABILITY: Final = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
"""What the CPU must list for it. Every CPU lists FP32."""


def open_adapter(bundle: Bundle, options: EngineOptions) -> OpenVinoEngine:
    """Compile both graphs. Raises `CompileError` for a graph that OpenVINO does not take."""
    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision: str = options.precision
    if precision == "auto":
        precision = "bf16" if "BF16" in capabilities else "fp32"
    if CAPABILITY[precision] not in capabilities:
        able = ", ".join(name for name, capability in CAPABILITY.items() if capability in capabilities)
        raise BackendMissingError(
            f"precision={precision}: openvino on this CPU computes in {able}; choose one, or auto"
        )
    return OpenVinoEngine(core, bundle, options, precision)


def parallel_requests(*, streams: int, threads: int, max_batch: int) -> int:
    """Into how many parts, each on cores of its own, a batch is split. Every part has a graph of its own, whose caches
    are colder, and which prepares itself anew for each size that a batch has."""
    return 1 if streams < cores.MANY_STREAMS else max(1, min(threads, max_batch))


class OpenVinoEngine(CheckedEngine):
    """Two compiled graphs; inputs are read where they lie, without a copy."""

    def __init__(self, core: ov.Core, bundle: Bundle, options: EngineOptions, precision: str) -> None:
        device = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        opener = _Opener(core, bundle, options, precision, device)
        self._encoder, self._head = map(opener.open, GRAPH_NAMES, bundle.graphs(precision))
        requests = max(self._encoder.count, self._head.count)
        parts = "" if requests == 1 else f", batches in up to {requests} parts"
        super().__init__(
            bundle.spec,
            max_batch=options.max_batch,
            bank_slots=options.bank_slots,
            description=f"openvino {ov.get_version().split('-')[0]} {options.computes(precision)}, {device}{parts}",
            precision=precision,
        )
        self._bank = HostBank(bundle.spec, slots=options.bank_slots, max_batch=options.max_batch)

    def _encode(self, frames: U8, slots: I32) -> None:
        for begin, features in self._encoder.run(frames):
            self._bank.store(features, slots[begin : begin + len(features)])

    def _classify(self, windows: I32) -> F32:
        parts = self._head.run(self._bank.gather(windows))
        return np.concatenate([softmax(logits) for _, logits in parts])

    def _read_features(self, slots: I32) -> F32:
        return self._bank.read(slots)

    def _write_features(self, features: F32, slots: I32) -> None:
        self._bank.store(features, slots)

    def _close(self) -> None:
        del self._encoder, self._head, self._bank


@dataclass(frozen=True, slots=True)
class _Opener:
    """What the two graphs of an engine have in common."""

    core: ov.Core
    bundle: Bundle
    options: EngineOptions
    precision: str
    device: str

    def open(self, part: str, path: Path) -> _Requests:
        """One core computes it, unless it has too much to do: then all share each batch, or each item of it."""
        options, item = self.options, cores.blank_input(self.bundle.spec, part)
        graph = self._on(part, path, threads=1, requests=1)
        item_s = graph.measure(item)
        threads = options.threads or cores.usable_cores()
        if threads > 1 and cores.needs_more_cores(item_s, streams=options.streams, max_batch=options.max_batch):
            requests = parallel_requests(streams=options.streams, threads=threads, max_batch=options.max_batch)
            del graph  # the memory of two is not needed
            graph = self._on(part, path, threads=threads, requests=requests)
            graph.measure(item)
        return graph

    def _on(self, part: str, path: Path, *, threads: int, requests: int) -> _Requests:
        spec = self.bundle.spec
        computed = "fp32" if part == self.options.fp32_graph else self.precision
        cache = open_cache(
            {
                "graph": spec.files[path.name],
                "backend": f"openvino {ov.get_version()}",
                "device": f"{platform.machine()} {self.device}",
                "precision": computed,
                "requests": requests,
                "threads": threads,
            },
            subject=("graph", "precision", "requests", "threads"),
        )
        settings = {
            "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT",
            "NUM_STREAMS": requests,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[computed],
        }
        compiled = _compiled(self.core, cache, part, path, settings)
        check_signature(spec, part, path, _tensors(compiled))
        return _Requests(compiled, requests)


class _Requests:
    """One compiled graph and its requests, among which a batch is shared out where that is worth it."""

    def __init__(self, compiled: ov.CompiledModel, count: int) -> None:
        self.count = count
        self._requests = [compiled.create_infer_request() for _ in range(count)]
        self._item_s = 0.0

    def measure(self, item: npt.NDArray[Any]) -> float:
        """Seconds that a batch of one, (1, …), takes: `run` goes by it from now on."""
        self._item_s = cores.measure_call_s(lambda: self.run(item))
        return self._item_s

    def run(self, array: npt.NDArray[Any]) -> list[tuple[int, F32]]:
        """(N, …) -> for each part where it begins and its result, which is OpenVINO's, good until the next call."""
        parts = min(len(self._requests), 1 + int(len(array) * self._item_s / cores.MIN_WORK_S))
        size = -(-len(array) // parts)
        begins = range(0, len(array), size)
        busy = list(zip(begins, self._requests, strict=False))
        for begin, request in busy:
            request.set_input_tensor(ov.Tensor(array[begin : begin + size], shared_memory=True))
            request.start_async()
        for _, request in busy:
            request.wait()
        return [(begin, request.get_output_tensor().data) for begin, request in busy]


def _compiled(core: ov.Core, cache: CompiledCache, name: str, path: Path, settings: dict[str, Any]) -> ov.CompiledModel:
    def restore(blob: bytes) -> ov.CompiledModel:
        try:
            return core.import_model(blob, "CPU", settings)
        except RuntimeError as error:
            raise StaleBlobError(_reason(error)) from error

    def build() -> tuple[ov.CompiledModel, bytes]:
        try:
            compiled = core.compile_model(path, "CPU", settings)
        except RuntimeError as error:
            raise CompileError(f"{path}: OpenVINO cannot compile it: {_reason(error)}") from error
        blob = io.BytesIO()
        compiled.export_model(blob)
        return compiled, blob.getvalue()

    return cache.get(name, restore=restore, build=build)


def _tensors(compiled: ov.CompiledModel) -> dict[str, TensorView]:
    return {
        port.get_any_name(): TensorView(
            shape=[dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()],
            dtype=np.dtype(port.get_element_type().to_dtype()).name,
        )
        for port in (*compiled.inputs, *compiled.outputs)
    }


def _reason(error: RuntimeError) -> str:
    """The last line of OpenVINO's account; those before it name its own source files."""
    return str(error).strip().splitlines()[-1].strip()

"""Run bundles with OpenVINO, the default on a CPU: in bf16 if the CPU has it, else in fp32."""

from __future__ import annotations

import io
import mmap
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import passes

from engines.activation import activate
from engines.arrays import F32, I32, U8
from engines.backends import cores
from engines.backends.base import CheckedEngine, HostBank
from engines.backends.batch_size import BatchSizes, measure_batch_cost
from engines.backends.signature import TensorView, check_signature
from engines.bundle import Bundle
from engines.cache import CompiledCache, StaleBlobError, open_cache
from engines.errors import BackendMissingError, CompileError, EngineError
from engines.protocol import EngineOptions

SLOW_TO_BUILD: Final = False
HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""OpenVINO's name of the precision that the CPU plugin computes in; an INT8 graph itself marks what is quantised."""
PREPARATION: Final = 1
"""Part of the cache key; raise it when `_read_graph` changes what it gives to the compiler."""
CAPABILITY: Final = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
"""The capability that the CPU must list for each precision. Every CPU lists FP32."""


def open_adapter(bundle: Bundle, options: EngineOptions) -> OpenVinoEngine:
    """Compile both graphs, or load them from the cache.

    Raises `CompileError` if OpenVINO cannot compile a graph, and `BackendMissingError` if this CPU does not compute in
    the precision.
    """
    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision: str = options.precision
    if precision == "auto":
        precision = "bf16" if "BF16" in capabilities else "fp32"
    if CAPABILITY[precision] not in capabilities:
        supported = ", ".join(name for name, capability in CAPABILITY.items() if capability in capabilities)
        raise BackendMissingError(
            f"precision={precision}: openvino on this CPU computes in {supported}; choose one of them, or auto"
        )
    return OpenVinoEngine(core, bundle, options, precision)


def parallel_requests(*, streams: int, threads: int, max_batch: int) -> int:
    """Return the number of parts that a batch is split into, each on its own cores.

    More parts are not always faster: each has its own inference request, whose caches are colder, and which prepares
    itself again for each new batch size.
    """
    return 1 if streams < cores.MANY_STREAMS else max(1, min(threads, max_batch))


class OpenVinoEngine(CheckedEngine):
    """Two compiled graphs that read their inputs without a copy."""

    def __init__(self, core: ov.Core, bundle: Bundle, options: EngineOptions, precision: str) -> None:
        device = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        loader = _GraphLoader(core, bundle, options, precision, device)
        encoder_path, head_path = bundle.graphs(precision)
        shared = options.beside._encoder if isinstance(options.beside, OpenVinoEngine) else None
        encoder = loader.load("encoder", encoder_path) if shared is None else shared.with_own_request()
        head = loader.load("head", head_path)
        self._encoder: _SplitGraph | None = encoder
        self._head: _SplitGraph | None = head
        requests = max(encoder.count, head.count)
        version = ov.get_version().split("-")[0]
        parts = "" if requests == 1 else f", batches in up to {requests} parts"
        super().__init__(
            bundle.spec,
            max_batch=options.max_batch,
            bank_slots=options.bank_slots,
            description=f"openvino {version} {options.describe_precision(precision)}, {device}{parts}",
            precision=precision,
        )
        self._bank = HostBank(bundle.spec, slots=options.bank_slots, max_batch=options.max_batch)

    def _encode(self, frames: U8, slots: I32) -> None:
        assert self._encoder is not None
        for begin, features in self._encoder.run(frames):
            self._bank.store(features, slots[begin : begin + len(features)])

    def _submit(self, windows: I32) -> Callable[[], F32]:
        assert self._head is not None
        parts = self._head.run(self._bank.gather(windows))
        probabilities = np.concatenate([activate(self.spec, logits) for _, logits in parts])
        return lambda: probabilities

    def _read_features(self, slots: I32) -> F32:
        return self._bank.read(slots)

    def _write_features(self, features: F32, slots: I32) -> None:
        self._bank.store(features, slots)

    def _share_bank(self, owner: OpenVinoEngine) -> None:
        self._bank, self._encoder = owner._bank, None

    def _drop_head(self) -> None:
        self._head = None

    def _close(self) -> None:
        del self._encoder, self._head, self._bank


@dataclass(frozen=True, slots=True)
class _GraphLoader:
    """Load the two graphs of one engine, each with as many cores as it needs."""

    core: ov.Core
    bundle: Bundle
    options: EngineOptions
    precision: str
    device: str

    def load(self, name: str, path: Path) -> _SplitGraph:
        """Load the graph on one core; if that is too slow, load it again on all allowed cores.

        All cores then share each batch (many streams), or each item of a batch (few streams).
        """
        options, item = self.options, cores.blank_input(self.bundle.spec, name)
        graph = self._load_on(name, path, threads=1, requests=1)
        item_s = graph.measure(item)
        threads = options.threads or cores.usable_cores()
        if threads > 1 and cores.needs_more_cores(item_s, streams=options.streams, max_batch=options.max_batch):
            requests = parallel_requests(streams=options.streams, threads=threads, max_batch=options.max_batch)
            del graph  # free its memory before the second one is loaded
            graph = self._load_on(name, path, threads=threads, requests=requests)
            graph.measure(item)
        return graph

    def _load_on(self, name: str, path: Path, *, threads: int, requests: int) -> _SplitGraph:
        spec = self.bundle.spec
        precision = "fp32" if name == self.options.fp32_graph else self.precision
        cache = open_cache(
            {
                "graph": spec.files[path.name],
                "backend": f"openvino {ov.get_version()}, preparation {PREPARATION}",
                "device": f"{platform.machine()} {self.device}",
                "precision": precision,
                "requests": requests,
                "threads": threads,
            },
            subject=("graph", "precision", "requests", "threads"),
        )
        settings = {
            "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT",
            "NUM_STREAMS": requests,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        }
        compiled = _load_or_compile(self.core, cache, name, path, settings)
        check_signature(spec, name, path, _describe_tensors(compiled.model))
        return _SplitGraph(compiled, requests)


class _Compiled(NamedTuple):
    """A compiled graph, and the memory from which it reads its weights. The memory must exist as long as the graph."""

    model: ov.CompiledModel
    blob: memoryview | None = None
    """The graph's bytes, usually in the mapped file of the cache; None if OpenVINO has copied them."""
    data: npt.NDArray[np.uint8] | None = None
    """The same bytes as an array (B,) that OpenVINO reads."""

    def release_pages(self) -> None:
        """Release the pages of the mapped file to the system.

        OpenVINO copies most weights into an order of its own at the first inference. If it needs the others again, the
        system reads them from the file.
        """
        file = None if self.blob is None else self.blob.obj
        if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


class _SplitGraph:
    """A compiled graph that splits a batch among its inference requests if the batch is large enough."""

    def __init__(self, compiled: _Compiled, count: int) -> None:
        self.count = count
        self._compiled = compiled
        self._requests = [compiled.model.create_infer_request() for _ in range(count)]
        self._item_s = 0.0
        self._sizes = BatchSizes()

    def with_own_request(self) -> _SplitGraph:
        """Return the same compiled graph, with one inference request that another thread may use meanwhile."""
        return _SplitGraph(self._compiled, 1)

    def measure(self, item: npt.NDArray[Any]) -> float:
        """Return how many seconds a batch of one, (1, …), takes; `run` decides by this figure how to split a batch."""
        self._item_s = cores.measure_call_s(lambda: self.run(item))
        if self._item_s < cores.MIN_WORK_S:  # for a slower graph, a change of the size hardly counts
            self._sizes = BatchSizes(measure_batch_cost(lambda size: self.run(np.repeat(item, size, axis=0))))
        self._compiled.release_pages()
        return self._item_s

    def run(self, array: npt.NDArray[Any]) -> list[tuple[int, F32]]:
        """Compute (N, …) in parts; return each part's first index and its result, which the next call overwrites."""
        parts = min(len(self._requests), 1 + int(len(array) * self._item_s / cores.MIN_WORK_S))
        if parts == 1:
            return [(0, self._run_filled(array))]
        size = -(-len(array) // parts)
        starts = range(0, len(array), size)
        running = list(zip(starts, self._requests, strict=False))
        for begin, request in running:
            request.set_input_tensor(ov.Tensor(array[begin : begin + size], shared_memory=True))
            request.start_async()
        for _, request in running:
            request.wait()
        return [(begin, request.get_output_tensor().data) for begin, request in running]

    def _run_filled(self, array: npt.NDArray[Any]) -> F32:
        """Compute (N, …) in one part -> (N, …) float32, which the next call overwrites.

        The batch is filled up with zeros to the last size if that costs less than a change of the size to N.
        """
        count = len(array)
        size = self._sizes.choose(count)
        if size > count:
            filled = np.zeros((size, *array.shape[1:]), array.dtype)
            filled[:count] = array
            array = filled
        request = self._requests[0]
        request.set_input_tensor(ov.Tensor(array, shared_memory=True))
        request.infer()
        result: F32 = request.get_output_tensor().data[:count]
        if len(result) != count:  # somebody has changed the mapped file of the weights
            raise EngineError(f"OpenVINO returned {len(result)} results for {count} inputs; restart the service")
        return result


def _load_or_compile(core: ov.Core, cache: CompiledCache, name: str, path: Path, settings: dict[str, Any]) -> _Compiled:
    def restore(blob: memoryview) -> _Compiled:
        data = np.frombuffer(blob, np.uint8)
        data = data if data.flags.writeable else data.copy()
        try:
            return _Compiled(core.import_model(ov.Tensor(data, shared_memory=True), "CPU", settings), blob, data)
        except TypeError:  # OpenVINO 2024 imports bytes only
            return _Compiled(core.import_model(bytes(blob), "CPU", settings))
        except RuntimeError as error:
            raise StaleBlobError(_last_line(error)) from error

    def compile_graph() -> ov.CompiledModel:
        try:
            return core.compile_model(_read_graph(core, path), "CPU", settings)
        except RuntimeError as error:
            raise CompileError(f"{path}: OpenVINO cannot compile it: {_last_line(error)}") from error

    def build() -> bytes:
        blob = io.BytesIO()
        compile_graph().export_model(blob)
        return blob.getvalue()

    try:
        # A graph compiled just now is loaded from its file, too: mapped weights need no memory of the process.
        return cache.get_or_build(name, restore=restore, build=build)
    except StaleBlobError:  # OpenVINO cannot load what it has exported
        return _Compiled(compile_graph())


def _read_graph(core: ov.Core, path: Path) -> ov.Model:
    """Read a graph, and expand weights that are stored as integers and scaled in the graph.

    With several requests, OpenVINO 2026.4 computes such weights wrongly: features of MobileNetV2 were off by up to 6e5.
    A graph that is quantised (QDQ) keeps its integers: it computes with them.
    """
    model = core.read_model(path)
    operations = model.get_ops()
    if any(map(_converts_integers, operations)) and not any(op.get_type_name() == "FakeQuantize" for op in operations):
        manager = passes.Manager()
        manager.register_pass(passes.ConstantFolding())
        manager.run_passes(model)
    return model


def _converts_integers(operation: ov.Node) -> bool:
    if operation.get_type_name() != "Convert":
        return False
    source = operation.input_value(0).get_node()
    return source.get_type_name() == "Constant" and source.get_element_type() in (ov.Type.u8, ov.Type.i8)


def _describe_tensors(compiled: ov.CompiledModel) -> dict[str, TensorView]:
    return {
        port.get_any_name(): TensorView(
            shape=[dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()],
            dtype=np.dtype(port.get_element_type().to_dtype()).name,
        )
        for port in (*compiled.inputs, *compiled.outputs)
    }


def _last_line(error: RuntimeError) -> str:
    """Return the last line of OpenVINO's message; the lines before it name its own source files."""
    return str(error).strip().splitlines()[-1].strip()

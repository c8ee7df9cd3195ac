"""Replace a GPU and TensorRT by doubles that compute on the CPU, behind the interface that the engine uses.

Streams are lazy: their work runs only when the CPU or an event waits for it, and one stream does not wait for another
without an event. An engine that forgets a wait, or overwrites pinned memory too early, gets wrong numbers here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
from support.scaled_pictures import scale_by_plan

from engines.backends.tensorrt.interface import (
    AllocationError,
    GpuIdentity,
    PictureToScale,
    Plan,
    PlanRequest,
    Platform,
    Tensor,
    TensorRtTraits,
)
from engines.cache import StaleBlobError
from engines.errors import CompileError

ALL_PRECISIONS = frozenset({"fp16", "bf16", "int8"})
TRAITS = {
    "8.5.3.1": TensorRtTraits(
        layer_norm=False, flags=frozenset({"fp16", "int8"}), strongly_typed=False, shared_profiles=False
    ),
    "8.6.1": TensorRtTraits(layer_norm=True, flags=frozenset({"fp16", "int8"}), strongly_typed=False),
    "10.3.0": TensorRtTraits(layer_norm=True, flags=ALL_PRECISIONS, strongly_typed=True),
    "11.4.0": TensorRtTraits(layer_norm=True, flags=frozenset(), strongly_typed=True),
}


@dataclass
class DoubleEvent:
    """See `engines.backends.tensorrt.interface.CudaEvent`."""

    stream: DoubleStream | None = None
    position: int = 0


@dataclass
class DoubleStream:
    """See `engines.backends.tensorrt.interface.CudaStream`."""

    handle: int
    queue: list[Callable[[], None]] = field(default_factory=list)
    done: int = 0
    recording: list[Callable[[], None]] | None = None

    def push(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def run(self, end: int) -> None:
        """Run the queued work up to the position `end`."""
        while self.done < end:
            self.done += 1
            work, self.queue[self.done - 1] = self.queue[self.done - 1], _do_nothing  # it may hold pinned memory
            work()


def _do_nothing() -> None:
    """Stand for work that is done."""


@dataclass
class DoubleGraph:
    """See `engines.backends.tensorrt.interface.CudaGraph`."""

    work: list[Callable[[], None]]
    launches: list[int]

    def launch(self, stream: DoubleStream) -> None:
        self.launches[0] += 1
        for item in self.work:
            stream.push(item)


class _PinnedArray(np.ndarray):
    """An array of pinned memory; views of it keep it alive."""


class DoubleCuda:
    """See `engines.backends.tensorrt.interface.Cuda`.

    As on a real GPU, all instances of a process share the primary context: each may use an address of another one.
    """

    _context: ClassVar[dict[int, np.ndarray[Any, Any]]] = {}
    _addresses: ClassVar[Iterator[int]] = itertools.count(0x7F0000000000, 1 << 32)

    def __init__(self, *, memory_bytes: int = 1 << 30, name: str = "Double", graphs: bool = True) -> None:
        self.gpu = GpuIdentity(
            name=name, compute_capability="9.0", driver="12.8", memory_bytes=memory_bytes, bus="0000:00:00.0"
        )
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.used = self.allocations = 0
        self.pinned_bytes = 0
        """Pinned memory that was not freed; it is freed only by a thread in which the context is current."""
        self.graphs, self.launches = graphs, [0]
        self.default_stream = DoubleStream(handle=0)
        """The stream of FFmpeg's decoder."""
        self.fail_with: str | None = None
        self.closed = False
        self.can_share = True
        self._next = next(self._addresses)
        self._active = threading.local()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._active.depth = getattr(self._active, "depth", 0) + 1
        try:
            yield
        finally:
            self._active.depth -= 1

    def check(self) -> None:
        """Fail if this thread has not made the context current."""
        assert getattr(self._active, "depth", 0) > 0, "invalid context: this thread has not made it current"
        assert not self.closed

    def free_bytes(self) -> int:
        self.check()
        return self.gpu.memory_bytes - self.used

    def allocate(self, nbytes: int) -> int:
        self.check()
        assert nbytes > 0
        if self.used + nbytes > self.gpu.memory_bytes:
            raise AllocationError(nbytes)
        self.allocations += 1
        self.used += nbytes
        address = self._next
        self._next += (nbytes + 255) // 256 * 256 + 4096  # a gap, so that an access beyond the end is an error
        self.memory[address] = self._context[address] = np.random.default_rng(address % 97).integers(
            0, 255, nbytes, np.uint8
        )
        return address

    def release(self, address: int) -> None:
        self.check()
        self.used -= self.memory.pop(address).nbytes
        del self._context[address]

    def share(self, nbytes: int) -> tuple[int, int]:
        self.check()
        if not self.can_share:
            raise RuntimeError("this GPU cannot share memory between processes")
        if self.used + nbytes > self.gpu.memory_bytes:
            raise AllocationError(nbytes)
        fd = os.memfd_create("device")
        os.ftruncate(fd, nbytes)
        return self.open_shared(fd, nbytes), fd

    def open_shared(self, fd: int, nbytes: int) -> int:
        self.check()
        address = self._next
        self._next += (nbytes + 255) // 256 * 256 + 4096
        self.used += nbytes
        self.memory[address] = self._context[address] = np.frombuffer(mmap.mmap(fd, nbytes), np.uint8)
        return address

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        self.check()
        self.allocations += 1
        array = np.zeros(shape, dtype).view(_PinnedArray)
        weakref.finalize(array, self._free_pinned, array.nbytes)
        self.pinned_bytes += array.nbytes
        return array

    def _free_pinned(self, nbytes: int) -> None:
        if getattr(self._active, "depth", 0) > 0 and not self.closed:
            self.pinned_bytes -= nbytes  # without a current context the driver refuses, and the memory is lost

    def stream(self) -> DoubleStream:
        self.check()
        return DoubleStream(handle=id(object()))

    def event(self) -> DoubleEvent:
        self.check()
        return DoubleEvent()

    def view(self, address: int, nbytes: int) -> np.ndarray[Any, Any]:
        """Return the bytes at `address`, which must be within one allocation."""
        base = max((start for start in self._context if start <= address), default=None)
        assert base is not None, "illegal memory access"
        block = self._context[base]
        assert address + nbytes <= base + block.nbytes, "illegal memory access"
        return block[address - base : address - base + nbytes]

    def upload(self, to: int, array: Any, stream: DoubleStream) -> None:
        self.check()
        assert array.flags.c_contiguous
        stream.push(lambda: self.view(to, array.nbytes).__setitem__(slice(None), array.reshape(-1).view(np.uint8)))

    def download(self, array: Any, source: int, stream: DoubleStream) -> None:
        self.check()
        assert array.flags.c_contiguous
        stream.push(lambda: array.reshape(-1).view(np.uint8).__setitem__(slice(None), self.view(source, array.nbytes)))

    def copy(self, to: int, source: int, nbytes: int, stream: DoubleStream) -> None:
        self.check()
        stream.push(lambda: self.view(to, nbytes).__setitem__(slice(None), self.view(source, nbytes)))

    def clear(self, address: int, nbytes: int, stream: DoubleStream) -> None:
        self.check()
        stream.push(lambda: self.view(address, nbytes).fill(0))

    def gather_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: DoubleStream) -> None:
        self.check()

        def work() -> None:
            for i, row in enumerate(self.view(rows, count * 4).view(np.int32)):
                target = self.view(to + i * row_bytes, row_bytes)
                target[:] = self.view(source + int(row) * row_bytes, row_bytes)

        stream.push(work)

    def scatter_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: DoubleStream) -> None:
        self.check()

        def work() -> None:
            for i, row in enumerate(self.view(rows, count * 4).view(np.int32)):
                target = self.view(to + int(row) * row_bytes, row_bytes)
                target[:] = self.view(source + i * row_bytes, row_bytes)

        stream.push(work)

    def scale_picture(self, to: int, picture: PictureToScale, stream: DoubleStream) -> None:
        self.check()

        def rest(address: int) -> np.ndarray[Any, Any]:
            base = max(start for start in self._context if start <= address)
            return self._context[base][address - base :]

        def work() -> None:
            words = rest(picture.plan)
            words = words[: len(words) // 4 * 4].view(np.int32)
            assert words[:2].tolist() == [picture.columns, picture.rows], "the grid is not that of the plan"
            pitches = (picture.luma_pitch, picture.chroma_pitch)
            scale_by_plan(words, rest(picture.luma), rest(picture.chroma), pitches, rest(to))

        stream.push(work)

    def follow_default_stream(self, stream: DoubleStream, event: DoubleEvent) -> None:
        self.record(event, self.default_stream)
        self.wait(stream, event)

    def record(self, event: DoubleEvent, stream: DoubleStream) -> None:
        self.check()
        event.stream, event.position = stream, len(stream.queue)

    def wait(self, stream: DoubleStream, event: DoubleEvent) -> None:
        self.check()
        other, position = event.stream, event.position
        if other is not None:
            stream.push(lambda: other.run(position))

    def synchronize(self, event: DoubleEvent) -> None:
        self.check()
        if self.fail_with:
            raise RuntimeError(self.fail_with)
        if event.stream is not None:
            event.stream.run(event.position)

    def finish(self, stream: DoubleStream) -> None:
        self.check()
        if self.fail_with:
            raise RuntimeError(self.fail_with)
        stream.run(len(stream.queue))

    def capture(self, stream: DoubleStream, enqueue: Callable[[], None]) -> DoubleGraph | None:
        self.check()
        if not self.graphs:
            return None
        allocations, stream.recording = self.allocations, []
        try:
            enqueue()
        finally:
            work, stream.recording = stream.recording, None
        assert self.allocations == allocations, "operation not permitted when stream is capturing"
        return DoubleGraph(work, self.launches)

    def close(self) -> None:
        for address in self.memory:
            del self._context[address]
        self.closed = True


class DoubleCompiler:
    """See `engines.backends.tensorrt.interface.Compiler`. A plan is ONNX after a header with version and GPU."""

    def __init__(self, cuda: DoubleCuda, *, version: str = "10.3.0", scratch_bytes: int = 4096) -> None:
        self.version, self.traits = version, TRAITS[version]
        self.requests: list[PlanRequest] = []
        self._cuda, self._scratch = cuda, scratch_bytes

    def build(self, request: PlanRequest) -> tuple[bytes, bytes]:
        self._cuda.check()
        self.requests.append(request)
        model = onnx.load_model_from_string(request.onnx)
        kinds = {node.op_type for node in model.graph.node}
        if not self.traits.layer_norm and "LayerNormalization" in kinds:
            raise CompileError(f"{request.name}: LayerNormalization: no such operator")
        if not request.strongly_typed and request.precision != "fp32":
            assert request.precision in self.traits.flags, "there is no such builder flag"
        if request.strongly_typed:
            assert self.traits.strongly_typed, "there is no such network flag"
        header = {
            **self._identity(),
            "max_batch": request.max_batch,
            "sha256": _sha256(request.onnx),
            "profiles": None if self.traits.shared_profiles else request.executions,
        }
        request.progress("building")
        return json.dumps(header).encode() + b"\n" + request.onnx, b"timing"

    def load(self, plan: bytes) -> Plan:
        self._cuda.check()
        head, _, data = plan.partition(b"\n")
        header = json.loads(head)
        if any(header[name] != value for name, value in self._identity().items()) or header["sha256"] != _sha256(data):
            raise StaleBlobError("serialized engine is not for this version or device")
        scratch_bytes = self._scratch * header["max_batch"]
        return DoublePlan(self._cuda, data, header["max_batch"], scratch_bytes, header["profiles"])

    def _identity(self) -> dict[str, str]:
        return {"version": self.version, "gpu": self._cuda.gpu.name}


class DoublePlan:
    """See `engines.backends.tensorrt.interface.Plan`."""

    def __init__(
        self, cuda: DoubleCuda, data: bytes, max_batch: int, scratch_bytes: int, profiles: int | None = None
    ) -> None:
        """`profiles`: the number of executions that may exist; None if they share a profile."""
        self._cuda, self._max_batch = cuda, max_batch
        self._free_profiles = profiles
        settings = ort.SessionOptions()
        settings.add_session_config_entry("session.x64quantprecision", "1")  # no saturation without VNNI
        settings.intra_op_num_threads = 1
        self._session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        self._input, self._output = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self.tensors: Mapping[str, Tensor] = {
            item.name: Tensor(shape=(-1, *item.shape[1:]), dtype=np.dtype(kinds[item.type]))
            for item in (self._input, self._output)
        }
        self.scratch_bytes = scratch_bytes

    def execution(self, batch: int, addresses: Mapping[str, int], scratch: int) -> DoubleExecution:
        self._cuda.check()
        assert 1 <= batch <= self._max_batch, "the batch is not in the profile"
        assert set(addresses) == set(self.tensors)
        self._cuda.view(scratch, self.scratch_bytes)
        if self._free_profiles is not None:
            assert self._free_profiles, "Profile 0 has been chosen by another IExecutionContext"
            self._free_profiles -= 1
        return DoubleExecution(self, batch, addresses)

    def infer(self, batch: int, addresses: Mapping[str, int]) -> None:
        """Compute one inference with tensors at the given addresses."""
        input_name, output_name = self._input.name, self._output.name
        tensor = self.tensors[input_name]
        shape = (batch, *tensor.shape[1:])
        nbytes = int(np.prod(shape)) * tensor.dtype.itemsize
        array = self._cuda.view(addresses[input_name], nbytes).view(tensor.dtype).reshape(shape)
        (out,) = self._session.run(None, {input_name: array})
        self._cuda.view(addresses[output_name], out.nbytes)[:] = np.ascontiguousarray(out).reshape(-1).view(np.uint8)


@dataclass
class DoubleExecution:
    """See `engines.backends.tensorrt.interface.Execution`."""

    plan: DoublePlan
    batch: int
    addresses: Mapping[str, int]

    def enqueue(self, stream: DoubleStream) -> None:
        execution, plan, batch, addresses = weakref.ref(self), self.plan, self.batch, self.addresses

        def work() -> None:
            assert execution() is not None, "use after free: the execution context of this work is gone"
            plan.infer(batch, addresses)

        stream.push(work)


def double_platform(
    device: int | None = None, *, version: str = "10.3.0", scratch_bytes: int = 4096, **gpu: Any
) -> Platform:
    """Return a platform of both doubles; `gpu` are the arguments of `DoubleCuda`. Each device is alike."""
    cuda = DoubleCuda(**gpu)
    return Platform(cuda=cuda, compiler=DoubleCompiler(cuda, version=version, scratch_bytes=scratch_bytes))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

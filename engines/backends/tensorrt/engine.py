"""Run an engine on a GPU: frames are uploaded once, features stay on the device, only logits come back.

The engine has two CUDA streams. One uploads frames through two sets of staging buffers, the other computes, so a batch
is uploaded while the batch before it is computed. `encode` returns when its frames are copied into pinned memory, not
when they are encoded. `submit` only queues the head; its result waits for all work queued before it. So the device
computes while the next chunks are uploaded. The constructor allocates all memory; a call replays one CUDA graph, made
for the smallest prepared batch size that fits.

Chunks that are on the device already, in memory that other processes write (`share_memory`), take the second way:
`fetch` copies each one into a batch on the device, and `encode_device` queues the rest of an encode.

A kernel of this package, not an operator in the head's graph, gathers the features of a window. An operator would make
the bank an input of the plan, and the plan would have to be built again for each number of streams. The host turns
logits into probabilities in float32: both take as many bytes, and the plan's precision does not affect the result then.
"""

from __future__ import annotations

import bisect
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engines.activation import activate
from engines.arrays import F32, I32, U8
from engines.backends.base import CheckedEngine
from engines.backends.tensorrt.chunk_memory import SharedChunks
from engines.backends.tensorrt.interface import (
    AllocationError,
    Array,
    CudaEvent,
    CudaGraph,
    CudaStream,
    Execution,
    Plan,
    Platform,
)
from engines.backends.tensorrt.memory import MIB, MemoryLayout, prepared_batches
from engines.errors import DeviceError, DeviceMemoryError

log = logging.getLogger("engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class _StagingBuffers:
    """The pinned and the device memory of one batch, and the events after which each may be written again."""

    host_frames: Array | None
    """None for chunks that come from device memory."""
    host_slots: Array
    frames: int
    slots: int
    uploaded: CudaEvent
    free: CudaEvent


class TensorRtEngine(CheckedEngine):
    """Two plans and one bank. The constructor allocates all device memory; `encode` and `classify` allocate none."""

    queues_work = True
    takes_device_chunks = True

    def __init__(
        self,
        platform: Platform,
        plans: Mapping[str, Plan],
        layout: MemoryLayout,
        precision: str,
        *,
        precision_text: str,
        device: int | None = None,
    ) -> None:
        """`precision_text` and the number `device` of the GPU are shown in the engine's description."""
        gpu = platform.cuda.gpu
        shown_gpu = f"{gpu.name} ({gpu.compute_capability})" + ("" if device is None else f", GPU {device}")
        super().__init__(
            layout.spec,
            max_batch=layout.max_batch,
            bank_slots=layout.bank_slots,
            description=f"tensorrt {platform.compiler.version} {precision_text}, {shown_gpu}",
            precision=precision,
        )
        self._cuda, self._layout = platform.cuda, layout
        self._plans = plans
        self._allocated: list[int] = []
        self._shared: list[SharedChunks] = []
        self._received: list[_StagingBuffers] = []
        self._head_executions: dict[int, Execution] = {}
        self._batches = prepared_batches(layout.max_batch)
        try:
            self._allocate()
            self._graphs = True
            self._encoders = {size: self._prepare_launch(self._encoder_work(size)) for size in self._batches}
            self._heads = {size: self._prepare_launch(self._head_work(size)) for size in self._batches}
            self._cuda.finish(self._compute)
        except BaseException:
            self._release()
            raise

    def _allocate(self) -> None:
        cuda, layout, spec = self._cuda, self._layout, self.spec
        batch = layout.max_batch
        self._upload, self._compute, self._fetching = cuda.stream(), cuda.stream(), cuda.stream()
        self._bank = self._allocate_owned(layout.bank_bytes)
        self._frames = self._allocate_owned(batch * layout.chunk_bytes)
        self._slots = self._allocate_owned(batch * 4)
        self._features = self._allocate_owned(batch * layout.row_bytes)
        self._rows = self._allocate_owned(batch * spec.chunks * 4)
        self._windows = self._allocate_owned(batch * spec.chunks * layout.row_bytes)
        self._logits = self._allocate_owned(batch * len(spec.labels) * 4)
        self._scratch = self._allocate_owned(layout.scratch_bytes) if layout.scratch_bytes else 0
        self._host_rows = cuda.pinned((batch, spec.chunks), np.int32)
        self._classified = cuda.event()
        self._host_logits = cuda.pinned((batch, len(spec.labels)), np.float32)
        self._staging = [self._staging_buffers(cuda.pinned((batch, *spec.chunk_shape), np.uint8)) for _ in range(2)]
        cuda.clear(self._bank, layout.bank_bytes, self._compute)
        cuda.clear(self._frames, batch * layout.chunk_bytes, self._compute)
        cuda.clear(self._slots, batch * 4, self._compute)

    def _staging_buffers(self, host_frames: Array | None) -> _StagingBuffers:
        cuda, layout = self._cuda, self._layout
        return _StagingBuffers(
            host_frames=host_frames,
            host_slots=cuda.pinned((layout.max_batch,), np.int32),
            frames=self._allocate_owned(layout.max_batch * layout.chunk_bytes),
            slots=self._allocate_owned(layout.max_batch * 4),
            uploaded=cuda.event(),
            free=cuda.event(),
        )

    def _encode(self, frames: U8, slots: I32) -> None:
        cuda, staging = self._cuda, self._staging[0]
        self._staging.reverse()
        with _DeviceErrors(self), cuda.active():
            cuda.synchronize(staging.free)  # the device has copied the batch before the last one
            host_frames = staging.host_frames
            assert host_frames is not None
            host_frames[: len(frames)] = frames
            cuda.upload(staging.frames, host_frames[: len(frames)], self._upload)
            self._queue_encode(staging, slots)

    def _queue_encode(self, staging: _StagingBuffers, slots: I32) -> None:
        """Queue the encode of a batch whose frames are in device memory, or on their way there in the upload stream."""
        cuda, count = self._cuda, len(slots)
        size = self._padded_size(count)
        staging.host_slots[:count] = slots
        staging.host_slots[count:size] = self.bank_slots  # padding goes to the extra slot, which is never read
        cuda.upload(staging.slots, staging.host_slots[:size], self._upload)
        cuda.record(staging.uploaded, self._upload)
        cuda.wait(self._compute, staging.uploaded)
        cuda.copy(self._frames, staging.frames, count * self._layout.chunk_bytes, self._compute)
        cuda.copy(self._slots, staging.slots, size * 4, self._compute)
        cuda.record(staging.free, self._compute)
        self._encoders[size]()

    def _share_memory(self, chunks: int) -> SharedChunks:
        with _DeviceErrors(self), self._cuda.active():
            try:
                while len(self._received) < 2:
                    self._received.append(self._staging_buffers(None))
                shared = SharedChunks(self._cuda, chunks, self._layout.chunk_bytes, self._shared.remove)
            except AllocationError as error:
                raise DeviceMemoryError(
                    f"{self.spec.id} on {self.description}: no memory for {chunks} chunks of "
                    f"{self._layout.chunk_bytes / MIB:,.1f} MiB that other processes write; "
                    f"{self._cuda.free_bytes() / MIB:,.1f} MiB are free: give this GPU fewer streams"
                ) from error
        self._shared.append(shared)
        return shared

    def _fetch(self, memory: SharedChunks, index: int, row: int) -> None:
        cuda, received, nbytes = self._cuda, self._received[0], self._layout.chunk_bytes
        with _DeviceErrors(self), cuda.active():
            if not self._fetched:
                cuda.synchronize(received.free)  # the device has copied the batch before the last one
            cuda.copy(received.frames + row * nbytes, memory.address(index), nbytes, self._fetching)
            cuda.record(received.uploaded, self._fetching)
            cuda.synchronize(received.uploaded)  # the other process may write the chunk again

    def _encode_device(self, slots: I32) -> None:
        received = self._received[0]
        self._received.reverse()
        with _DeviceErrors(self), self._cuda.active():
            self._queue_encode(received, slots)

    def _submit(self, windows: I32) -> Callable[[], F32]:
        count = len(windows)
        size = self._padded_size(count)
        with _DeviceErrors(self), self._cuda.active():
            self._host_rows[:count] = windows
            self._host_rows[count:size] = 0
            self._heads[size]()
            self._cuda.record(self._classified, self._compute)
        return functools.partial(self._take_probabilities, count)

    def _take_probabilities(self, count: int) -> F32:
        with _DeviceErrors(self), self._cuda.active():
            self._cuda.synchronize(self._classified)
            return activate(self.spec, self._host_logits[:count])

    def _read_features(self, slots: I32) -> F32:
        cuda, count = self._cuda, len(slots)
        with _DeviceErrors(self), cuda.active():
            host = self._host_features(count)
            self._upload_slots(slots)
            cuda.gather_rows(self._features, self._bank, self._slots, count, self._layout.row_bytes, self._compute)
            cuda.download(host, self._features, self._compute)
            cuda.finish(self._compute)
            features: F32 = host.copy()
            del host  # while the context is current, or the driver cannot free it
            return features

    def _write_features(self, features: F32, slots: I32) -> None:
        cuda, count = self._cuda, len(slots)
        with _DeviceErrors(self), cuda.active():
            host = self._host_features(count)
            host[:] = features
            self._upload_slots(slots)
            cuda.upload(self._features, host, self._compute)
            cuda.scatter_rows(self._bank, self._features, self._slots, count, self._layout.row_bytes, self._compute)
            cuda.finish(self._compute)
            del host

    def _host_features(self, count: int) -> Array:
        """Allocate pinned memory for this call only: an engine's bank is moved once, if ever."""
        return self._cuda.pinned((count, *self.spec.feature_shape), np.float32)

    def _upload_slots(self, slots: I32) -> None:
        host = self._cuda.pinned(slots.shape, np.int32)
        host[:] = slots
        self._cuda.upload(self._slots, host, self._compute)
        self._cuda.finish(self._compute)  # `host` is freed when this returns

    def _share_bank(self, owner: TensorRtEngine) -> None:
        """Use the owner's bank, and its stream, which puts encodes and heads in order. The heads are captured again.

        All engines of a process are in the GPU's primary context, so an address of one is valid for the others.
        """
        with _DeviceErrors(self), self._cuda.active():
            self._cuda.finish(self._upload)
            self._cuda.finish(self._compute)
            self._encoders, self._heads = {}, {}
            self._plans = {"head": self._plans["head"]}
            self._release_shared()
            uploads = [
                address for staging in (*self._staging, *self._received) for address in (staging.frames, staging.slots)
            ]
            self._staging.clear()
            self._received.clear()
            for address in (self._bank, self._frames, self._slots, self._features, *uploads):
                self._release_owned(address)
            self._bank, self._compute = owner._bank, owner._compute
            self._heads = {size: self._prepare_launch(self._head_work(size)) for size in self._batches}

    def _drop_head(self) -> None:
        with _DeviceErrors(self), self._cuda.active():
            self._cuda.finish(self._compute)
            self._heads, self._head_executions = {}, {}
            self._plans = {"encoder": self._plans["encoder"]}
            for address in (self._rows, self._windows, self._logits):
                self._release_owned(address)

    def _close(self) -> None:
        with self._cuda.active():
            try:
                self._cuda.finish(self._upload)
                self._cuda.finish(self._compute)
            except RuntimeError as error:
                log.warning("%s: %s", self.spec.id, error)  # most likely the reason why the engine is closed
            self._release()
        self._cuda.close()

    def _encoder_work(self, size: int) -> Callable[[], None]:
        """Make the function that queues an encode: frames and slots in device memory -> features in the bank."""
        cuda, row = self._cuda, self._layout.row_bytes
        execution = self._plans["encoder"].execution(
            size, {"frames": self._frames, "features": self._features}, self._scratch
        )

        def work() -> None:
            execution.enqueue(self._compute)
            cuda.scatter_rows(self._bank, self._features, self._slots, size, row, self._compute)

        return work

    def _head_work(self, size: int) -> Callable[[], None]:
        """Make the function that queues a classify: bank slots in pinned memory -> logits in pinned memory."""
        cuda, row = self._cuda, self._layout.row_bytes
        execution = self._head_executions.get(size)
        if execution is None:
            execution = self._head_executions[size] = self._plans["head"].execution(
                size, {"features": self._windows, "logits": self._logits}, self._scratch
            )

        def work() -> None:
            cuda.upload(self._rows, self._host_rows[:size], self._compute)
            count = size * self.spec.chunks
            cuda.gather_rows(self._windows, self._bank, self._rows, count, row, self._compute)
            execution.enqueue(self._compute)
            cuda.download(self._host_logits[:size], self._logits, self._compute)

        return work

    def _prepare_launch(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture `work` in a CUDA graph and return its launch, or return `work` if it cannot be captured.

        Old drivers, and some layers, prevent the capture.
        """
        work()  # first without capture: libraries may allocate at first use, and must not during capture
        self._cuda.finish(self._compute)
        if not self._graphs:
            return work
        graph: CudaGraph | None
        try:
            graph = self._cuda.capture(self._compute, work)
        except RuntimeError as error:
            log.info("%s: without CUDA graphs: %s", self.description, error)
            graph = None
        if graph is None:
            self._graphs = False  # do not try the other sizes
            return work
        return _CapturedWork(graph, self._compute, work)

    def _padded_size(self, count: int) -> int:
        return self._batches[bisect.bisect_left(self._batches, count)]

    def _allocate_owned(self, nbytes: int) -> int:
        address = self._cuda.allocate(nbytes)
        self._allocated.append(address)
        return address

    def _release_owned(self, address: int) -> None:
        self._allocated.remove(address)
        self._cuda.release(address)

    def _release_shared(self) -> None:
        while self._shared:
            self._shared.pop().release()

    def _release(self) -> None:
        """Free everything while the context is current; pinned memory, streams and events go with their last owner."""
        self._release_shared()
        self._encoders, self._heads, self._head_executions = {}, {}, {}
        self._plans = {}
        for name in (
            "_staging",
            "_received",
            "_host_rows",
            "_host_logits",
            "_classified",
            "_upload",
            "_compute",
            "_fetching",
        ):
            self.__dict__.pop(name, None)
        while self._allocated:
            self._cuda.release(self._allocated.pop())


class _CapturedWork:
    """Launch a CUDA graph, and keep the work that it was captured from.

    The graph has addresses of memory that belongs to TensorRT's execution context, so the context must live as long.
    """

    def __init__(self, graph: CudaGraph, stream: CudaStream, work: Callable[[], None]) -> None:
        self._graph, self._stream, self._work = graph, stream, work

    def __call__(self) -> None:
        self._graph.launch(self._stream)


class _DeviceErrors:
    """Translate a `RuntimeError` of CUDA or TensorRT into `DeviceError`. The device may be unusable afterwards."""

    def __init__(self, engine: TensorRtEngine) -> None:
        self._engine = engine

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError):
            raise DeviceError(
                f"{self._engine.spec.id} on {self._engine.description}: {error}; restart the process"
            ) from error

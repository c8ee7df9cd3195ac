"""Define what the TensorRT engine needs of CUDA and TensorRT, and nothing else.

There are two implementations: the modules `cuda` and `library` use PyCUDA and TensorRT; the test double computes on the
CPU. All addresses are in device memory. A call with a stream only queues its work there and returns at once; the device
does the work of one stream in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class AllocationError(Exception):
    """The device does not have enough memory for an allocation of `nbytes`, if the size is known."""

    def __init__(self, nbytes: int | None = None) -> None:
        super().__init__("" if nbytes is None else f"{nbytes} bytes")
        self.nbytes = nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuIdentity:
    """The GPU and driver that a plan is built for; it also depends on the version of TensorRT."""

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int
    bus: str = ""
    """Its place on the PCI bus, which is the same in every process of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureToScale:
    """The arguments of the kernel `scale_picture`, which kernels.ptx explains: addresses in device memory, and sizes.

    `columns` and `rows` are those of the result, which has three bytes for each pixel.
    """

    plan: int
    luma: int
    chroma: int
    luma_pitch: int
    chroma_pitch: int
    columns: int
    rows: int


class CudaStream(Protocol):
    """A queue of work on the device that does not wait for the default stream."""

    @property
    def handle(self) -> int:
        """CUDA's handle of the stream, for TensorRT."""


class CudaEvent(Protocol):
    """A mark in a stream that the CPU or another stream can wait for."""


class CudaGraph(Protocol):
    """Work that was captured once and is launched as a whole."""

    def launch(self, stream: CudaStream) -> None:
        """Queue all of the captured work."""


class Cuda(Protocol):
    """A GPU with its memory, streams, copies, the two kernels that move rows, and the one that scales pictures."""

    gpu: GpuIdentity

    def active(self) -> AbstractContextManager[None]:
        """Make the context current in this thread; every other call must be inside this `with` block.

        Pinned arrays, streams, events and graphs must also lose their last reference inside one. Raises `RuntimeError`
        for an error of CUDA inside the block.
        """

    def free_bytes(self) -> int:
        """Return how many bytes of device memory can still be allocated."""

    def allocate(self, nbytes: int) -> int:
        """Allocate device memory; return its address, aligned to 256 bytes. Raises `AllocationError`."""

    def release(self, address: int) -> None:
        """Free memory that `allocate`, `share` or `open_shared` returned."""

    def share(self, nbytes: int) -> tuple[int, int]:
        """Allocate device memory that other processes can map; return its address, and a descriptor for them.

        The caller closes the descriptor. The memory lives until its last mapping and descriptor are gone. Raises
        `AllocationError`, and `RuntimeError` where the GPU or its driver cannot share memory.
        """

    def open_shared(self, fd: int, nbytes: int) -> int:
        """Map `nbytes` that another process has shared, and return their address. Raises `RuntimeError`."""

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Allocate page-locked host memory, which copies read and write while the CPU does other work."""

    def stream(self) -> CudaStream:
        """Create a non-blocking stream."""

    def event(self) -> CudaEvent:
        """Create an event that is not recorded yet; waiting for it returns at once."""

    def upload(self, to: int, array: Array, stream: CudaStream) -> None:
        """Copy the contiguous pinned `array` to device memory; it must not change until the copy is done."""

    def download(self, array: Array, source: int, stream: CudaStream) -> None:
        """Copy device memory into the contiguous pinned `array`."""

    def copy(self, to: int, source: int, nbytes: int, stream: CudaStream) -> None:
        """Copy device memory to device memory."""

    def clear(self, address: int, nbytes: int, stream: CudaStream) -> None:
        """Set device memory to zero bytes."""

    def gather_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """Set to[i] = source[rows[i]] for i < count. `rows` is an address of int32, `row_bytes` a multiple of 4."""

    def scatter_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """Set to[rows[i]] = source[i] for i < count. `rows` is an address of int32, `row_bytes` a multiple of 4."""

    def scale_picture(self, to: int, picture: PictureToScale, stream: CudaStream) -> None:
        """Scale a decoded picture to RGB at the address `to`."""

    def follow_default_stream(self, stream: CudaStream, event: CudaEvent) -> None:
        """Let the stream's later work begin only after the work that is queued in the default stream so far.

        FFmpeg's decoder uses the default stream. `event` is for this call; it must not be in use.
        """

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Let the event mark the work that is queued in the stream so far."""

    def wait(self, stream: CudaStream, event: CudaEvent) -> None:
        """Let the stream's later work begin only after the event's mark. The CPU does not wait."""

    def synchronize(self, event: CudaEvent) -> None:
        """Let the CPU wait for the event's mark."""

    def finish(self, stream: CudaStream) -> None:
        """Let the CPU wait for all work in the stream. Raises `RuntimeError` if some of it failed."""

    def capture(self, stream: CudaStream, enqueue: Callable[[], None]) -> CudaGraph | None:
        """Record the work that `enqueue` queues, instead of doing it; return None if the driver cannot capture.

        Raises `RuntimeError` if the work cannot be captured.
        """

    def close(self) -> None:
        """Free the memory that is still allocated, and give the context back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtTraits:
    """The features of the installed TensorRT, probed one by one instead of derived from its version number."""

    layer_norm: bool
    """Whether LayerNormalization is an operator (8.6 and later)."""
    flags: frozenset[str]
    """Precisions that the builder may choose for each tensor; empty in 11."""
    strongly_typed: bool
    """Whether the builder can be made to keep the types of the graph (10 and later)."""
    shared_profiles: bool = True
    """Whether several executions can use one optimisation profile (8.6 and later)."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """List all precisions that this TensorRT computes in."""
        typed = {"fp16", "bf16", "int8"} if self.strongly_typed else set()
        return ("fp32", *sorted(self.flags | typed))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """A graph to compile, and how."""

    name: str
    onnx: bytes
    precision: str
    strongly_typed: bool
    keep_fp32: tuple[str, ...]
    """Names of nodes that the builder must not lower, if the network is not strongly typed."""
    max_batch: int
    executions: int
    """The number of executions that will exist at the same time."""
    workspace_bytes: int
    timing_cache: bytes
    progress: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a plan; the size of its batch axis is -1."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Execution(Protocol):
    """A plan at one batch size, with its tensors at fixed addresses."""

    def enqueue(self, stream: CudaStream) -> None:
        """Queue one inference. Raises `RuntimeError` if TensorRT refuses."""


class Plan(Protocol):
    """A loaded plan. The caller owns all memory that the plan uses."""

    tensors: Mapping[str, Tensor]
    scratch_bytes: int

    def execution(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Execution:
        """Prepare the plan for one batch size, with its tensors and scratch memory at the given addresses.

        Executions that never run at the same time may share scratch memory. Raises `AllocationError`.
        """


class Compiler(Protocol):
    """TensorRT as a compiler from ONNX to plans."""

    version: str
    traits: TensorRtTraits

    def build(self, request: PlanRequest) -> tuple[bytes, bytes]:
        """Compile a graph to (plan, timing cache).

        Raises `CompileError`, which names the operators or layers that TensorRT refuses, and `AllocationError`.
        """

    def load(self, plan: bytes) -> Plan:
        """Load a plan. Raises `StaleBlobError` if it is damaged, or of another version or device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """CUDA and TensorRT, both initialised."""

    cuda: Cuda
    compiler: Compiler

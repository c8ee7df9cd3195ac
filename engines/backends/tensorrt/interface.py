"""All that the TensorRT engine asks of CUDA and of TensorRT, and nothing else.

Two implementations: `cuda` and `library` over PyCUDA and TensorRT, and the test double, which computes on the CPU.
Addresses are those of device memory. Whatever takes a stream returns at once; the work happens in the stream's order.
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
    """The device has not the memory that was asked for."""

    def __init__(self, nbytes: int | None = None) -> None:
        super().__init__("" if nbytes is None else f"{nbytes} bytes")
        self.nbytes = nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuIdentity:
    """What a plan depends on besides TensorRT: plans are built for one kind of GPU under one driver."""

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int


class CudaStream(Protocol):
    """A queue of work on the device, in which nothing waits for the default stream."""

    @property
    def handle(self) -> int:
        """CUDA's own handle, for TensorRT."""


class CudaEvent(Protocol):
    """A mark in a stream."""


class CudaGraph(Protocol):
    """Work recorded once, that is launched whole."""

    def launch(self, stream: CudaStream) -> None:
        """Queue all of it."""


class Cuda(Protocol):
    """One GPU: memory, streams, copies and the two kernels that move rows."""

    gpu: GpuIdentity

    def active(self) -> AbstractContextManager[None]:
        """Every other call must be made within it: contexts belong to threads."""

    def free_bytes(self) -> int:
        """Device memory that can still be allocated."""

    def allocate(self, nbytes: int) -> int:
        """An address aligned to 256 bytes. Raises `AllocationError`."""

    def release(self, address: int) -> None:
        """Give memory back that `allocate` gave."""

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Host memory that copies read and write while the CPU does other things."""

    def stream(self) -> CudaStream:
        """A new non-blocking stream."""

    def event(self) -> CudaEvent:
        """A new event, not recorded: waiting for it returns at once."""

    def upload(self, to: int, array: Array, stream: CudaStream) -> None:
        """Contiguous pinned `array` to device memory; it must stay as it is until the copy is done."""

    def download(self, array: Array, source: int, stream: CudaStream) -> None:
        """Device memory into contiguous pinned `array`."""

    def copy(self, to: int, source: int, nbytes: int, stream: CudaStream) -> None:
        """Device memory to device memory."""

    def clear(self, address: int, nbytes: int, stream: CudaStream) -> None:
        """Device memory to zero bytes."""

    def gather_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """to[i] = source[rows[i]] for i < count; `rows` is the address of int32; `row_bytes` a multiple of 4."""

    def scatter_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """to[rows[i]] = source[i] for i < count."""

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """Mark the work queued so far."""

    def wait(self, stream: CudaStream, event: CudaEvent) -> None:
        """Let the stream's later work begin only after the mark. The CPU does not wait."""

    def synchronize(self, event: CudaEvent) -> None:
        """Let the CPU wait for the mark."""

    def finish(self, stream: CudaStream) -> None:
        """Let the CPU wait for everything in the stream. Raises `RuntimeError` where some of it failed."""

    def capture(self, stream: CudaStream, enqueue: Callable[[], None]) -> CudaGraph | None:
        """What `enqueue` puts into the stream, recorded instead of done; None where the driver cannot."""

    def close(self) -> None:
        """Give the context back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtTraits:
    """What an installed TensorRT has, found out by looking, not by its version number."""

    layer_norm: bool
    """LayerNormalization is an operator (8.6 and later)."""
    flags: frozenset[str]
    """Precisions that the builder may choose by itself, tensor by tensor; none in 11."""
    strongly_typed: bool
    """The types of the graph can be made binding (10 and later)."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """All that it computes in."""
        typed = {"fp16", "bf16", "int8"} if self.strongly_typed else set()
        return ("fp32", *sorted(self.flags | typed))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """One graph to compile."""

    name: str
    onnx: bytes
    precision: str
    strongly_typed: bool
    keep_fp32: tuple[str, ...]
    """Names of nodes that the builder may not lower, where the types are not binding."""
    max_batch: int
    workspace_bytes: int
    timing_cache: bytes
    progress: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; the batch is -1."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Execution(Protocol):
    """One plan at one batch size, its tensors at fixed addresses."""

    def enqueue(self, stream: CudaStream) -> None:
        """Queue one inference. Raises `RuntimeError` where TensorRT refuses."""


class Plan(Protocol):
    """A loaded plan. The caller owns all memory that it works in."""

    tensors: Mapping[str, Tensor]
    scratch_bytes: int

    def execution(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Execution:
        """Fix the batch size, the tensors and the scratch memory, which executions may share if they take turns.

        Raises `AllocationError`.
        """


class Compiler(Protocol):
    """TensorRT: ONNX in, plan out."""

    version: str
    traits: TensorRtTraits

    def build(self, request: PlanRequest) -> tuple[bytes, bytes]:
        """(plan, timing cache). Raises `CompileError` naming what is not taken, `AllocationError`."""

    def load(self, plan: bytes) -> Plan:
        """Raises `StaleBlobError` for a plan of another version or device, or a damaged one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The two libraries, ready to work."""

    cuda: Cuda
    compiler: Compiler

"""Use CUDA through PyCUDA: the primary context, memory and streams; graphs, which PyCUDA lacks, through ctypes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycuda.driver as driver

from engines.backends.tensorrt.driver_values import (
    NON_BLOCKING,
    OUT_OF_MEMORY,
    PICTURE_KERNEL,
    ROW_KERNELS,
    THREAD_LOCAL,
    check_device_number,
    picture_grid,
    read_kernels,
    row_kernel_grid,
    version_text,
    wait_until_done,
)
from engines.backends.tensorrt.interface import (
    AllocationError,
    Array,
    CudaEvent,
    CudaGraph,
    CudaStream,
    GpuIdentity,
    PictureToScale,
)
from engines.backends.tensorrt.shared_memory import SharedMemory


class PyCudaDevice:
    """One GPU, by its number, in its primary context, which TensorRT and other libraries of this process use, too."""

    def __init__(self, index: int = 0) -> None:
        driver.init()
        check_device_number(index, driver.Device.count())
        device = driver.Device(index)
        self._context = device.retain_primary_context()
        major, minor = device.compute_capability()
        self.gpu = GpuIdentity(
            name=device.name(),
            compute_capability=f"{major}.{minor}",
            driver=version_text(driver.get_driver_version()),
            memory_bytes=device.total_memory(),
            bus=device.pci_bus_id(),
        )
        self._memory: dict[int, Any] = {}
        self._shared = SharedMemory(index)
        with self.active():
            # The driver compiles the kernels once, here.
            self._module = driver.module_from_buffer(read_kernels())
            self._kernels = {}
            for names, parameters in ((ROW_KERNELS, "PPPI"), ((PICTURE_KERNEL,), "PPPPII")):
                for name in names:
                    self._kernels[name] = self._module.get_function(name)
                    self._kernels[name].prepare(parameters)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See `Cuda.active`."""
        self._context.push()
        try:
            yield
        except driver.Error as error:  # PyCUDA's errors are no RuntimeErrors
            raise RuntimeError(f"the GPU reports: {error}") from error
        finally:
            driver.Context.pop()

    def free_bytes(self) -> int:
        """See `Cuda.free_bytes`."""
        return int(driver.mem_get_info()[0])

    def allocate(self, nbytes: int) -> int:
        """See `Cuda.allocate`."""
        try:
            memory = driver.mem_alloc(nbytes)
        except driver.MemoryError as error:
            raise AllocationError(nbytes) from error
        address = int(memory)
        self._memory[address] = memory  # PyCUDA frees memory without a reference
        return address

    def release(self, address: int) -> None:
        """See `Cuda.release`."""
        if address in self._shared:
            self._shared.release(address)
        else:
            self._memory.pop(address).free()

    def share(self, nbytes: int) -> tuple[int, int]:
        """See `Cuda.share`."""
        return self._shared.create(nbytes)

    def open_shared(self, fd: int, nbytes: int) -> int:
        """See `Cuda.open_shared`."""
        return self._shared.open(fd, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """See `Cuda.pinned`."""
        try:
            array: Array = driver.pagelocked_zeros(shape, np.dtype(dtype))
        except driver.MemoryError as error:
            raise AllocationError(int(np.prod(shape)) * np.dtype(dtype).itemsize) from error
        return array

    def stream(self) -> CudaStream:
        """See `Cuda.stream`."""
        stream: CudaStream = driver.Stream(NON_BLOCKING)
        return stream

    def event(self) -> CudaEvent:
        """See `Cuda.event`."""
        event: CudaEvent = driver.Event(driver.event_flags.DISABLE_TIMING)
        return event

    def upload(self, to: int, array: Array, stream: CudaStream) -> None:
        """See `Cuda.upload`."""
        driver.memcpy_htod_async(to, array, stream)

    def download(self, array: Array, source: int, stream: CudaStream) -> None:
        """See `Cuda.download`."""
        driver.memcpy_dtoh_async(array, source, stream)

    def copy(self, to: int, source: int, nbytes: int, stream: CudaStream) -> None:
        """See `Cuda.copy`."""
        driver.memcpy_dtod_async(to, source, nbytes, stream)

    def clear(self, address: int, nbytes: int, stream: CudaStream) -> None:
        """See `Cuda.clear`."""
        driver.memset_d8_async(address, 0, nbytes, stream)

    def gather_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """See `Cuda.gather_rows`."""
        self._launch_row_kernel("gather_rows", to, source, rows, count, row_bytes, stream)

    def scatter_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """See `Cuda.scatter_rows`."""
        self._launch_row_kernel("scatter_rows", to, source, rows, count, row_bytes, stream)

    def _launch_row_kernel(
        self, kernel: str, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream
    ) -> None:
        grid, block, words = row_kernel_grid(count, row_bytes)
        self._kernels[kernel].prepared_async_call(grid, block, stream, to, source, rows, words)

    def scale_picture(self, to: int, picture: PictureToScale, stream: CudaStream) -> None:
        """See `Cuda.scale_picture`."""
        grid, block = picture_grid(picture.columns, picture.rows)
        values = (picture.plan, picture.luma, picture.chroma, to, picture.luma_pitch, picture.chroma_pitch)
        self._kernels[PICTURE_KERNEL].prepared_async_call(grid, block, stream, *values)

    def follow_default_stream(self, stream: CudaStream, event: CudaEvent) -> None:
        """See `Cuda.follow_default_stream`."""
        event.record()  # type: ignore[attr-defined]  # PyCUDA's type
        self.wait(stream, event)

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """See `Cuda.record`."""
        event.record(stream)  # type: ignore[attr-defined]  # PyCUDA's type

    def wait(self, stream: CudaStream, event: CudaEvent) -> None:
        """See `Cuda.wait`."""
        stream.wait_for_event(event)  # type: ignore[attr-defined]

    def synchronize(self, event: CudaEvent) -> None:
        """See `Cuda.synchronize`."""
        _wait(event.query)  # type: ignore[attr-defined]

    def finish(self, stream: CudaStream) -> None:
        """See `Cuda.finish`."""
        _wait(stream.is_done)  # type: ignore[attr-defined]

    def capture(self, stream: CudaStream, enqueue: Callable[[], None]) -> CudaGraph | None:
        """See `Cuda.capture`."""
        library = ctypes.CDLL("libcuda.so.1")
        if not hasattr(library, "cuGraphInstantiateWithFlags"):  # drivers before CUDA 11.4
            return None
        handle, graph = ctypes.c_void_p(stream.handle), ctypes.c_void_p()
        _check(library.cuStreamBeginCapture_v2(handle, ctypes.c_int(THREAD_LOCAL)), "cuStreamBeginCapture")
        try:
            enqueue()
        except driver.Error as error:
            raise RuntimeError(f"the GPU reports while work is captured: {error}") from error
        finally:  # even after an error, or the stream stays in capture mode
            code = library.cuStreamEndCapture(handle, ctypes.byref(graph))
        _check(code, "cuStreamEndCapture")
        executable = ctypes.c_void_p()
        try:
            code = library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
            _check(code, "cuGraphInstantiate")
        finally:
            library.cuGraphDestroy(graph)
        return _ExecutableGraph(library=library, executable=executable)

    def close(self) -> None:
        """See `Cuda.close`."""
        with self.active():
            for address in list(self._memory):
                self.release(address)
            self._shared.close()
            del self._module, self._kernels
        self._context.detach()


@dataclass(frozen=True, slots=True, kw_only=True)
class _ExecutableGraph:
    library: Any
    executable: ctypes.c_void_p

    def launch(self, stream: CudaStream) -> None:
        _check(self.library.cuGraphLaunch(self.executable, ctypes.c_void_p(stream.handle)), "cuGraphLaunch")

    def __del__(self) -> None:
        self.library.cuGraphExecDestroy(self.executable)


def _check(code: int, call: str) -> None:
    if code == OUT_OF_MEMORY:
        raise AllocationError
    if code:
        raise RuntimeError(f"{call} failed with CUresult {code}")


def _wait(is_done: Callable[[], bool]) -> None:
    try:
        wait_until_done(is_done)
    except driver.Error as error:
        raise RuntimeError(f"the GPU reports: {error}") from error

"""Use CUDA through NVIDIA's `cuda-bindings`, for machines without PyCUDA: it has ready wheels and needs no compiler."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver

from engines.backends.tensorrt.driver_values import (
    KERNELS,
    NON_BLOCKING,
    PICTURE_KERNEL,
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

_ROW_KERNEL_TYPES = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)
_PICTURE_KERNEL_TYPES = (*(ctypes.c_void_p,) * 4, ctypes.c_uint, ctypes.c_uint)


class CudaBindingsDevice:
    """One GPU, by its number, in its primary context, which TensorRT and other libraries of this process use, too."""

    def __init__(self, index: int = 0) -> None:
        _call(driver.cuInit, 0)
        check_device_number(index, _call(driver.cuDeviceGetCount))
        self._device = _call(driver.cuDeviceGet, index)
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._device)
        attributes = driver.CUdevice_attribute
        major, minor = (
            _call(driver.cuDeviceGetAttribute, attribute, self._device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.gpu = GpuIdentity(
            name=_call(driver.cuDeviceGetName, 256, self._device).split(b"\0")[0].decode(),
            compute_capability=f"{major}.{minor}",
            driver=version_text(_call(driver.cuDriverGetVersion)),
            memory_bytes=_call(driver.cuDeviceTotalMem, self._device),
            bus=_call(driver.cuDeviceGetPCIBusId, 32, self._device).split(b"\0")[0].decode(),
        )
        self._memory: set[int] = set()
        self._shared = SharedMemory(index)
        with self.active():
            # The driver compiles the kernels once, here. It reads PTX up to a zero byte.
            self._module = _call(driver.cuModuleLoadData, read_kernels() + b"\0")
            self._kernels = {name: _call(driver.cuModuleGetFunction, self._module, name.encode()) for name in KERNELS}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See `Cuda.active`."""
        _call(driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            driver.cuCtxPopCurrent()

    def free_bytes(self) -> int:
        """See `Cuda.free_bytes`."""
        free, _ = _call(driver.cuMemGetInfo)
        return int(free)

    def allocate(self, nbytes: int) -> int:
        """See `Cuda.allocate`."""
        address = int(_call(driver.cuMemAlloc, nbytes, nbytes=nbytes))
        self._memory.add(address)
        return address

    def release(self, address: int) -> None:
        """See `Cuda.release`."""
        if address in self._shared:
            self._shared.release(address)
            return
        self._memory.remove(address)
        _call(driver.cuMemFree, address)

    def share(self, nbytes: int) -> tuple[int, int]:
        """See `Cuda.share`."""
        return self._shared.create(nbytes)

    def open_shared(self, fd: int, nbytes: int) -> int:
        """See `Cuda.open_shared`."""
        return self._shared.open(fd, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """See `Cuda.pinned`."""
        return np.asarray(_PinnedMemory(shape, np.dtype(dtype)))

    def stream(self) -> CudaStream:
        """See `Cuda.stream`."""
        return _Stream()

    def event(self) -> CudaEvent:
        """See `Cuda.event`."""
        return _Event()

    def upload(self, to: int, array: Array, stream: CudaStream) -> None:
        """See `Cuda.upload`."""
        _call(driver.cuMemcpyHtoDAsync, to, array.ctypes.data, array.nbytes, stream.handle)

    def download(self, array: Array, source: int, stream: CudaStream) -> None:
        """See `Cuda.download`."""
        _call(driver.cuMemcpyDtoHAsync, array.ctypes.data, source, array.nbytes, stream.handle)

    def copy(self, to: int, source: int, nbytes: int, stream: CudaStream) -> None:
        """See `Cuda.copy`."""
        _call(driver.cuMemcpyDtoDAsync, to, source, nbytes, stream.handle)

    def clear(self, address: int, nbytes: int, stream: CudaStream) -> None:
        """See `Cuda.clear`."""
        _call(driver.cuMemsetD8Async, address, 0, nbytes, stream.handle)

    def gather_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """See `Cuda.gather_rows`."""
        self._launch_row_kernel("gather_rows", (to, source, rows), count, row_bytes, stream)

    def scatter_rows(self, to: int, source: int, rows: int, count: int, row_bytes: int, stream: CudaStream) -> None:
        """See `Cuda.scatter_rows`."""
        self._launch_row_kernel("scatter_rows", (to, source, rows), count, row_bytes, stream)

    def _launch_row_kernel(
        self, kernel: str, addresses: tuple[int, int, int], count: int, row_bytes: int, stream: CudaStream
    ) -> None:
        grid, block, words = row_kernel_grid(count, row_bytes)
        arguments = ((*addresses, words), _ROW_KERNEL_TYPES)
        _call(driver.cuLaunchKernel, self._kernels[kernel], *grid, 1, *block, 0, stream.handle, arguments, 0)

    def scale_picture(self, to: int, picture: PictureToScale, stream: CudaStream) -> None:
        """See `Cuda.scale_picture`."""
        grid, block = picture_grid(picture.columns, picture.rows)
        values = (picture.plan, picture.luma, picture.chroma, to, picture.luma_pitch, picture.chroma_pitch)
        kernel, arguments = self._kernels[PICTURE_KERNEL], (values, _PICTURE_KERNEL_TYPES)
        _call(driver.cuLaunchKernel, kernel, *grid, 1, *block, 0, stream.handle, arguments, 0)

    def follow_default_stream(self, stream: CudaStream, event: CudaEvent) -> None:
        """See `Cuda.follow_default_stream`."""
        _call(driver.cuEventRecord, event.handle, 0)  # type: ignore[attr-defined]  # our own type
        self.wait(stream, event)

    def record(self, event: CudaEvent, stream: CudaStream) -> None:
        """See `Cuda.record`."""
        _call(driver.cuEventRecord, event.handle, stream.handle)  # type: ignore[attr-defined]  # our own type

    def wait(self, stream: CudaStream, event: CudaEvent) -> None:
        """See `Cuda.wait`."""
        _call(driver.cuStreamWaitEvent, stream.handle, event.handle, 0)  # type: ignore[attr-defined]

    def synchronize(self, event: CudaEvent) -> None:
        """See `Cuda.synchronize`."""
        wait_until_done(lambda: _is_done(driver.cuEventQuery(event.handle)))  # type: ignore[attr-defined]

    def finish(self, stream: CudaStream) -> None:
        """See `Cuda.finish`."""
        wait_until_done(lambda: _is_done(driver.cuStreamQuery(stream.handle)))

    def capture(self, stream: CudaStream, enqueue: Callable[[], None]) -> CudaGraph | None:
        """See `Cuda.capture`."""
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL  # other threads may go on
        _call(driver.cuStreamBeginCapture, stream.handle, mode)
        try:
            enqueue()
        finally:  # even after an error, or the stream stays in capture mode
            code, graph = driver.cuStreamEndCapture(stream.handle)
        _check(code, "cuStreamEndCapture")
        try:
            return _ExecutableGraph(_call(driver.cuGraphInstantiate, graph, 0))
        finally:
            driver.cuGraphDestroy(graph)

    def close(self) -> None:
        """See `Cuda.close`."""
        with self.active():
            for address in list(self._memory):
                self.release(address)
            self._shared.close()
            self._kernels.clear()
            _call(driver.cuModuleUnload, self._module)
        _call(driver.cuDevicePrimaryCtxRelease, self._device)


class _PinnedMemory:
    """Page-locked host memory, which NumPy arrays keep alive."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        nbytes = max(1, int(np.prod(shape)) * dtype.itemsize)
        self._address = int(_call(driver.cuMemHostAlloc, nbytes, 0, nbytes=nbytes))
        ctypes.memset(self._address, 0, nbytes)
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (self._address, False),
        }

    def __del__(self) -> None:
        if address := getattr(self, "_address", 0):
            driver.cuMemFreeHost(address)


class _Stream:
    """See `CudaStream`."""

    def __init__(self) -> None:
        self._stream = _call(driver.cuStreamCreate, NON_BLOCKING)
        self.handle = int(self._stream)

    def __del__(self) -> None:
        if stream := getattr(self, "_stream", None):
            driver.cuStreamDestroy(stream)


class _Event:
    """See `CudaEvent`."""

    def __init__(self) -> None:
        self._event = _call(driver.cuEventCreate, int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        self.handle = int(self._event)

    def __del__(self) -> None:
        if event := getattr(self, "_event", None):
            driver.cuEventDestroy(event)


class _ExecutableGraph:
    """See `CudaGraph`."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def launch(self, stream: CudaStream) -> None:
        _call(driver.cuGraphLaunch, self._graph, stream.handle)

    def __del__(self) -> None:
        driver.cuGraphExecDestroy(self._graph)


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any, nbytes: int | None = None) -> Any:
    """Call the driver; return its result, or its results as a tuple.

    Raises `AllocationError` with `nbytes`, and `RuntimeError` for other errors.
    """
    code, *results = function(*arguments)
    _check(code, function.__name__, nbytes)
    return results[0] if len(results) == 1 else tuple(results)


def _check(code: Any, call: str, nbytes: int | None = None) -> None:
    if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise AllocationError(nbytes)
    if code != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(code)
        raise RuntimeError(f"the GPU reports: {call}: {text.decode() if text else code.name}")


def _is_done(result: tuple[Any]) -> bool:
    (code,) = result
    if code == driver.CUresult.CUDA_ERROR_NOT_READY:
        return False
    _check(code, "waiting")
    return True

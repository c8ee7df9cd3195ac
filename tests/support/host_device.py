"""Let the double of TensorRT compute in the memory of a CUDA adapter over the driver of cuda_driver.c."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from support.gpu_double import DoubleCompiler, DoublePlan

import engines.backends.tensorrt
import engines.opening
from engines.backends.tensorrt.interface import Platform
from engines.backends.tensorrt.requirements import find_bindings, find_pycuda


def host_device(adapter: Any) -> Any:
    """Return the class of an adapter's device, with the methods by which the double of TensorRT uses its memory."""

    class HostDevice(adapter):  # type: ignore[misc]
        def check(self) -> None:
            """Fail without a current context."""
            self.free_bytes()

        def view(self, address: int, nbytes: int) -> np.ndarray[Any, Any]:
            """Return the bytes at an address, which the driver allocated in host memory."""
            return np.ctypeslib.as_array((ctypes.c_uint8 * max(nbytes, 1)).from_address(address))[:nbytes]

        def capture(self, stream: Any, enqueue: Any) -> None:
            return None  # the double computes outside the driver, so a graph would not contain its work

    return HostDevice


class ImmediateExecution:
    """An execution that computes at once, because the substitute driver has no queue."""

    def __init__(self, plan: DoublePlan, batch: int, addresses: Mapping[str, int]) -> None:
        self._plan, self._batch, self._addresses = plan, batch, addresses

    def enqueue(self, stream: Any) -> None:
        assert stream.handle
        self._plan.infer(self._batch, self._addresses)


class ImmediatePlan(DoublePlan):
    """A plan that makes immediate executions."""

    def execution(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Any:
        return ImmediateExecution(self, batch, addresses)


class ImmediateCompiler(DoubleCompiler):
    """A compiler that loads immediate plans."""

    def load(self, plan: bytes) -> ImmediatePlan:
        loaded = super().load(plan)
        loaded.__class__ = ImmediatePlan
        return loaded  # type: ignore[return-value]


def use_host_devices() -> None:
    """Let engines of this process open the first adapter that is installed, and the double of TensorRT on it."""

    def load_platform(device: int | None = None) -> Platform:
        try:
            adapter = find_pycuda()
        except ImportError:
            adapter = find_bindings()
        cuda = host_device(adapter)(device or 0)
        return Platform(cuda=cuda, compiler=ImmediateCompiler(cuda))  # type: ignore[arg-type]

    engines.backends.tensorrt.load_platform = load_platform  # type: ignore[assignment]
    engines.opening.missing_libraries = lambda backend: []  # type: ignore[assignment]

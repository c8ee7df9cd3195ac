"""Check the adapter on the real PyCUDA; test_pycuda.py runs this where `libcuda.so.1` is built from cuda_driver.c."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from support.bundles import expected_logits, make_brightness_bundle
from support.gpu_double import DoubleCompiler, DoublePlan

import engines.backends.tensorrt
import engines.backends.tensorrt.cuda
import engines.opening
from engines.backends.tensorrt.cuda import PyCudaDevice
from engines.backends.tensorrt.interface import AllocationError, Platform
from engines.errors import DeviceMemoryError
from engines.opening import open_engine
from engines.parity import softmax
from engines.protocol import Engine


class HostDevice(PyCudaDevice):
    """The adapter's device, with the methods by which the double of TensorRT computes in its memory."""

    def check(self) -> None:
        """Fail without a current context."""
        self.free_bytes()

    def view(self, address: int, nbytes: int) -> np.ndarray[Any, Any]:
        """Return the bytes at an address, which the driver allocated in host memory."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * max(nbytes, 1)).from_address(address))[:nbytes]

    def capture(self, stream: Any, enqueue: Any) -> None:
        return None  # the double computes outside the driver, so a graph would not contain its work


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


def check_device(driver: ctypes.CDLL) -> None:
    device = PyCudaDevice()
    assert (device.gpu.name, device.gpu.compute_capability, device.gpu.driver) == ("host memory", "9.0", "12.8")
    with device.active():
        check_rows(device)
        check_that_a_hanging_gpu_is_reported(device, driver)
    device.close()
    assert driver.live_allocations() == 0, driver.live_allocations()


def check_that_a_hanging_gpu_is_reported(device: PyCudaDevice, driver: ctypes.CDLL) -> None:
    engines.backends.tensorrt.cuda.MAX_WAIT_S = 0.1  # type: ignore[misc]
    driver.hang(1)
    try:
        device.finish(device.stream())
    except RuntimeError as error:
        assert "has not finished its work" in str(error)  # noqa: PT017 - not run by pytest
    else:
        raise AssertionError("waiting for a stream that never ends has returned without an error")
    driver.hang(0)


def check_rows(device: PyCudaDevice) -> None:
    stream = device.stream()
    rows = device.pinned((3,), np.int32)
    values = device.pinned((4, 5), np.float32)
    result = device.pinned((3, 5), np.float32)
    source, index, target, back = (device.allocate(n) for n in (80, 12, 60, 80))

    def work() -> None:
        device.upload(source, values, stream)
        device.upload(index, rows, stream)
        device.gather_rows(target, source, index, 3, 20, stream)
        device.clear(back, 80, stream)
        device.scatter_rows(back, target, index, 3, 20, stream)
        device.download(result, target, stream)

    graph = device.capture(stream, work)
    assert graph is not None
    for seed in range(3):
        values[:] = np.random.default_rng(seed).normal(size=(4, 5))
        rows[:] = np.random.default_rng(seed).permutation(4)[:3]
        graph.launch(stream)
        device.finish(stream)
        np.testing.assert_array_equal(result, values[rows])
    event = device.event()
    device.record(event, stream)
    device.wait(device.stream(), event)
    device.synchronize(event)
    try:
        device.allocate(1 << 40)
    except AllocationError as error:
        assert error.nbytes == 1 << 40  # noqa: PT017 - not run by pytest
    else:
        raise AssertionError("an allocation of 2**40 bytes did not fail")


def check_classification(engine: Engine) -> bool:
    chunks = np.random.default_rng(0).integers(0, 256, (12, 2, 16, 16, 3), np.uint8)
    for begin in (0, 5, 10):
        part = chunks[begin : begin + 5]
        engine.encode(part, np.arange(begin, begin + len(part), dtype=np.int32))
    windows = np.array([[0, 1, 2, 3], [8, 9, 10, 11], [5, 5, 1, 11]], np.int32)
    expected = [softmax(expected_logits(chunks[window])) for window in windows]
    np.testing.assert_allclose(engine.classify(windows), expected, atol=1e-4)
    return True


def check_engine(driver: ctypes.CDLL, folder: Path) -> None:
    bundle = make_brightness_bundle(folder / "bundle")
    engines.opening.missing_libraries = lambda backend: []  # type: ignore[assignment]

    def load_platform() -> Platform:
        device = HostDevice()
        return Platform(cuda=device, compiler=ImmediateCompiler(device))  # type: ignore[arg-type]

    engines.backends.tensorrt.load_platform = load_platform  # type: ignore[assignment]
    engine = open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=5, bank_slots=12)
    before = driver.live_allocations()
    assert before > 0
    check_classification(engine)
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(check_classification(engine)))
    thread.start()
    thread.join(20)
    assert done == [True]
    assert driver.live_allocations() == before
    engine.close()
    driver.set_memory(ctypes.c_size_t(4096))
    try:
        open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=2)
    except DeviceMemoryError as error:
        assert "batch 1 needs" in str(error)  # noqa: PT017
    else:
        raise AssertionError("the engine opened with 4 KiB of memory")


if __name__ == "__main__":
    library = ctypes.CDLL("libcuda.so.1")
    check_device(library)
    check_engine(library, Path(sys.argv[1]))
    print("all checks passed")

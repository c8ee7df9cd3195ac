"""Check a CUDA adapter; test_cuda_adapters.py runs this where `libcuda.so.1` is built from cuda_driver.c."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from support.bundles import expected_logits, make_brightness_bundle
from support.host_device import ImmediateCompiler, host_device
from support.scaled_pictures import scale_by_plan

import engines.backends.tensorrt
import engines.opening
from engines.activation import softmax
from engines.backends.tensorrt import driver_values
from engines.backends.tensorrt.interface import AllocationError, Cuda, PictureToScale, Platform
from engines.backends.tensorrt.requirements import find_bindings, find_pycuda
from engines.errors import DeviceError, DeviceMemoryError
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.config.picture_area import PictureArea
from streamclf.sources.card_plan import PictureKind, plan_picture
from streamclf.sources.picture_part import part_of

Device: Any = {"pycuda": find_pycuda, "cuda.bindings": find_bindings}[sys.argv[1]]()
"""The class of the adapter."""
HostDevice = host_device(Device)


def check_that_an_unknown_number_is_refused() -> None:
    try:
        Device(1)
    except driver_values.DeviceNumberError as error:
        assert "GPU 1: CUDA sees the numbers 0" in str(error)  # noqa: PT017 - not run by pytest
    else:
        raise AssertionError("a GPU with the number 1 was opened")


def check_device(driver: ctypes.CDLL) -> None:
    check_that_an_unknown_number_is_refused()
    device = Device()
    assert (device.gpu.name, device.gpu.compute_capability, device.gpu.driver) == ("host memory", "9.0", "12.8")
    with device.active():
        check_rows(device)
        check_that_a_hanging_gpu_is_reported(device, driver)
        check_that_an_error_in_a_capture_is_reported(device, driver)
        check_shared_memory(device, driver)
        check_scaling(device)
    device.close()
    check_that_nothing_is_left(driver)


def check_that_nothing_is_left(driver: ctypes.CDLL) -> None:
    left = (driver.live_allocations(), driver.live_objects())
    assert left == (0, 0), f"{left[0]} bytes and {left[1]} streams, events and graphs were not freed"


def check_that_an_error_in_a_capture_is_reported(device: Cuda, driver: ctypes.CDLL) -> None:
    """PyCUDA's own errors are no RuntimeErrors, so the engine would not fall back to work without graphs."""
    stream, array = device.stream(), device.pinned((4,), np.int32)
    driver.fail_copies(700)
    try:
        device.capture(stream, lambda: device.upload(device.allocate(16), array, stream))
    except RuntimeError as error:
        assert "the GPU reports" in str(error)  # noqa: PT017 - not run by pytest
    else:
        raise AssertionError("a capture of work that fails has returned without an error")
    finally:
        driver.fail_copies(0)


def check_that_a_hanging_gpu_is_reported(device: Cuda, driver: ctypes.CDLL) -> None:
    driver_values.MAX_WAIT_S = 0.1  # type: ignore[misc]
    driver.hang(1)
    try:
        device.finish(device.stream())
    except RuntimeError as error:
        assert "has not finished its work" in str(error)  # noqa: PT017 - not run by pytest
    else:
        raise AssertionError("waiting for a stream that never ends has returned without an error")
    driver.hang(0)


def check_rows(device: Cuda) -> None:
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


def check_shared_memory(device: Cuda, driver: ctypes.CDLL) -> None:
    """Two contexts use the same memory, and it outlives the one that allocated it."""
    before = driver.live_allocations()
    stream, values, result = device.stream(), device.pinned((4,), np.int32), device.pinned((4,), np.int32)
    values[:] = 5, 6, 7, 8
    address, fd = device.share(1000)
    other = Device()
    with other.active():
        mapped = other.open_shared(fd, 1000)
        other.upload(mapped, values, stream)
    device.download(result, address, stream)
    device.finish(stream)
    np.testing.assert_array_equal(result, values)
    device.release(address)
    os.close(fd)
    result[:] = 0
    with other.active():
        other.download(result, mapped, stream)
    np.testing.assert_array_equal(result, values)
    other.close()
    del stream, values, result
    assert driver.live_allocations() == before
    try:
        device.share(1 << 40)
    except AllocationError as error:
        assert error.nbytes == 1 << 40  # noqa: PT017
    else:
        raise AssertionError("sharing 2**40 bytes did not fail")
    driver.forbid_sharing(1)
    try:
        device.share(1000)
    except RuntimeError as error:
        assert "cannot share memory" in str(error)  # noqa: PT017
    else:
        raise AssertionError("sharing did not fail")
    finally:
        driver.forbid_sharing(0)


def check_scaling(device: Cuda) -> None:
    kind = PictureKind(columns=64, rows=48, bits=8, colorspace=1, color_range=1)
    random, stream, event = np.random.default_rng(0), device.stream(), device.event()
    for target in ((16, 20), (16, 21)):
        plan = plan_picture(kind, part_of(64, 48, PictureArea(flip="horizontal")), target, "letterbox")
        words, planes = device.pinned(plan.words.shape, np.int32), device.pinned((72, 80), np.uint8)
        out = device.pinned((*target, 3), np.uint8)
        words[:], planes[:] = plan.words, random.integers(0, 256, planes.shape)
        at = [device.allocate(array.nbytes) for array in (words, planes, out)]
        device.upload(at[0], words, stream)
        device.upload(at[1], planes, stream)
        device.follow_default_stream(stream, event)
        luma, chroma = at[1], at[1] + 48 * 80
        picture = PictureToScale(
            plan=at[0], luma=luma, chroma=chroma, luma_pitch=80, chroma_pitch=80, columns=plan.columns, rows=plan.rows
        )
        device.scale_picture(at[2], picture, stream)
        device.download(out, at[2], stream)
        device.finish(stream)
        expected = np.zeros_like(out)
        scale_by_plan(plan.words, planes[:48].reshape(-1), planes[48:].reshape(-1), (80, 80), expected.reshape(-1))
        np.testing.assert_array_equal(out, expected)
        for address in at:
            device.release(address)


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

    def load_platform(device: int | None) -> Platform:
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
    check_that_features_are_moved_by_another_thread(engine)
    assert driver.live_allocations() == before, "pinned memory of a moved bank was not freed"
    check_chunks_of_the_device(engine)
    check_that_an_error_of_the_device_is_named(engine, driver)
    engine.close()
    check_that_nothing_is_left(driver)
    driver.set_memory(ctypes.c_size_t(4096))
    try:
        open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=2)
    except DeviceMemoryError as error:
        assert "batch 1 needs" in str(error)  # noqa: PT017
    else:
        raise AssertionError("the engine opened with 4 KiB of memory")


def check_chunks_of_the_device(engine: Engine) -> None:
    chunks = np.random.default_rng(7).integers(0, 256, (4, 2, 16, 16, 3), np.uint8)
    memory = engine.share_memory(2)
    pixels = np.frombuffer(mmap.mmap(memory.fd, 0), np.uint8)
    for row, chunk in enumerate(chunks):
        pixels[row % 2 * memory.stride :][: chunk.nbytes] = chunk.reshape(-1)
        engine.fetch(memory, row % 2, row)
    engine.encode_device(np.array([0, 1, 2, 3], np.int32))
    found = engine.classify(np.array([[0, 1, 2, 3]], np.int32))
    np.testing.assert_allclose(found, softmax(expected_logits(chunks))[None], atol=1e-4)
    memory.close()


def check_that_features_are_moved_by_another_thread(engine: Engine) -> None:
    features = np.random.default_rng(3).normal(size=(3, *engine.spec.feature_shape)).astype(np.float32)
    slots = np.array([4, 0, 7], np.int32)
    thread = threading.Thread(target=lambda: engine.write_features(features, slots))  # type: ignore[attr-defined]
    thread.start()
    thread.join(20)
    np.testing.assert_array_equal(engine.read_features(slots), features)  # type: ignore[attr-defined]


def check_that_an_error_of_the_device_is_named(engine: Engine, driver: ctypes.CDLL) -> None:
    driver.fail_copies(700)
    try:
        engine.encode(np.zeros((1, 2, 16, 16, 3), np.uint8), np.zeros(1, np.int32))
    except DeviceError as error:
        assert "restart the process" in str(error)  # noqa: PT017 - not run by pytest
    else:
        raise AssertionError("an error of the device is no DeviceError")
    finally:
        driver.fail_copies(0)


if __name__ == "__main__":
    library = ctypes.CDLL("libcuda.so.1")
    check_device(library)
    check_engine(library, Path(sys.argv[2]))
    print("all checks passed")

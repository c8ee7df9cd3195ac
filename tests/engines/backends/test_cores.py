"""The number of cores that a graph gets depends on how long one core takes for it."""

import time

import pytest

import engines.backends.cores
import engines.backends.onnxruntime
import engines.backends.openvino
from engines.backends.names import Backend
from engines.bundle import Bundle
from engines.opening import open_engine


@pytest.mark.parametrize(
    ("item_s", "streams", "needs_more"),
    [
        (0.007, 1, False),
        (0.009, 3, True),
        (0.004, 4, False),
        (0.004, 6, True),
        (0.0011, 400, False),
        (0.0013, 400, True),
    ],
)
def test_a_graph_needs_more_cores_if_one_is_too_slow(item_s: float, streams: int, needs_more: bool) -> None:
    assert engines.backends.cores.needs_more_cores(item_s, streams=streams, max_batch=16) is needs_more


def test_a_graph_that_waits_for_a_core_does_not_count_as_slow() -> None:
    wait_s = engines.backends.cores.MIN_WORK_S
    assert engines.backends.cores.measure_call_s(lambda: time.sleep(wait_s)) < wait_s / 2


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("min_work_s", "threads"), [(1e-9, [1, 3, 1, 3]), (3600.0, [1, 1])])
def test_a_small_graph_gets_one_core_and_a_large_one_all(
    brightness: Bundle, monkeypatch: pytest.MonkeyPatch, backend: Backend, min_work_s: float, threads: list[int]
) -> None:
    monkeypatch.setattr(engines.backends.cores, "MIN_WORK_S", min_work_s)
    threads_of_loads: list[int] = []
    if backend == "openvino":
        restore = engines.backends.openvino._load_or_compile
        monkeypatch.setattr(
            engines.backends.openvino,
            "_load_or_compile",
            lambda *args: threads_of_loads.append(args[-1]["INFERENCE_NUM_THREADS"]) or restore(*args),
        )
    else:
        open_session = engines.backends.onnxruntime._open_session
        monkeypatch.setattr(
            engines.backends.onnxruntime,
            "_open_session",
            lambda *args: threads_of_loads.append(args[-1]) or open_session(*args),
        )
    open_engine(brightness, backend=backend, precision="fp32", max_batch=5, threads=3).close()
    assert threads_of_loads == threads

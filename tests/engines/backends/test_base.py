"""Every backend fulfils the same contract: the same tests run on each adapter that this machine can load."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.bundles import expected_logits, random_chunks

from engines.activation import softmax
from engines.backends.base import CheckedEngine
from engines.backends.names import Backend
from engines.background_upgrade import move_features
from engines.bundle import Bundle
from engines.errors import EngineInputError
from engines.opening import open_engine
from engines.parity import TOLERANCE
from engines.protocol import Engine, SharingEngine

MAX_BATCH = 5
SLOTS = 12


@pytest.fixture
def engine(backend: Backend, brightness: Bundle) -> Iterator[Engine]:
    engine = open_engine(
        brightness, backend=backend, precision="fp32", max_batch=MAX_BATCH, bank_slots=SLOTS, threads=1
    )
    yield engine
    engine.close()


def test_every_batch_size_gives_the_same_numbers(engine: Engine) -> None:
    chunks = random_chunks(10)
    for size in range(1, MAX_BATCH + 1):
        for begin in range(0, 10, size):
            part = chunks[begin : begin + size]
            engine.encode(part, np.arange(begin, begin + len(part), dtype=np.int32))
        windows = np.array([range(first, first + 4) for first in range(MAX_BATCH)], np.int32)
        expected = [softmax(expected_logits(chunks[first : first + 4])) for first in range(MAX_BATCH)]
        np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])


def test_slots_reused_in_any_order_give_the_same_numbers(engine: Engine) -> None:
    random = np.random.default_rng(3)
    expected_chunks: dict[int, np.ndarray] = {}
    for step in range(40):
        count = int(random.integers(1, MAX_BATCH + 1))
        slots = random.permutation(SLOTS)[:count].astype(np.int32)
        chunks = random_chunks(count, seed=step)
        engine.encode(chunks, slots)
        expected_chunks.update(zip(slots.tolist(), chunks, strict=True))
        window = random.choice(list(expected_chunks), 4)
        actual = engine.classify(window[None].astype(np.int32))[0]
        expected = softmax(expected_logits(np.stack([expected_chunks[slot] for slot in window])))
        np.testing.assert_allclose(actual, expected, atol=TOLERANCE["fp32"])


def test_features_copied_to_another_engine_give_the_same_numbers(engine: Engine, brightness: Bundle) -> None:
    """A service changes to another engine in the middle of its windows. Slots may be in any order."""
    chunks = random_chunks(SLOTS, seed=6)
    other = open_engine(brightness, backend="onnxruntime", precision="fp32", max_batch=7, bank_slots=SLOTS, threads=1)
    try:
        for begin in range(0, SLOTS, 4):
            other.encode(chunks[begin : begin + 4], np.arange(begin, begin + 4, dtype=np.int32))
        engine.encode(random_chunks(MAX_BATCH), np.arange(MAX_BATCH, dtype=np.int32))  # will be overwritten
        move_features(other, engine)
    finally:
        other.close()
    windows = np.array([[11, 0, 5, 3], [8, 9, 10, 11]], np.int32)
    expected = [softmax(expected_logits(chunks[window])) for window in windows]
    np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])
    slots = np.array([7, 2, 2], np.int32)
    read = engine.read_features(slots)
    assert read.shape == (3, *brightness.spec.feature_shape)
    before = read.copy()
    engine.write_features(read[::-1] + 1, np.array([2, 3, 7], np.int32))
    np.testing.assert_array_equal(read, before)  # the array is the caller's
    np.testing.assert_allclose(engine.read_features(slots), before[[0, 2, 2]] + 1)


def test_features_of_another_shape_are_refused(engine: Engine) -> None:
    slots = np.array([0, 1], np.int32)
    for features in (np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float64), np.zeros((0, 3), np.float32)):
        with pytest.raises(EngineInputError, match=r"features: float\d\d .* expected float32 \(1 to 5, 3\)"):
            engine.write_features(features, slots[: len(features)])  # type: ignore[arg-type]
    with pytest.raises(EngineInputError, match="features: 1 for 2 slots"):
        engine.write_features(np.zeros((1, 3), np.float32), slots)
    with pytest.raises(EngineInputError, match="slot 12; the bank has 0 to 11"):
        engine.read_features(np.array([12], np.int32))
    with pytest.raises(EngineInputError, match=r"slots: int32 \(6,\), expected int32 \(1 to 5\)"):
        engine.read_features(np.arange(6, dtype=np.int32))


def test_later_calls_do_not_change_a_result(engine: Engine) -> None:
    engine.encode(random_chunks(5), np.arange(5, dtype=np.int32))
    first = engine.classify(np.array([[0, 1, 2, 3]], np.int32))
    before = first.copy()
    engine.encode(random_chunks(5, seed=9), np.arange(5, dtype=np.int32))
    engine.classify(np.array([[1, 2, 3, 4]], np.int32))
    np.testing.assert_array_equal(first, before)


def test_frames_may_be_a_view_of_a_larger_array(engine: Engine) -> None:
    wide = np.zeros((3, 2, 16, 32, 3), np.uint8)
    wide[:, :, :, ::2] = random_chunks(3, seed=4)
    engine.encode(wide[:, :, :, ::2], np.arange(3, dtype=np.int32))
    actual = engine.classify(np.array([[0, 1, 2, 2]], np.int32))[0]
    expected = softmax(expected_logits(wide[[0, 1, 2, 2], :, :, ::2]))
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE["fp32"])


@pytest.mark.parametrize(
    ("frames", "slots", "message"),
    [
        (np.zeros((6, 2, 16, 16, 3), np.uint8), np.arange(6, dtype=np.int32), r"expected uint8 \(1 to 5"),
        (np.zeros((0, 2, 16, 16, 3), np.uint8), np.arange(0, dtype=np.int32), r"expected uint8 \(1 to 5"),
        (np.zeros((1, 2, 16, 17, 3), np.uint8), np.arange(1, dtype=np.int32), "frames: uint8"),
        (np.zeros((1, 2, 16, 16, 3), np.float32), np.arange(1, dtype=np.int32), "frames: float32"),
        (np.zeros((2, 2, 16, 16, 3), np.uint8), np.arange(1, dtype=np.int32), "one slot for each chunk"),
        (np.zeros((1, 2, 16, 16, 3), np.uint8), np.array([12], np.int32), "slot 12; the bank has 0 to 11"),
        (np.zeros((1, 2, 16, 16, 3), np.uint8), np.array([-1], np.int32), "slot -1"),
        (np.zeros((2, 2, 16, 16, 3), np.uint8), np.array([1, 1], np.int32), "occurs twice"),
    ],
)
def test_wrong_frames_are_refused_with_the_expected_shape(
    engine: Engine, frames: np.ndarray, slots: np.ndarray, message: str
) -> None:
    with pytest.raises(EngineInputError, match=message):
        engine.encode(frames, slots)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (np.zeros((1, 3), np.int32), r"\(1 to 5, 4\)"),
        (np.zeros((6, 4), np.int32), r"\(1 to 5, 4\)"),
        (np.full((1, 4), 12, np.int32), "slot 12"),
        (np.zeros((1, 4), np.int64), "int64"),
    ],
)
def test_wrong_windows_are_refused(engine: Engine, windows: np.ndarray, message: str) -> None:
    with pytest.raises(EngineInputError, match=message):
        engine.classify(windows)


def test_close_may_be_called_twice_and_later_calls_are_refused(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineInputError, match="closed"):
        engine.classify(np.zeros((1, 4), np.int32))


class BlockingEngine(CheckedEngine):
    """An engine whose `encode` returns only after `leave` is set."""

    def __init__(self, brightness: Bundle) -> None:
        super().__init__(brightness.spec, max_batch=1, bank_slots=4, description="blocking", precision="fp32")
        self.entered, self.leave = threading.Event(), threading.Event()

    def _encode(self, frames: np.ndarray, slots: np.ndarray) -> None:
        self.entered.set()
        assert self.leave.wait(60)

    def _submit(self, windows: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: np.zeros((len(windows), 2), np.float32)

    def _read_features(self, slots: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _write_features(self, features: np.ndarray, slots: np.ndarray) -> None:
        raise NotImplementedError

    def _share_bank(self, owner: object) -> None:
        raise NotImplementedError

    def _drop_head(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        pass


def test_a_second_thread_is_refused_at_once(brightness: Bundle) -> None:
    engine = BlockingEngine(brightness)
    call = (np.zeros((1, 2, 16, 16, 3), np.uint8), np.zeros(1, np.int32))
    thread = threading.Thread(target=engine.encode, args=call)
    thread.start()
    try:
        assert engine.entered.wait(60)
        with pytest.raises(EngineInputError, match="another thread"):
            engine.encode(*call)
    finally:
        engine.leave.set()
        thread.join(60)


def test_only_one_result_may_wait(brightness: Bundle) -> None:
    engine = BlockingEngine(brightness)
    windows = np.zeros((1, 4), np.int32)
    take = engine.submit(windows)
    with pytest.raises(EngineInputError, match="the result of the last submit was not taken"):
        engine.submit(windows)
    assert take().shape == (1, 2)
    engine.submit(windows)


def test_an_engine_without_a_gpu_takes_no_chunks_from_one(engine: SharingEngine) -> None:
    if engine.description.startswith("tensorrt"):
        pytest.skip("it has a GPU: tests/engines/backends/tensorrt/test_device_chunks.py")
    assert not engine.takes_device_chunks
    with pytest.raises(EngineInputError, match="from the host's memory only; use encode"):
        engine.share_memory(4)
    with pytest.raises(EngineInputError, match="use encode"):
        engine.encode_device(np.array([0], np.int32))

"""Chunks that come from the GPU's memory, on the double whose streams run only when the CPU waits for them."""

import mmap
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.bundles import expected_logits, random_chunks
from support.gpu_double import DoubleCuda, double_platform

import engines.backends.tensorrt
import engines.opening
from engines.activation import softmax
from engines.backends.tensorrt.interface import Platform
from engines.bundle import Bundle
from engines.errors import DeviceError, DeviceMemoryError, EngineInputError
from engines.group import EngineGroup
from engines.opening import open_engine
from engines.parity import TOLERANCE
from engines.protocol import ChunkMemory, SharingEngine

SLOTS, MAX_BATCH, CHUNK_BYTES = 12, 5, 2 * 16 * 16 * 3


@pytest.fixture
def opened(brightness: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SharingEngine]]:
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    engines_open: list[SharingEngine] = []

    def open_on(**settings: object) -> SharingEngine:
        platform: Platform = double_platform(**settings)  # type: ignore[arg-type]
        monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda *_: platform)
        engine = open_engine(brightness, backend="tensorrt", precision="fp32", max_batch=MAX_BATCH, bank_slots=SLOTS)
        engines_open.append(engine)
        return engine

    yield open_on
    for engine in engines_open:
        engine.close()


def cuda_of(engine: SharingEngine) -> DoubleCuda:
    return engine._cuda  # type: ignore[attr-defined,no-any-return]


class Writer:
    """Another process: it has only the descriptor."""

    def __init__(self, memory: ChunkMemory) -> None:
        self._pixels = np.frombuffer(mmap.mmap(memory.fd, memory.nbytes), np.uint8)
        self._stride = memory.stride

    def write(self, index: int, chunk: np.ndarray) -> None:
        self._pixels[index * self._stride :][: chunk.nbytes] = chunk.reshape(-1)


def largest_error(engine: SharingEngine, memory: ChunkMemory) -> float:
    """Encode from the device and from the host in turn, without waiting; return the largest error."""
    chunks, writer = random_chunks(SLOTS), Writer(memory)
    begin = 0
    for turn, size in enumerate((5, 1, 4, 2)):
        part, slots = chunks[begin : begin + size], np.arange(begin, begin + size, dtype=np.int32)
        if turn == 2:
            engine.encode(part.copy(), slots)
        else:
            for row, chunk in enumerate(part):
                place = (turn + row) % memory.chunks
                writer.write(place, chunk)
                engine.fetch(memory, place, row)
                writer.write(place, np.full_like(chunk, 255))  # the other process goes on at once
            if turn == 1:
                engine.encode(random_chunks(3, seed=9), np.array([8, 9, 10], np.int32))  # overwritten later
            engine.encode_device(slots)
        begin += size
    windows = np.array([[0, 1, 2, 3], [11, 10, 9, 8], [4, 4, 7, 5]], np.int32)
    expected = [softmax(expected_logits(chunks[window])) for window in windows.tolist()]
    return float(np.abs(engine.classify(windows) - expected).max())


@pytest.mark.parametrize("graphs", [True, False])
def test_chunks_of_the_device_give_the_numbers_of_chunks_of_the_host(
    opened: Callable[..., SharingEngine], graphs: bool
) -> None:
    engine = opened(graphs=graphs)
    memory = engine.share_memory(3)
    assert (memory.gpu, memory.chunks) == ("0000:00:00.0", 3)
    assert memory.stride >= CHUNK_BYTES
    assert largest_error(engine, memory) < TOLERANCE["fp32"]
    engine.close()
    assert not cuda_of(engine).memory
    memory.close()  # may come after the engine's end


def test_the_double_detects_a_chunk_that_is_written_before_it_was_copied(
    opened: Callable[..., SharingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above proves something only if the double detects a missing wait."""
    engine = opened()
    memory = engine.share_memory(3)
    monkeypatch.setattr(DoubleCuda, "synchronize", lambda *_: None)
    assert largest_error(engine, memory) > 0.01


def test_the_next_batch_is_fetched_before_the_last_one_is_computed(opened: Callable[..., SharingEngine]) -> None:
    engine = opened()
    memory = engine.share_memory(4)
    chunks, writer = random_chunks(SLOTS), Writer(memory)
    results: list[tuple[int, Callable[[], np.ndarray]]] = []
    for begin in range(0, SLOTS, 4):
        for row in range(4):
            writer.write(row, chunks[begin + row])
            engine.fetch(memory, row, row)
        engine.encode_device(np.arange(begin, begin + 4, dtype=np.int32))
        if results:
            _check(results.pop(), chunks)
        results.append((begin, engine.submit(np.arange(begin, begin + 4, dtype=np.int32)[None])))
    _check(results.pop(), chunks)


def _check(result: tuple[int, Callable[[], np.ndarray]], chunks: np.ndarray) -> None:
    begin, take = result
    expected = softmax(expected_logits(chunks[begin : begin + 4]))[None]
    np.testing.assert_allclose(take(), expected, atol=1e-4)


def test_wrong_calls_are_refused_and_leave_the_bank_as_it_was(opened: Callable[..., SharingEngine]) -> None:
    engine = opened()
    memory = engine.share_memory(2)
    engine.encode(random_chunks(2), np.array([0, 1], np.int32))
    before = engine.read_features(np.array([0, 1], np.int32))
    with pytest.raises(EngineInputError, match="row 0 of 1 holds no chunk"):
        engine.encode_device(np.array([0], np.int32))
    engine.fetch(memory, 1, 0)
    for slots, message in (([0, 1], "row 1 of 2"), ([SLOTS], "the bank has"), ([3, 3], "occurs twice")):
        with pytest.raises(EngineInputError, match=message):
            engine.encode_device(np.array(slots, np.int32))
    for index, row in ((2, 0), (-1, 0), (0, MAX_BATCH)):
        with pytest.raises(EngineInputError, match="the memory has chunks 0 to 1, a batch rows 0 to 4"):
            engine.fetch(memory, index, row)
    np.testing.assert_array_equal(engine.read_features(np.array([0, 1], np.int32)), before)
    engine.encode_device(np.array([1], np.int32))
    with pytest.raises(EngineInputError, match="row 0"):  # each batch is fetched anew
        engine.encode_device(np.array([1], np.int32))


def test_memory_that_is_closed_is_freed_and_cannot_be_fetched_from(opened: Callable[..., SharingEngine]) -> None:
    engine = opened()
    engine.share_memory(1).close()  # the batches on the device stay
    used = cuda_of(engine).used
    memory = engine.share_memory(3)
    assert cuda_of(engine).used > used
    memory.close()
    memory.close()
    assert cuda_of(engine).used == used
    with pytest.raises(ValueError, match="closed"):
        engine.fetch(memory, 0, 0)


def test_a_device_that_cannot_share_memory_says_so(opened: Callable[..., SharingEngine]) -> None:
    engine = opened()
    cuda_of(engine).can_share = False
    with pytest.raises(DeviceError, match="cannot share memory between processes"):
        engine.share_memory(3)
    cuda_of(engine).can_share = True
    with pytest.raises(DeviceMemoryError, match="no memory for 4000000 chunks"):
        engine.share_memory(4_000_000)
    assert largest_error(engine, engine.share_memory(3)) < TOLERANCE["fp32"]


def test_a_group_encodes_for_all_its_models(opened: Callable[..., SharingEngine]) -> None:
    owner = opened()
    group = EngineGroup("first", owner)
    memory = group.share_memory(1)
    assert memory is not None
    chunk = random_chunks(1)
    Writer(memory).write(0, chunk[0])
    group.fetch(memory, 0, 0)
    group.encode_device(np.array([3], np.int32))
    expected = softmax(expected_logits(chunk[[0, 0, 0, 0]]))
    np.testing.assert_allclose(group["first"].classify(np.full((1, 4), 3, np.int32))[0], expected, atol=1e-4)

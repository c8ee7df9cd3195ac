"""One contract, every backend: the same assertions run on each adapter that this machine can load."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from support.bundles import expected_logits, make_brightness_bundle
from support.gpu_double import double_platform

import engines.backends.cores
import engines.backends.onnxruntime
import engines.backends.openvino
import engines.backends.tensorrt
import engines.cache
import engines.opening
from engines.backends.base import CheckedEngine
from engines.backends.names import LIBRARIES, Backend
from engines.background_upgrade import move_features
from engines.bundle import Bundle, write_spec
from engines.errors import BackendMissingError, BundleError, EngineInputError, ParityError
from engines.opening import open_engine
from engines.parity import TOLERANCE, softmax
from engines.protocol import Engine

BACKENDS = ["openvino", "onnxruntime", "tensorrt"]
"""TensorRT on a double of the GPU that computes on the CPU; tests/gpu runs it on a real one."""
MAX_BATCH = 5
SLOTS = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("bundles") / "brightness")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _double(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "tensorrt" in str(getattr(request.node, "callspec", "")):
        monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
        monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])


@pytest.fixture(params=BACKENDS)
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Engine]:
    engine = open_engine(
        bundle, backend=request.param, precision="fp32", max_batch=MAX_BATCH, bank_slots=SLOTS, threads=1
    )
    yield engine
    engine.close()


def random_chunks(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    levels = random.integers(30, 220, (count, 1, 1, 1, 1))
    return (levels + random.integers(-20, 20, (count, 2, 16, 16, 3))).astype(np.uint8)


def test_every_batch_size_gives_the_same_numbers(engine: Engine) -> None:
    chunks = random_chunks(10)
    for size in range(1, MAX_BATCH + 1):
        for begin in range(0, 10, size):
            part = chunks[begin : begin + size]
            engine.encode(part, np.arange(begin, begin + len(part), dtype=np.int32))
        windows = np.array([range(first, first + 4) for first in range(MAX_BATCH)], np.int32)
        expected = [softmax(expected_logits(chunks[first : first + 4])) for first in range(MAX_BATCH)]
        np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])


def test_slots_are_reused_in_any_order(engine: Engine) -> None:
    random = np.random.default_rng(3)
    held: dict[int, np.ndarray] = {}
    for step in range(40):
        count = int(random.integers(1, MAX_BATCH + 1))
        slots = random.permutation(SLOTS)[:count].astype(np.int32)
        chunks = random_chunks(count, seed=step)
        engine.encode(chunks, slots)
        held.update(zip(slots.tolist(), chunks, strict=True))
        window = random.choice(list(held), 4)
        actual = engine.classify(window[None].astype(np.int32))[0]
        expected = softmax(expected_logits(np.stack([held[slot] for slot in window])))
        np.testing.assert_allclose(actual, expected, atol=TOLERANCE["fp32"])


def test_features_that_were_read_are_taken_by_any_engine(engine: Engine, bundle: Bundle) -> None:
    """A service goes on with another engine in the middle of its windows; slots come in any order."""
    chunks = random_chunks(SLOTS, seed=6)
    other = open_engine(bundle, backend="onnxruntime", precision="fp32", max_batch=7, bank_slots=SLOTS, threads=1)
    try:
        for begin in range(0, SLOTS, 4):
            other.encode(chunks[begin : begin + 4], np.arange(begin, begin + 4, dtype=np.int32))
        engine.encode(random_chunks(MAX_BATCH), np.arange(MAX_BATCH, dtype=np.int32))  # is to be written over
        move_features(other, engine)
    finally:
        other.close()
    windows = np.array([[11, 0, 5, 3], [8, 9, 10, 11]], np.int32)
    expected = [softmax(expected_logits(chunks[window])) for window in windows]
    np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])
    slots = np.array([7, 2, 2], np.int32)
    read = engine.read_features(slots)
    assert read.shape == (3, *bundle.spec.feature_shape)
    before = read.copy()
    engine.write_features(read[::-1] + 1, np.array([2, 3, 7], np.int32))
    np.testing.assert_array_equal(read, before)  # the caller's
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


def test_the_result_is_the_callers(engine: Engine) -> None:
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
def test_wrong_input_is_refused_with_what_was_expected(
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


def test_closed_means_closed_and_twice_is_fine(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineInputError, match="closed"):
        engine.classify(np.zeros((1, 4), np.int32))


class SlowEngine(CheckedEngine):
    """Stays in `encode` until it is let go."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.spec, max_batch=1, bank_slots=4, description="slow", precision="fp32")
        self.entered, self.leave = threading.Event(), threading.Event()

    def _encode(self, frames: np.ndarray, slots: np.ndarray) -> None:
        self.entered.set()
        assert self.leave.wait(10)

    def _classify(self, windows: np.ndarray) -> np.ndarray:
        return np.zeros((len(windows), 2), np.float32)

    def _read_features(self, slots: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _write_features(self, features: np.ndarray, slots: np.ndarray) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        pass


def test_a_second_thread_is_refused_at_once(bundle: Bundle) -> None:
    engine = SlowEngine(bundle)
    call = (np.zeros((1, 2, 16, 16, 3), np.uint8), np.zeros(1, np.int32))
    thread = threading.Thread(target=engine.encode, args=call)
    thread.start()
    try:
        assert engine.entered.wait(10)
        with pytest.raises(EngineInputError, match="another thread"):
            engine.encode(*call)
    finally:
        engine.leave.set()
        thread.join(10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_with_other_numbers_never_opens(tmp_path: Path, backend: str) -> None:
    """A golden clip of another model: the gate must name both labels and the difference."""
    bundle = make_brightness_bundle(tmp_path / "other")
    golden = bundle.golden()
    np.savez(bundle.path / "golden.npz", frames=golden.frames, logits=-golden.logits)
    fields = bundle.spec.model_dump(exclude={"files"})
    with pytest.raises(ParityError, match=r"gives dark, PyTorch bright; max \|dp\|"):
        open_engine(write_spec(bundle.path, fields), backend=backend, precision="fp32")  # type: ignore[arg-type]


def test_auto_leaves_a_reduced_precision_that_fails(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    check = engines.opening.check_parity

    def fails_but_in_fp32(engine: Engine, golden: object) -> object:
        tried.append(engine.precision)
        if engine.precision != "fp32" or len(tried) == 1:
            raise ParityError(f"{engine.precision} collapsed", precision="bf16")
        return check(engine, golden)  # type: ignore[arg-type]

    monkeypatch.setattr(engines.opening, "check_parity", fails_but_in_fp32)
    engine = open_engine(bundle)
    assert engine.precision == "fp32"
    assert tried[-1] == "fp32"
    assert len(tried) == 4 or {*tried[1:]} == {"fp32"}  # as a whole, without the head, without the encoder, not at all
    assert "trying it with one of its two graphs in fp32" in caplog.text
    engine.close()


def _frozen_batch(path: Path) -> None:
    model = onnx.load(path / "head.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = 1
    onnx.save(model, path / "head.onnx")


def _swapped(path: Path) -> None:
    encoder = (path / "encoder.onnx").read_bytes()
    (path / "encoder.onnx").write_bytes((path / "head.onnx").read_bytes())
    (path / "head.onnx").write_bytes(encoder)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        ({"feature_shape": (4,)}, None, r"encoder\.onnx: its features is float32 \(3,\), the spec says float32 \(4,\)"),
        ({"labels": ("a", "b", "c")}, None, r"head\.onnx: its logits is float32 \(2,\), the spec says float32 \(3,\)"),
        ({}, _swapped, r"encoder\.onnx: has no frames \(it has features, logits\)"),
        ({}, _frozen_batch, r"head\.onnx: its features has a fixed batch of 1|input features is \[1, 4, 3\]"),
    ],
)
def test_graphs_that_are_not_what_the_spec_promises(
    tmp_path: Path, backend: str, fields: dict[str, object], change: Callable[[Path], None] | None, message: str
) -> None:
    """Each backend would fail in a call of its own, or not at all: buffers are sized by the spec."""
    bundle = make_brightness_bundle(tmp_path / "broken")
    if change is not None:
        change(bundle.path)
    changed = write_spec(bundle.path, {**bundle.spec.model_dump(exclude={"files"}), **fields})
    with pytest.raises(BundleError, match=message):
        open_engine(changed, backend=backend, precision="fp32")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_no_library_takes(tmp_path: Path, backend: str) -> None:
    bundle = make_brightness_bundle(tmp_path / "broken")
    (bundle.path / "encoder.onnx").write_bytes(b"not a graph")
    fields = bundle.spec.model_dump(exclude={"files"})
    with pytest.raises(BundleError, match=r"cannot|not an ONNX graph"):
        open_engine(write_spec(bundle.path, fields), backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("onnxruntime", r"onnxruntime not installed; pip install 'streamclf\[onnxruntime\]'"),
        ("tensorrt", r"tensorrt and pycuda not installed; pip install 'streamclf\[tensorrt\]'"),
        ("openvino", "openvino not installed; pip install 'streamclf'"),
    ],
)
def test_an_absent_library_names_the_extra(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, message: str
) -> None:
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda name: LIBRARIES[name])
    with pytest.raises(BackendMissingError, match=message):
        open_engine(bundle, backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "bf16"), ("onnxruntime", "fp16")])
def test_a_precision_that_the_backend_lacks(bundle: Bundle, backend: str, precision: str) -> None:
    with pytest.raises(BackendMissingError, match=f"precision={precision}: .*; use fp32 or auto"):
        open_engine(bundle, backend=backend, precision=precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_without_a_quantised_graph_says_how_to_make_one(bundle: Bundle, backend: str) -> None:
    with pytest.raises(BundleError, match=r"has no encoder\.int8\.onnx; make one: streamclf compile .*--calibration"):
        open_engine(bundle, backend=backend, precision="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(("streams", "threads", "parts"), [(1, 8, 1), (3, 8, 1), (4, 8, 8), (400, 32, 16), (4, 1, 1)])
def test_batches_of_many_streams_are_shared_out_among_cores(streams: int, threads: int, parts: int) -> None:
    assert engines.backends.openvino.parallel_requests(streams=streams, threads=threads, max_batch=16) == parts


@pytest.mark.parametrize(
    ("item_s", "streams", "wants"),
    [
        (0.007, 1, False),
        (0.009, 3, True),
        (0.004, 4, False),
        (0.004, 6, True),
        (0.0011, 400, False),
        (0.0013, 400, True),
    ],
)
def test_more_than_one_core_is_for_those_who_have_too_much_to_do(item_s: float, streams: int, wants: bool) -> None:
    assert engines.backends.cores.needs_more_cores(item_s, streams=streams, max_batch=16) is wants


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("part_s", "threads"), [(1e-9, [1, 3, 1, 3]), (3600.0, [1, 1])])
def test_a_small_graph_has_one_core_a_large_one_all(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: Backend, part_s: float, threads: list[int]
) -> None:
    monkeypatch.setattr(engines.backends.cores, "MIN_WORK_S", part_s)
    asked: list[int] = []
    if backend == "openvino":
        restore = engines.backends.openvino._load_or_compile
        monkeypatch.setattr(
            engines.backends.openvino,
            "_load_or_compile",
            lambda *given: asked.append(given[-1]["INFERENCE_NUM_THREADS"]) or restore(*given),
        )
    else:
        open_session = engines.backends.onnxruntime._open_session
        monkeypatch.setattr(
            engines.backends.onnxruntime,
            "_open_session",
            lambda *given: asked.append(given[-1]) or open_session(*given),
        )
    open_engine(bundle, backend=backend, precision="fp32", max_batch=MAX_BATCH, threads=3).close()
    assert asked == threads


def test_a_shared_out_batch_gives_the_same_numbers(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five chunks and five windows in three parts: the last part is smaller."""
    monkeypatch.setattr(engines.backends.cores, "MIN_WORK_S", 1e-9)
    monkeypatch.setattr(engines.backends.cores, "MAX_ROUND_S", 1e-9)
    engine = open_engine(
        bundle, backend="openvino", precision="fp32", max_batch=MAX_BATCH, bank_slots=SLOTS, threads=3, streams=8
    )
    assert "batches in up to 3 parts" in engine.description
    chunks = random_chunks(5)
    engine.encode(chunks, np.arange(5, dtype=np.int32)[::-1].copy())
    windows = np.array([np.roll(np.arange(5), -shift)[:4] for shift in range(5)], np.int32)
    expected = [softmax(expected_logits(chunks[4 - window])) for window in windows]
    np.testing.assert_allclose(engine.classify(windows), expected, atol=TOLERANCE["fp32"])
    engine.close()


def test_openvino_compiles_once_and_says_when_it_must_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = []
    compile_model = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core,
        "compile_model",
        lambda core, path, *rest: compiled.append(path) or compile_model(core, path, *rest),
    )

    def times() -> int:
        compiled.clear()
        open_engine(bundle, backend="openvino", precision="fp32").close()
        return len(compiled)

    assert times() == 2
    assert times() == 0
    (path,) = engines.cache.cache_root().glob("engines/*/encoder")
    path.write_bytes(path.read_bytes()[:-10])
    assert times() == 1
    assert "truncated" in caplog.text


def test_onnxruntime_takes_the_best_provider_that_is_installed() -> None:
    usable = engines.backends.onnxruntime.usable_providers
    gpu = ["CPUExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert usable(gpu, "fp32")[0] == "CUDAExecutionProvider"
    assert usable(gpu, "fp16") == ["TensorrtExecutionProvider"]
    assert usable(["CPUExecutionProvider", "CoreMLExecutionProvider"], "fp32")[0] == "CoreMLExecutionProvider"
    assert usable(["AzureExecutionProvider", "CPUExecutionProvider"], "fp32") == ["CPUExecutionProvider"]


def test_a_provider_that_does_not_start_is_left_with_a_notice(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA build of ONNX Runtime on a machine without CUDA falls back silently; we say so."""
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, settings, providers: session(path, settings, providers=["CPUExecutionProvider"]),
    )
    engine = open_engine(bundle, backend="onnxruntime")
    assert "CUDAExecutionProvider is installed but does not start on this machine" in caplog.text
    assert engine.description.endswith("CPU")
    engine.close()

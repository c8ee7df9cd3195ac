"""The TensorRT engine's host side, on a double whose streams run only when somebody waits for them.

What a double cannot show, that TensorRT and a GPU do what its interface says, is tests/gpu's.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.bundles import expected_logits, make_brightness_bundle
from support.gpu_double import TRAITS, DoubleCompiler, DoubleCuda, double_platform

import engines.backends.tensorrt
import engines.opening
from engines.backends.gpu import Gpu
from engines.backends.tensorrt.interface import Platform
from engines.backends.tensorrt.memory import MemoryLayout, prepared_batches
from engines.backends.tensorrt.requirements import load_platform
from engines.bundle import Bundle, load_bundle, write_spec
from engines.cache import cache_root
from engines.errors import BackendMissingError, BundleError, CompileError, DeviceError, DeviceMemoryError
from engines.opening import open_engine
from engines.parity import TOLERANCE, softmax
from engines.protocol import Engine
from streamclf.builtin_models import BUNDLES

SLOTS = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("bundles") / "brightness")


Use = Callable[..., tuple[DoubleCuda, DoubleCompiler]]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Make this machine one with such a GPU and TensorRT."""

    def install(**settings: object) -> tuple[DoubleCuda, DoubleCompiler]:
        platform: Platform = double_platform(**settings)  # type: ignore[arg-type]
        monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda: platform)
        return platform.cuda, platform.compiler  # type: ignore[return-value]

    return install


def opened(bundle: Bundle, *, precision: str = "fp32", max_batch: int = 5, bank_slots: int = SLOTS) -> Engine:
    return open_engine(
        bundle,
        backend="tensorrt",
        precision=precision,  # type: ignore[arg-type]
        max_batch=max_batch,
        bank_slots=bank_slots,
    )


def chunks_of(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(30, 220, (count, 1, 1, 1, 1)) + np.zeros((2, 16, 16, 3))).astype(np.uint8)


def wrong_by(engine: Engine) -> float:
    """Encode in bursts without waiting in between, then classify: the largest error of any probability."""
    chunks = chunks_of(SLOTS)
    order = np.random.default_rng(1).permutation(SLOTS).astype(np.int32)
    begin = 0
    for size in (5, 1, 4, 2):
        part = chunks[begin : begin + size].copy()
        engine.encode(part, order[begin : begin + size])
        part[:] = 0  # the caller's to reuse at once
        begin += size
    at = {int(slot): i for i, slot in enumerate(order)}
    windows = np.array([[0, 1, 2, 3], [11, 10, 9, 8], [4, 4, 7, 5]], np.int32)
    expected = [softmax(expected_logits(chunks[[at[slot] for slot in window]])) for window in windows.tolist()]
    return float(np.abs(engine.classify(windows) - expected).max())


@pytest.mark.parametrize("graphs", [True, False])
def test_bursts_of_uploads_overlap_and_nothing_overtakes(bundle: Bundle, use: Use, graphs: bool) -> None:
    cuda, _ = use(graphs=graphs)
    engine = opened(bundle)
    before = cuda.launches[0]
    assert wrong_by(engine) < TOLERANCE["fp32"]
    assert cuda.launches[0] - before == (5 if graphs else 0)  # four encodes, one classify
    engine.close()
    assert not cuda.memory
    assert cuda.closed


def test_the_double_shows_pinned_memory_written_too_early(
    bundle: Bundle, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof above is worth what the double catches: without this wait the numbers must be wrong."""
    use()
    engine = opened(bundle)
    monkeypatch.setattr(DoubleCuda, "synchronize", lambda *_: None)
    assert wrong_by(engine) > 0.01


def test_the_double_shows_computing_that_overtakes_the_upload(
    bundle: Bundle, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that have not arrived yet are whatever lay in memory."""
    use()
    engine = opened(bundle)
    monkeypatch.setattr(DoubleCuda, "wait", lambda *_: None)
    with pytest.raises(AssertionError, match="illegal memory access"):
        wrong_by(engine)


def test_after_the_start_nothing_is_allocated(bundle: Bundle, use: Use) -> None:
    cuda, compiler = use()
    engine = opened(bundle)
    before = (cuda.allocations, cuda.used, len(compiler.requests))
    for seed in range(20):
        count = seed % 5 + 1
        engine.encode(chunks_of(count, seed), np.arange(count, dtype=np.int32))
        engine.classify(np.zeros((count, 4), np.int32))
    assert (cuda.allocations, cuda.used, len(compiler.requests)) == before
    engine.close()


def test_another_thread_may_go_on_with_the_engine(bundle: Bundle, use: Use) -> None:
    """CUDA contexts belong to threads: one that has not made it current gets "invalid context"."""
    use()
    engine = opened(bundle)
    results: list[float] = []
    thread = threading.Thread(target=lambda: results.append(wrong_by(engine)))
    thread.start()
    thread.join(20)
    assert results
    assert results[0] < TOLERANCE["fp32"]
    engine.close()


@pytest.mark.parametrize("version", list(TRAITS))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_shipped_model_on_every_generation(use: Use, version: str, precision: str) -> None:
    """LayerNormalization, attention, GELU: what each generation is given passes the golden clip."""
    _, compiler = use(version=version)
    engine = opened(load_bundle(BUNDLES / "camera-events"), precision=precision, max_batch=8, bank_slots=16)
    assert version in engine.description
    encoder, head = compiler.requests
    typed = version.startswith(("10", "11"))
    assert encoder.strongly_typed == typed
    kinds = {node.op_type for node in onnx.load_model_from_string(head.onnx).graph.node}
    assert ("LayerNormalization" in kinds) == (version != "8.5.3.1")
    assert ("Cast" in kinds) == (typed and precision == "fp16")
    statistics = [name for name in encoder.keep_fp32 if "ReduceMean" in name]
    assert bool(statistics) == (version == "8.5.3.1" and precision == "fp16")
    engine.close()


def test_auto_takes_fp16_and_a_precision_that_is_not_there_is_named(bundle: Bundle, use: Use) -> None:
    use(version="8.5.3.1")
    engine = opened(bundle, precision="auto")
    assert engine.precision == "fp16"
    engine.close()
    use(version="8.5.3.1")
    with pytest.raises(BackendMissingError, match=r"precision=bf16: TensorRT 8.5.3.1 computes in fp32, fp16, int8"):
        opened(bundle, precision="bf16")


def test_a_plan_is_built_once(bundle: Bundle, use: Use, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engine")
    _, first = use()
    opened(bundle).close()
    assert [request.name for request in first.requests] == ["encoder.onnx", "head.onnx"]
    assert [request.timing_cache for request in first.requests] == [b"", b"timing"]
    assert "compiling brightness@1 encoder for Double in fp32; this may take minutes, once" in caplog.text
    _, second = use()
    opened(bundle).close()
    assert second.requests == []


def test_a_truncated_plan_is_built_again(bundle: Bundle, use: Use, caplog: pytest.LogCaptureFixture) -> None:
    use()
    opened(bundle).close()
    (path,) = cache_root().glob("engines/*/encoder.plan")
    path.write_bytes(path.read_bytes()[:-200])
    _, compiler = use()
    opened(bundle).close()
    assert [request.name for request in compiler.requests] == ["encoder.onnx"]
    assert "encoder.plan: truncated" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"), [({"name": "Other"}, "gpu Double (here: Other)"), ({"version": "11.4.0"}, "tensorrt 10.3.0")]
)
def test_a_plan_of_another_gpu_or_version_is_built_again(
    bundle: Bundle, use: Use, caplog: pytest.LogCaptureFixture, change: dict[str, str], said: str
) -> None:
    use()
    opened(bundle).close()
    _, compiler = use(**change)
    opened(bundle).close()
    assert len(compiler.requests) == 2
    assert f"was built for {said}" in caplog.text


def test_a_plan_that_somebody_else_put_there_is_refused(
    bundle: Bundle, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    """A plan is executable code; with another secret beside it, it looks like one from another machine."""
    use()
    opened(bundle).close()
    (cache_root() / "machine.key").write_bytes(bytes(32))
    _, compiler = use()
    opened(bundle).close()
    assert len(compiler.requests) == 2
    assert "encoder.plan: not built by this user on this machine" in caplog.text


def test_out_of_memory_names_the_figures_and_goes_on_with_less(
    bundle: Bundle, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    use(memory_bytes=300_000, scratch_bytes=20_000)
    engine = opened(bundle, max_batch=64)
    assert engine.max_batch == 8
    assert "Double: batch 64 needs 1." in caplog.text
    assert "MiB beside the weights (64 bank slots" in caplog.text
    assert "0.3 of 0 MiB are free; trying batch 32" in caplog.text
    assert "trying batch 8" in caplog.text
    engine.encode(chunks_of(8), np.arange(8, dtype=np.int32))
    engine.close()


def test_a_gpu_too_small_for_one_chunk(bundle: Bundle, use: Use) -> None:
    cuda, _ = use(memory_bytes=6_000)
    with pytest.raises(DeviceMemoryError, match=r"batch 1 needs .* MiB are free: give each GPU fewer streams"):
        opened(bundle)
    assert cuda.closed


def test_a_failing_device_is_said_so(bundle: Bundle, use: Use) -> None:
    cuda, _ = use()
    engine = opened(bundle)
    cuda.fail_with = "the GPU reports: an illegal memory access was encountered"
    with pytest.raises(DeviceError, match=r"brightness@1 on tensorrt .*: the GPU reports: an illegal memory"):
        engine.classify(np.zeros((1, 4), np.int32))
    engine.close()
    assert cuda.closed


def with_graph(bundle: Bundle, path: Path, change: Callable[[onnx.ModelProto], None], name: str) -> Bundle:
    make_brightness_bundle(path)
    model = onnx.load(path / name)
    change(model)
    onnx.save(model, path / name)
    return write_spec(path, bundle.spec.model_dump(exclude={"files"}))


def test_unknown_operators_are_named(bundle: Bundle, use: Use, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        model.graph.node[0].output[0] = "before"
        model.graph.node.insert(1, helper.make_node("Sharpen", ["before"], ["float"], domain="com.example"))
        model.graph.node.insert(2, helper.make_node("Det", ["float"], ["unused"]))

    use()
    broken = with_graph(bundle, tmp_path / "b", change, "encoder.onnx")
    with pytest.raises(CompileError, match=r"operator com\.example::Sharpen \(1 of them\); operator Det"):
        opened(broken)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt"])
def test_a_head_with_other_labels_than_the_spec(bundle: Bundle, use: Use, tmp_path: Path, backend: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 3), np.float32), "weight"))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3

    use()
    broken = with_graph(bundle, tmp_path / "b", change, "head.onnx")
    with pytest.raises(BundleError, match=r"its head gives 3 logits, its spec has 2|logits is float32 \(3,\)"):
        open_engine(broken, backend=backend, precision="fp32")  # type: ignore[arg-type]


def test_without_a_driver_no_library_is_touched() -> None:
    with pytest.raises(BackendMissingError, match=r"no NVIDIA driver is running here.*use backend openvino"):
        load_platform(gpus=list)


def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    with pytest.raises(BackendMissingError, match=r"pycuda does not load: .*pip install --force-reinstall"):
        load_platform(gpus=lambda: [Gpu(name="NVIDIA H200")])


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, (1,)), (2, (1, 2)), (5, (1, 2, 3, 4, 5)), (16, (1, 2, 3, 4, 6, 8, 12, 16)), (10, (1, 2, 3, 4, 6, 8, 10))],
)
def test_prepared_batches(max_batch: int, sizes: tuple[int, ...]) -> None:
    assert prepared_batches(max_batch) == sizes


def test_a_batch_is_padded_by_less_than_half() -> None:
    sizes = prepared_batches(256)
    assert len(sizes) == 16
    for count in range(1, 257):
        assert min(size for size in sizes if size >= count) < 1.5 * count or count == 1


def test_the_layout_counts_every_buffer(bundle: Bundle, use: Use) -> None:
    cuda, _ = use(scratch_bytes=1000)
    engine = opened(bundle, max_batch=4)
    layout = MemoryLayout(spec=bundle.spec, max_batch=4, bank_slots=SLOTS, scratch_bytes=4000)
    assert cuda.used == layout.total_bytes
    engine.close()

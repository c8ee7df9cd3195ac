"""The host side of the TensorRT engine, on a double whose streams run only when the CPU waits for them.

The tests in tests/gpu show that TensorRT and a real GPU behave as the interface says, which a double cannot show.
"""

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.bundles import expected_logits, make_brightness_bundle
from support.gpu_double import TRAITS, DoubleCompiler, DoubleCuda, double_platform

import engines.backends.tensorrt
import engines.graphs.profiles
import engines.opening
from engines.activation import softmax
from engines.backends.gpu import Gpu
from engines.backends.tensorrt import requirements
from engines.backends.tensorrt.interface import Cuda, Platform
from engines.backends.tensorrt.memory import MemoryLayout, prepared_batches
from engines.backends.tensorrt.requirements import load_platform
from engines.bundle import Bundle, write_spec
from engines.cache import cache_root
from engines.errors import BackendMissingError, BundleError, CompileError, DeviceError, DeviceMemoryError
from engines.graphs.profiles import PreparedGraph
from engines.opening import open_engine
from engines.parity import TOLERANCE
from engines.protocol import Engine

SLOTS = 12


@pytest.fixture(autouse=True)
def _libraries_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])


InstallDouble = Callable[..., tuple[DoubleCuda, DoubleCompiler]]


@pytest.fixture
def install_double(monkeypatch: pytest.MonkeyPatch) -> InstallDouble:
    """Let the engine find a double of a GPU and TensorRT with the given settings."""

    def install(**settings: object) -> tuple[DoubleCuda, DoubleCompiler]:
        platform: Platform = double_platform(**settings)  # type: ignore[arg-type]
        monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda _: platform)
        return platform.cuda, platform.compiler  # type: ignore[return-value]

    return install


def open_tensorrt(bundle: Bundle, *, precision: str = "fp32", max_batch: int = 5, bank_slots: int = SLOTS) -> Engine:
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


def largest_error(engine: Engine) -> float:
    """Encode in bursts without waiting in between, then classify; return the largest error of any probability."""
    chunks = chunks_of(SLOTS)
    order = np.random.default_rng(1).permutation(SLOTS).astype(np.int32)
    begin = 0
    for size in (5, 1, 4, 2):
        part = chunks[begin : begin + size].copy()
        engine.encode(part, order[begin : begin + size])
        part[:] = 0  # the caller may reuse its array at once
        begin += size
    at = {int(slot): i for i, slot in enumerate(order)}
    windows = np.array([[0, 1, 2, 3], [11, 10, 9, 8], [4, 4, 7, 5]], np.int32)
    expected = [softmax(expected_logits(chunks[[at[slot] for slot in window]])) for window in windows.tolist()]
    return float(np.abs(engine.classify(windows) - expected).max())


@pytest.mark.parametrize("graphs", [True, False])
def test_overlapping_uploads_keep_their_order(brightness: Bundle, install_double: InstallDouble, graphs: bool) -> None:
    cuda, _ = install_double(graphs=graphs)
    engine = open_tensorrt(brightness)
    before = cuda.launches[0]
    assert largest_error(engine) < TOLERANCE["fp32"]
    assert cuda.launches[0] - before == (5 if graphs else 0)  # four encodes and one classify
    engine.close()
    assert not cuda.memory
    assert cuda.closed


def test_the_next_chunks_are_encoded_before_a_result_is_taken(
    brightness: Bundle, install_double: InstallDouble
) -> None:
    install_double()
    engine = open_tensorrt(brightness)
    chunks = chunks_of(SLOTS)
    engine.encode(chunks[:4], np.arange(4, dtype=np.int32))
    results = []
    for begin in range(4, SLOTS, 4):
        take = engine.submit(np.arange(begin - 4, begin, dtype=np.int32)[None])
        engine.encode(chunks[begin : begin + 4], np.arange(begin, begin + 4, dtype=np.int32))
        results.append(take())
    for begin, result in zip(range(0, SLOTS - 4, 4), results, strict=True):
        np.testing.assert_allclose(result, softmax(expected_logits(chunks[begin : begin + 4]))[None], atol=1e-4)
    engine.close()


def test_a_submit_and_the_next_encode_wait_for_nothing(brightness: Bundle, install_double: InstallDouble) -> None:
    """The double runs work only when something waits for it, so every wait shows in the compute stream."""
    install_double()
    engine: Any = open_tensorrt(brightness)
    compute, chunks = engine._compute, chunks_of(4)
    slots = np.arange(4, dtype=np.int32)
    begin = compute.done
    engine.encode(chunks, slots)
    take = engine.submit(slots[None])
    engine.encode(chunks, slots)
    assert compute.done == begin
    assert len(compute.queue) > begin
    take()
    assert compute.done > begin
    engine.close()


def test_an_engine_whose_work_cannot_be_captured_runs_without_graphs(
    brightness: Bundle, install_double: InstallDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine")
    cuda, _ = install_double()

    def fail(stream: object, enqueue: object) -> None:
        raise RuntimeError("the GPU reports while work is captured: operation not permitted")

    monkeypatch.setattr(cuda, "capture", fail)
    engine = open_tensorrt(brightness)
    assert largest_error(engine) < 1e-4
    assert "without CUDA graphs: the GPU reports while work is captured" in caplog.text
    engine.close()


def test_the_double_detects_pinned_memory_that_is_overwritten_too_early(
    brightness: Bundle, install_double: InstallDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above proves something only if the double detects a missing wait: then the numbers are wrong."""
    install_double()
    engine = open_tensorrt(brightness)
    monkeypatch.setattr(DoubleCuda, "synchronize", lambda *_: None)
    assert largest_error(engine) > 0.01


def test_the_double_detects_a_computation_that_does_not_wait_for_the_upload(
    brightness: Bundle, install_double: InstallDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before their upload, the slots in device memory have arbitrary values."""
    install_double()
    engine = open_tensorrt(brightness)
    monkeypatch.setattr(DoubleCuda, "wait", lambda *_: None)
    with pytest.raises(AssertionError, match="illegal memory access"):
        largest_error(engine)


def test_calls_allocate_no_memory(brightness: Bundle, install_double: InstallDouble) -> None:
    cuda, compiler = install_double()
    engine = open_tensorrt(brightness)
    before = (cuda.allocations, cuda.used, len(compiler.requests))
    for seed in range(20):
        count = seed % 5 + 1
        engine.encode(chunks_of(count, seed), np.arange(count, dtype=np.int32))
        engine.classify(np.zeros((count, 4), np.int32))
    assert (cuda.allocations, cuda.used, len(compiler.requests)) == before
    engine.close()


def test_another_thread_can_use_the_engine(brightness: Bundle, install_double: InstallDouble) -> None:
    """A CUDA context is current in one thread: a call in another thread fails with "invalid context" otherwise."""
    install_double()
    engine = open_tensorrt(brightness)
    results: list[float] = []
    thread = threading.Thread(target=lambda: results.append(largest_error(engine)))
    thread.start()
    thread.join(60)
    assert results
    assert results[0] < TOLERANCE["fp32"]
    engine.close()


@pytest.mark.parametrize("version", list(TRAITS))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_built_in_model_opens_on_every_tensorrt_generation(
    built_in: Bundle, install_double: InstallDouble, version: str, precision: str
) -> None:
    """The graph prepared for each generation (LayerNormalization, attention, GELU) passes the golden clip."""
    _, compiler = install_double(version=version)
    engine = open_tensorrt(built_in, precision=precision, max_batch=8, bank_slots=16)
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


def test_auto_chooses_fp16_and_an_unsupported_precision_is_refused(
    brightness: Bundle, install_double: InstallDouble
) -> None:
    install_double(version="8.5.3.1")
    engine = open_tensorrt(brightness, precision="auto")
    assert engine.precision == "fp16"
    engine.close()
    install_double(version="8.5.3.1")
    with pytest.raises(BackendMissingError, match=r"precision=bf16: TensorRT 8.5.3.1 computes in fp32, fp16, int8"):
        open_tensorrt(brightness, precision="bf16")


def test_a_plan_is_built_only_once(
    brightness: Bundle, install_double: InstallDouble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine")
    _, first = install_double()
    open_tensorrt(brightness).close()
    assert [request.name for request in first.requests] == ["encoder.onnx", "head.onnx"]
    assert [request.timing_cache for request in first.requests] == [b"", b"timing"]
    assert "compiling brightness@1 encoder for Double in fp32; this may take minutes, but only once" in caplog.text
    _, second = install_double()
    open_tensorrt(brightness).close()
    assert second.requests == []


def test_a_truncated_plan_is_built_again(
    brightness: Bundle, install_double: InstallDouble, caplog: pytest.LogCaptureFixture
) -> None:
    install_double()
    open_tensorrt(brightness).close()
    (path,) = cache_root().glob("engines/*/encoder.plan")
    path.write_bytes(path.read_bytes()[:-200])
    _, compiler = install_double()
    open_tensorrt(brightness).close()
    assert [request.name for request in compiler.requests] == ["encoder.onnx"]
    assert "encoder.plan: truncated" in caplog.text


@pytest.mark.parametrize(
    ("change", "difference"),
    [({"name": "Other"}, "gpu Double (here: Other)"), ({"version": "11.4.0"}, "tensorrt 10.3.0")],
)
def test_a_plan_of_another_gpu_or_version_is_built_again(
    brightness: Bundle,
    install_double: InstallDouble,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, str],
    difference: str,
) -> None:
    install_double()
    open_tensorrt(brightness).close()
    _, compiler = install_double(**change)
    open_tensorrt(brightness).close()
    assert len(compiler.requests) == 2
    assert f"was built for {difference}" in caplog.text


def test_a_plan_with_a_foreign_seal_is_built_again(
    brightness: Bundle, install_double: InstallDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """A plan is executable code. With another secret beside it, it looks like a plan from another machine."""
    install_double()
    open_tensorrt(brightness).close()
    (cache_root() / "machine.key").write_bytes(bytes(32))
    _, compiler = install_double()
    open_tensorrt(brightness).close()
    assert len(compiler.requests) == 2
    assert "encoder.plan: not built by this user on this machine" in caplog.text


def test_out_of_memory_is_logged_with_figures_and_the_batch_is_halved(
    brightness: Bundle, install_double: InstallDouble, caplog: pytest.LogCaptureFixture
) -> None:
    install_double(memory_bytes=300_000, scratch_bytes=20_000)
    engine = open_tensorrt(brightness, max_batch=64)
    assert engine.max_batch == 8
    assert "Double: batch 64 needs 1." in caplog.text
    assert "MiB besides the weights (64 bank slots" in caplog.text
    assert "0.3 of 0 MiB are free; trying batch 32" in caplog.text
    assert "trying batch 8" in caplog.text
    engine.encode(chunks_of(8), np.arange(8, dtype=np.int32))
    engine.close()


def test_a_gpu_too_small_for_one_chunk_is_refused_with_figures(
    brightness: Bundle, install_double: InstallDouble
) -> None:
    cuda, _ = install_double(memory_bytes=6_000)
    with pytest.raises(DeviceMemoryError, match=r"batch 1 needs .* MiB are free: give each GPU fewer streams"):
        open_tensorrt(brightness)
    assert cuda.closed


def test_a_device_failure_is_reported_as_device_error(brightness: Bundle, install_double: InstallDouble) -> None:
    cuda, _ = install_double()
    engine = open_tensorrt(brightness)
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


def test_operators_that_tensorrt_lacks_are_named_in_the_error(
    brightness: Bundle, install_double: InstallDouble, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        model.graph.node[0].output[0] = "before"
        model.graph.node.insert(1, helper.make_node("Sharpen", ["before"], ["float"], domain="com.example"))
        model.graph.node.insert(2, helper.make_node("Det", ["float"], ["unused"]))

    install_double()
    broken = with_graph(brightness, tmp_path / "b", change, "encoder.onnx")
    with pytest.raises(CompileError, match=r"operator com\.example::Sharpen \(1 of them\); operator Det"):
        open_tensorrt(broken)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt"])
def test_a_head_with_another_number_of_labels_than_the_spec_is_refused(
    brightness: Bundle, install_double: InstallDouble, tmp_path: Path, backend: str
) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 3), np.float32), "weight"))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3

    install_double()
    broken = with_graph(brightness, tmp_path / "b", change, "head.onnx")
    with pytest.raises(BundleError, match=r"its head gives 3 logits, its spec has 2|logits is float32 \(3,\)"):
        open_engine(broken, backend=backend, precision="fp32")  # type: ignore[arg-type]


def test_without_a_driver_no_library_is_imported() -> None:
    with pytest.raises(BackendMissingError, match=r"no NVIDIA driver is running here.*use backend openvino"):
        load_platform(gpus=list)


@pytest.mark.parametrize(
    ("pycuda", "bindings", "message"),
    [
        (
            "No module named 'pycuda'",
            "No module named 'cuda'",
            r"pycuda .*cuda'; pip install --force-reinstall tensorrt-",
        ),
        (
            "libcuda.so.1: cannot open shared object file",
            "No module",
            "library is not visible here: install the driver",
        ),
        (
            "libcurand.so.10: cannot open shared object file",
            "No module",
            "pip install cuda-bindings, which is then used",
        ),
    ],
)
def test_a_library_that_cannot_be_imported_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, pycuda: str, bindings: str, message: str
) -> None:
    def fail(text: str) -> Callable[[], Callable[[], Cuda]]:
        def find() -> Callable[[], Cuda]:
            raise ImportError(text)

        return find

    monkeypatch.setattr(requirements, "find_pycuda", fail(pycuda))
    monkeypatch.setattr(requirements, "find_bindings", fail(bindings))
    with pytest.raises(BackendMissingError, match=message):
        load_platform(gpus=lambda: [Gpu(name="NVIDIA H200")])


def test_without_pycuda_the_engine_uses_cuda_bindings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    cuda = DoubleCuda()
    monkeypatch.setattr(requirements, "find_bindings", lambda: lambda _: cuda)
    with pytest.raises(BackendMissingError, match="tensorrt cannot be imported"):
        load_platform(gpus=lambda: [Gpu(name="NVIDIA H200")])
    assert "CUDA through cuda.bindings: pycuda cannot be imported" in caplog.text
    assert cuda.closed


def test_a_driver_library_that_is_not_visible_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(device: int) -> Cuda:
        raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search')

    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setattr(requirements, "find_bindings", lambda: start)
    with pytest.raises(BackendMissingError, match=r"CUDA does not start: .*NVIDIA_DRIVER_CAPABILITIES=compute,utility"):
        load_platform(gpus=lambda: [Gpu(name="NVIDIA H200")])


def test_the_double_detects_a_graph_that_outlives_its_execution_context(
    brightness: Bundle, install_double: InstallDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_double()
    engine = open_tensorrt(brightness)
    for launch in (*engine._encoders.values(), *engine._heads.values()):  # type: ignore[attr-defined]
        del launch._work
    with pytest.raises(AssertionError, match="use after free"):
        largest_error(engine)


@pytest.mark.parametrize("graphs", [True, False])
def test_close_frees_everything_while_the_context_is_current(
    brightness: Bundle, install_double: InstallDouble, graphs: bool
) -> None:
    cuda, _ = install_double(graphs=graphs)
    engine = open_tensorrt(brightness)
    before = cuda.pinned_bytes
    assert before > 0
    features = np.ones((3, *engine.spec.feature_shape), np.float32)
    slots = np.arange(3, dtype=np.int32)
    thread = threading.Thread(target=lambda: engine.write_features(features, slots))
    thread.start()
    thread.join(60)
    np.testing.assert_array_equal(engine.read_features(slots), features)
    assert cuda.pinned_bytes == before
    engine.close()
    assert (cuda.pinned_bytes, cuda.memory) == (0, {})


def test_a_plan_of_a_graph_that_is_prepared_in_another_way_is_built_again(
    brightness: Bundle, install_double: InstallDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_double()
    open_tensorrt(brightness).close()
    prepare = engines.graphs.profiles.prepare_for_tensorrt

    def prepare_in_another_way(*args: object, **options: object) -> PreparedGraph:
        graph = prepare(*args, **options)  # type: ignore[arg-type]
        model = onnx.load_model_from_string(graph.onnx)
        model.producer_name = "another way"
        return dataclasses.replace(graph, onnx=model.SerializeToString())

    monkeypatch.setattr(engines.graphs.profiles, "prepare_for_tensorrt", prepare_in_another_way)
    _, compiler = install_double()
    open_tensorrt(brightness).close()
    assert len(compiler.requests) == 2


def test_a_build_may_use_half_of_the_free_memory(brightness: Bundle, install_double: InstallDouble) -> None:
    _, compiler = install_double(memory_bytes=140 << 30)
    open_tensorrt(brightness).close()
    assert [request.workspace_bytes for request in compiler.requests] == [70 << 30] * 2


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, (1,)), (2, (1, 2)), (5, (1, 2, 3, 4, 5)), (16, (1, 2, 3, 4, 6, 8, 12, 16)), (10, (1, 2, 3, 4, 6, 8, 10))],
)
def test_the_prepared_batch_sizes_end_with_the_largest_batch(max_batch: int, sizes: tuple[int, ...]) -> None:
    assert prepared_batches(max_batch) == sizes


def test_a_batch_is_padded_by_less_than_half_its_size() -> None:
    sizes = prepared_batches(256)
    assert len(sizes) == 16
    for count in range(1, 257):
        assert min(size for size in sizes if size >= count) < 1.5 * count or count == 1


def test_the_memory_layout_counts_every_buffer(brightness: Bundle, install_double: InstallDouble) -> None:
    cuda, _ = install_double(scratch_bytes=1000)
    engine = open_tensorrt(brightness, max_batch=4)
    layout = MemoryLayout(spec=brightness.spec, max_batch=4, bank_slots=SLOTS, scratch_bytes=4000)
    assert cuda.used == layout.total_bytes
    engine.close()

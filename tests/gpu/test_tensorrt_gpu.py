"""The TensorRT engine on a real GPU; run `python -m pytest tests/gpu -s`.

All tests here are skipped without a GPU, TensorRT and PyCUDA. The bundles in the folder `$STREAMCLF_GPU_BUNDLES` are
tested too, so a machine without torch can test models that were exported elsewhere.
"""

import importlib.util
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from support.bundles import make_reversed

from engines.activation import softmax
from engines.backends.choice import missing_libraries
from engines.backends.gpu import find_gpus
from engines.background_upgrade import move_features
from engines.bundle import INT8_ENCODER_FILE, Bundle, load_bundle
from engines.cache import cache_root
from engines.errors import ParityError
from engines.group import GroupOptions, open_group, open_next
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity
from engines.protocol import Engine, SharingEngine
from engines.throughput import measure_speed
from streamclf.builtin_models import BUNDLES, builtin_models

MISSING = ["an NVIDIA GPU"] * (not find_gpus()) + missing_libraries("tensorrt")
if MISSING:
    pytest.skip(f"needs {', '.join(MISSING)}", allow_module_level=True)

pytestmark = pytest.mark.timeout(1200)

PRECISIONS = ["fp32", "fp16", "bf16", "int8"]
EXTRA_BUNDLES = sorted(Path(os.environ.get("STREAMCLF_GPU_BUNDLES", "/nonexistent")).glob("*/spec.json"))
KINDS = ["vivit-encoder", "vivit-joint", "vivit-self", "vivit-dot", "hybrid-densenet121", "conv-transformer"]
SMALL_MODELS = [f"small {name}" for name in KINDS] if importlib.util.find_spec("torch") else []
"""Small sizes show every error that a GPU can make in an architecture; tests/gpu/bench.py runs the full sizes."""


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Share one cache among all tests, because plans of large models take minutes to build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(
    scope="module", params=[*builtin_models(), *(str(path.parent) for path in EXTRA_BUNDLES), *SMALL_MODELS]
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    if request.param in SMALL_MODELS:
        from support.gpu_models import gpu_bundle

        return gpu_bundle(tmp_path_factory.mktemp("bundles"), request.param.removeprefix("small "), small=True)
    return load_bundle(BUNDLES / request.param if request.param in builtin_models() else Path(request.param))


def open_tensorrt(bundle: Bundle, precision: str = "fp32", *, max_batch: int = 16, bank_slots: int = 64) -> Engine:
    return open_engine(
        bundle,
        backend="tensorrt",
        precision=precision,  # type: ignore[arg-type]
        max_batch=max_batch,
        bank_slots=bank_slots,
    )


def is_supported(bundle: Bundle, precision: str) -> bool:
    """Tell whether this TensorRT, and this bundle, has the precision."""
    from engines.backends.tensorrt.library import find_traits

    if precision == "int8" and INT8_ENCODER_FILE not in bundle.spec.files:
        return False
    return precision in find_traits().precisions


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_passes_the_golden_clip(bundle: Bundle, precision: str) -> None:
    if not is_supported(bundle, precision):
        pytest.skip(f"{precision} is not in this TensorRT, or not in this bundle")
    began = time.monotonic()
    engine = open_tensorrt(bundle, precision)
    seconds = time.monotonic() - began
    parity = check_parity(engine, bundle.golden())
    speed = measure_speed(engine)
    print(  # for docs/gpu.md
        json.dumps(
            {
                "model": bundle.spec.id,
                "engine": engine.description,
                "open_s": round(seconds, 1),
                "max_dp": parity.max_dp,
                "batch": speed.batch,
                "encodes_per_s": round(speed.encodes_per_s),
                "windows_per_s": round(speed.windows_per_s),
            }
        )
    )
    engine.close()


def test_overlapping_uploads_give_the_numbers_of_onnxruntime(bundle: Bundle) -> None:
    """On a real GPU uploads and computations overlap; the order of the work must stay the same."""
    engine = open_tensorrt(bundle)
    random = np.random.default_rng(0)
    chunks = random.integers(0, 256, (48, *bundle.spec.chunk_shape), np.uint8)
    order = random.permutation(64)[:48].astype(np.int32)
    encoder = ort.InferenceSession(str(bundle.encoder_path), providers=["CPUExecutionProvider"])
    head = ort.InferenceSession(str(bundle.head_path), providers=["CPUExecutionProvider"])
    count = 48 if bundle.spec.height < 100 else 16 + bundle.spec.chunks
    features = np.concatenate([encoder.run(None, {"frames": chunks[i : i + 8]})[0] for i in range(0, count, 8)])
    begin = 0
    while begin < count:
        size = int(random.integers(1, 17))
        part = chunks[begin : min(begin + size, count)].copy()
        engine.encode(part, order[begin : begin + len(part)])
        part[:] = 0
        begin += size
    windows = np.stack([random.permutation(count)[: bundle.spec.chunks] for _ in range(16)])
    expected = softmax(head.run(None, {"features": features[windows]})[0])
    for size in range(1, 17):
        actual = engine.classify(order[windows[:size]])
        np.testing.assert_allclose(actual, expected[:size], atol=TOLERANCE["fp32"])
    engine.close()


def test_features_can_come_from_another_engine(bundle: Bundle) -> None:
    """A service copies them after another backend has served while the plan was built."""
    chunks = bundle.spec.chunks
    exact = open_engine(bundle, backend="onnxruntime", precision="fp32", bank_slots=64)
    engine = open_tensorrt(bundle)
    for begin in range(0, chunks, 16):
        part = bundle.golden().frames[begin : begin + 16]
        exact.encode(part, np.arange(begin, begin + len(part), dtype=np.int32))
    move_features(exact, engine)
    exact.close()
    actual = engine.classify(np.arange(chunks, dtype=np.int32)[None])[0]
    np.testing.assert_allclose(actual, softmax(bundle.golden().logits), atol=TOLERANCE["fp32"])
    engine.close()


def test_another_head_is_opened_in_a_thread_and_shares_the_bank(bundle: Bundle, tmp_path: Path) -> None:
    """The group serves meanwhile, with CUDA graphs that another thread must not disturb."""
    reversed_labels = make_reversed(tmp_path / "reversed", bundle)
    options = GroupOptions(backend="tensorrt", precision="fp32", bank_slots=64)
    open_tensorrt(reversed_labels).close()  # its plan is in the cache
    group = open_group({"": bundle}, options).group
    slots = np.arange(bundle.spec.chunks, dtype=np.int32)
    for begin in range(0, len(slots), 16):
        group.encode(bundle.golden().frames[begin : begin + 16], slots[begin : begin + 16])
    before = group[""].classify(slots[None])
    found: list[SharingEngine] = []
    thread = threading.Thread(target=lambda: found.append(open_next(reversed_labels, group, options)))
    thread.start()
    while thread.is_alive():
        np.testing.assert_array_equal(group[""].classify(slots[None]), before)
    group.add("reversed", found[0])
    takes = group[""].submit(slots[None]), group["reversed"].submit(slots[None])
    np.testing.assert_array_equal(takes[0](), before)
    np.testing.assert_allclose(takes[1](), before[:, ::-1], atol=TOLERANCE["fp32"])
    group.remove("")
    np.testing.assert_allclose(group["reversed"].classify(slots[None]), before[:, ::-1], atol=TOLERANCE["fp32"])
    group.close()


def test_graphs_are_captured_and_calls_allocate_no_memory(bundle: Bundle) -> None:
    import pycuda.driver as driver

    engine = open_tensorrt(bundle)
    assert engine._graphs  # type: ignore[attr-defined]
    frames = np.zeros((16, *bundle.spec.chunk_shape), np.uint8)

    def free_bytes_after_calls() -> int:
        for size in (16, 1, 7, 16):
            engine.encode(frames[:size], np.arange(size, dtype=np.int32))
            engine.classify(np.zeros((size, bundle.spec.chunks), np.int32))
        with engine._cuda.active():  # type: ignore[attr-defined]
            return int(driver.mem_get_info()[0])

    free_bytes_after_calls()
    assert free_bytes_after_calls() == free_bytes_after_calls()
    engine.close()


def test_a_cached_plan_is_loaded_and_a_truncated_one_is_built_again(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    open_tensorrt(bundle).close()
    began = time.monotonic()
    open_tensorrt(bundle).close()
    print(f"{bundle.spec.id}: opened from the cache in {time.monotonic() - began:.2f} s")
    assert "building" not in caplog.text
    texts = (bundle.spec.files["head.onnx"].encode(), b'"precision": "fp32"')
    heads = {path: path.read_bytes()[:4096] for path in cache_root().glob("engines/*/head.plan")}
    path = next(path for path, head in heads.items() if all(text in head for text in texts))
    path.write_bytes(path.read_bytes()[:-1000])
    open_tensorrt(bundle).close()
    assert "truncated" in caplog.text


def test_an_engine_that_differs_from_the_golden_clip_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = bundle.golden()
    broken = type(golden)(frames=golden.frames, logits=-golden.logits)
    monkeypatch.setattr(Bundle, "golden", lambda self: broken)
    with pytest.raises(ParityError, match=r"max \|dp\|"):
        open_tensorrt(bundle)

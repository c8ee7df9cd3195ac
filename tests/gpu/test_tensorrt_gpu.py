"""The TensorRT engine on a real GPU. One command: `python -m pytest tests/gpu -s`.

Without a GPU, TensorRT and PyCUDA everything here is skipped. `$STREAMCLF_GPU_BUNDLES`, a folder of bundles, is proven
too: with it a machine without torch can prove models that were exported elsewhere.
"""

import importlib.util
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from engines.backends.choice import missing_libraries
from engines.backends.gpu import find_gpus
from engines.background_upgrade import move_features
from engines.bundle import INT8_ENCODER_FILE, Bundle, load_bundle
from engines.cache import cache_root
from engines.errors import ParityError
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity, softmax
from engines.protocol import Engine
from engines.throughput import measure_speed
from streamclf.builtin_models import BUNDLES, builtin_models

LACKING = ["an NVIDIA GPU"] * (not find_gpus()) + missing_libraries("tensorrt")
if LACKING:
    pytest.skip(f"needs {', '.join(LACKING)}", allow_module_level=True)

pytestmark = pytest.mark.timeout(1200)

PRECISIONS = ["fp32", "fp16", "bf16", "int8"]
EXTRA = sorted(Path(os.environ.get("STREAMCLF_GPU_BUNDLES", "/nonexistent")).glob("*/spec.json"))
KINDS = ["vivit-encoder", "vivit-joint", "vivit-self", "vivit-dot", "hybrid-densenet121", "conv-transformer"]
MADE = [f"small {name}" for name in KINDS] if importlib.util.find_spec("torch") else []
"""What a GPU can get wrong in an architecture shows in a small one; full sizes are tests/gpu/bench.py's."""


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests: plans of large models take minutes to build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=[*builtin_models(), *(str(path.parent) for path in EXTRA), *MADE])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    if request.param in MADE:
        from support.gpu_models import gpu_bundle

        return gpu_bundle(tmp_path_factory.mktemp("bundles"), request.param.removeprefix("small "), small=True)
    return load_bundle(BUNDLES / request.param if request.param in builtin_models() else Path(request.param))


def opened(bundle: Bundle, precision: str = "fp32", *, max_batch: int = 16, bank_slots: int = 64) -> Engine:
    return open_engine(
        bundle,
        backend="tensorrt",
        precision=precision,  # type: ignore[arg-type]
        max_batch=max_batch,
        bank_slots=bank_slots,
    )


def supported(bundle: Bundle, precision: str) -> bool:
    from engines.backends.tensorrt.library import find_traits

    if precision == "int8" and INT8_ENCODER_FILE not in bundle.spec.files:
        return False
    return precision in find_traits().precisions


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_golden_clip_in_every_precision(bundle: Bundle, precision: str) -> None:
    if not supported(bundle, precision):
        pytest.skip(f"{precision} is not in this TensorRT, or not in this bundle")
    began = time.monotonic()
    engine = opened(bundle, precision)
    seconds = time.monotonic() - began
    parity = check_parity(engine, bundle.golden())
    speed = measure_speed(engine)
    print(  # what docs/gpu.md is to quote
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


def test_bursts_on_two_streams_give_onnxruntimes_numbers(bundle: Bundle) -> None:
    """Uploads overlap computing here for real: nothing may overtake."""
    engine = opened(bundle)
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


def test_features_of_another_engine_are_taken(bundle: Bundle) -> None:
    """As when another backend has served while the plan was built."""
    chunks = bundle.spec.chunks
    exact = open_engine(bundle, backend="onnxruntime", precision="fp32", bank_slots=64)
    engine = opened(bundle)
    for begin in range(0, chunks, 16):
        part = bundle.golden().frames[begin : begin + 16]
        exact.encode(part, np.arange(begin, begin + len(part), dtype=np.int32))
    move_features(exact, engine)
    exact.close()
    actual = engine.classify(np.arange(chunks, dtype=np.int32)[None])[0]
    np.testing.assert_allclose(actual, softmax(bundle.golden().logits), atol=TOLERANCE["fp32"])
    engine.close()


def test_graphs_are_captured_and_calls_allocate_nothing(bundle: Bundle) -> None:
    import pycuda.driver as driver

    engine = opened(bundle)
    assert engine._graphs  # type: ignore[attr-defined]
    frames = np.zeros((16, *bundle.spec.chunk_shape), np.uint8)

    def use() -> int:
        for size in (16, 1, 7, 16):
            engine.encode(frames[:size], np.arange(size, dtype=np.int32))
            engine.classify(np.zeros((size, bundle.spec.chunks), np.int32))
        with engine._cuda.active():  # type: ignore[attr-defined]
            return int(driver.mem_get_info()[0])

    use()
    assert use() == use()
    engine.close()


def test_a_plan_is_loaded_the_second_time_and_a_truncated_one_is_not(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    opened(bundle).close()
    began = time.monotonic()
    opened(bundle).close()
    print(f"{bundle.spec.id}: opened from the cache in {time.monotonic() - began:.2f} s")
    assert "building" not in caplog.text
    wanted = (bundle.spec.files["head.onnx"].encode(), b'"precision": "fp32"')
    heads = {path: path.read_bytes()[:4096] for path in cache_root().glob("engines/*/head.plan")}
    path = next(path for path, head in heads.items() if all(part in head for part in wanted))
    path.write_bytes(path.read_bytes()[:-1000])
    opened(bundle).close()
    assert "truncated" in caplog.text


def test_a_wrong_golden_clip_never_opens(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = bundle.golden()
    broken = type(golden)(frames=golden.frames, logits=-golden.logits)
    monkeypatch.setattr(Bundle, "golden", lambda self: broken)
    with pytest.raises(ParityError, match=r"max \|dp\|"):
        opened(bundle)

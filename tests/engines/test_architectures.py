"""Every architecture that ships, in small: the graphs for each TensorRT generation, and the engine on the double.

The full shapes, ViViT-B/16x2 among them, go through the same in `pytest -m slow tests/engines/test_architectures.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.gpu_double import double_platform
from support.gpu_models import MODELS, gpu_bundle

import engines.backends.tensorrt
import engines.opening
from engines.bundle import Bundle
from engines.graphs.operators import OPSETS, PROFILES
from engines.graphs.profiles import Profile, prepare
from engines.graphs.surgery import opset_of
from engines.opening import open_engine
from engines.parity import TOLERANCE, check_parity


# DenseNet121 is no small network in small either: half a minute of the whole suite.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if "densenet" in name else ()) for name in MODELS],
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return gpu_bundle(tmp_path_factory.mktemp("bundles"), request.param, small=True)


def check_profiles(bundle: Bundle, profiles: tuple[Profile, ...], precision: str, *, items: int) -> None:
    """onnx.checker and the lint pass, and ONNX Runtime computes what it computes from the graph that was exported."""
    frames = bundle.golden().frames
    features = _run(bundle.encoder_path.read_bytes(), "frames", frames)
    for path, name, array in (
        (bundle.graphs(precision)[0], "frames", frames[:items]),
        (bundle.graphs(precision)[1], "features", features[None]),
    ):
        data = path.read_bytes()
        expected = _run(data, name, array)
        for profile in profiles:
            prepared = prepare(data, name=path.name, profile=profile, precision=precision)  # lints, and raises
            model = onnx.load_model_from_string(prepared.onnx)
            onnx.checker.check_model(model, full_check=True)
            assert opset_of(model) <= OPSETS[profile]
            error = np.abs(_run(prepared.onnx, name, array) - expected).max() / np.abs(expected).max()
            # A rounding to INT8 falls to the other side where LayerNorm's sum was added up in another order.
            limit = {"fp32": 1e-5, "int8": 2e-2, "fp16": 2e-2}[precision]
            assert error < limit, f"{path.name} for {profile} in {precision}: {error:.1e}"


def _run(data: bytes, name: str, array: np.ndarray) -> np.ndarray:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {name: array[i : i + 2]})[0] for i in range(0, len(array), 2)])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graphs_of_every_generation(bundle: Bundle, precision: str) -> None:
    check_profiles(bundle, PROFILES, precision, items=4)


@pytest.mark.parametrize("version", ["8.5.3.1", "11.4.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_engine_on_the_double(
    bundle: Bundle, version: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host side, profile and bank with features of every shape: the golden clip passes."""
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        engines.backends.tensorrt, "load_platform", lambda: double_platform(version=version, memory_bytes=1 << 32)
    )
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    engine = open_engine(bundle, backend="tensorrt", precision=precision, max_batch=3)  # type: ignore[arg-type]
    assert check_parity(engine, bundle.golden()).max_dp <= TOLERANCE[precision]
    engine.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_full_shapes(name: str, precision: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Minutes, 4 GB and more; with $STREAMCLF_GPU_BUNDLES the bundles that `tests/gpu/bench.py` made there."""
    folder = os.environ.get("STREAMCLF_GPU_BUNDLES") or str(tmp_path_factory.getbasetemp() / "full")
    check_profiles(gpu_bundle(Path(folder), name), PROFILES, precision, items=2)
